"""What agent and server share: messages, metadata, checks of results, and the verdict rule.

It imports nothing else of Axiom.
"""

__version__ = "0.2.0"
