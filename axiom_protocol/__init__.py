"""What agent and server share: messages, metadata, result checks. Imports nothing else of Axiom."""

__version__ = "0.1.0"
