"""Quantized layers: their packed weights and settings, taken apart and put together."""
