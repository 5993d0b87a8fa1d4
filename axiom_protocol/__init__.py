"""What the agent and the server must agree on. Imports nothing else of the project."""

__version__ = "0.1.0"
