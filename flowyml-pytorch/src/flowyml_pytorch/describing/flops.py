"""Formulas for floating-point operations: torch's registry, and what it lacks on the CPU.

A multiplication with an addition counts as two operations.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_flop

aten = torch.ops.aten


def _grouped_mm_flops(a: Tensor, b: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Count a matrix product per group; rows are shared out, so each is multiplied once."""
    if a.dim() == 3 or b.dim() == 3:
        return 2 * prod(out_val.shape) * a.shape[-1]
    return 2 * prod(a.shape) * b.shape[-1]


def _rnn_layer_flops(x: Tensor, w0: Tensor, w1: Tensor, *_: Any, **__: Any) -> int:
    """Count the two matrix products of every time step; x has the shape (time, batch, width)."""
    return 2 * x.shape[0] * x.shape[1] * (w0.numel() + w1.numel())


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # torch's registry counts what GPUs run; these are what the CPU runs in their place.
    aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    aten._grouped_mm: _grouped_mm_flops,
    aten.mkldnn_rnn_layer: _rnn_layer_flops,
}
"""How to count an operator, by its overload packet; called with its arguments and ``out_val``."""
