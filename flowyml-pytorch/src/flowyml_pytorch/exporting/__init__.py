"""Formats without the model's class: exported programs, and safetensors files."""
