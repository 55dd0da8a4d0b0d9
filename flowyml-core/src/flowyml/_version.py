"""The version of all three distributions, which move in lockstep."""

__version__ = "0.1.0"
