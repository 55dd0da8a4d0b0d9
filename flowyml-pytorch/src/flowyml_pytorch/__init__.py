"""The PyTorch adapter of flowyml: describes, saves and loads modules and tensors.

flowyml discovers it by its entry point; there is nothing to import for everyday use. Importing
this package doesn't import torch.
"""

__version__ = "0.1.0"
