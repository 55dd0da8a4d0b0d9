"""What a user has written: loading a model with it needs trust where nobody has imported it."""

from __future__ import annotations

from torch import Tensor, nn


def halved(x: Tensor) -> Tensor:
    return x / 2


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.then = halved

    def forward(self, x: Tensor) -> Tensor:
        return self.then(x * self.inner(x).sigmoid())
