"""Storing: objects as JSON and tensors in files, and back without running code from them."""
