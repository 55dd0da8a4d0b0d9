"""Describing a module: what `Model.from_pytorch` finds out."""
