"""Checkpoints: training that is saved while it goes on, and gone on with after it was killed."""

from flowyml_pytorch.checkpoints.checkpoint import Checkpoint

__all__ = ["Checkpoint"]
