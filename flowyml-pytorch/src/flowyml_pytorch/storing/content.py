"""What makes up the content of stored tensors: a digest for each, computed from memory.

Of a plain tensor count its data type, shape, strides and elements, wherever they lie in files; of
any other one counts the file that ``torch.save`` writes for it. Saving and recognising an object
both come here, so that an object is recognised as what a store holds of it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import torch
from torch import Tensor

from flowyml.digests import digest_of_bytes, hasher
from flowyml.errors import FlowymlError, MaterializationError, told
from flowyml_pytorch.storing.layout import bytes_of, is_own, name_of, within

_LARGE = 1 << 20
"""Bytes from which on a thread costs less than waiting for the digest."""


def digests_of(stored: Sequence[Tensor]) -> list[str]:
    """Return the digests of stored tensors, writing nothing.

    Raises:
        MaterializationError: when one can't be stored.
    """
    return [
        digest_of_elements(on_cpu(tensor)) if is_own(tensor) else _digest_of_file(tensor)
        for tensor in stored
    ]


def digest_of_elements(tensor: Tensor) -> str:
    """Return the digest of a plain tensor that `on_cpu` returned; no device is part of it."""
    return digest_of_bytes(description(tensor), bytes_of(tensor))


def description(tensor: Tensor) -> bytes:
    """Return what counts of a plain tensor besides its elements."""
    described = [name_of(tensor.dtype), list(tensor.shape), list(tensor.stride())]
    return json.dumps(described).encode()


def on_cpu(tensor: Tensor) -> Tensor:
    """Return a dense tensor on the CPU whose storage is all its own; copies only from devices."""
    if tensor.device.type != "cpu":
        flat = tensor.as_strided((tensor.numel(),), (1,)).cpu()
        return flat.as_strided(tensor.shape, tensor.stride())
    start = int(tensor.storage_offset()) * tensor.element_size()
    return within(tensor.untyped_storage(), start, tensor.shape, tensor.stride(), tensor.dtype)


def write_unusual(tensor: Tensor, sink: Any) -> None:
    """Let torch write a tensor that is more than its bytes, whatever it warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(tensor, sink)


def _digest_of_file(tensor: Tensor) -> str:
    """Return the digest of the file that an unusual tensor would be."""
    sink = _Digest()
    try:
        write_unusual(tensor, sink)
    except FlowymlError:
        raise
    except Exception as error:
        raise MaterializationError(
            f"A tensor of {tensor.dtype} and shape {[*tensor.shape]} can't be written by "
            f"torch.save, so it has no digest: {told(error)}"
        ) from error
    return sink.hexdigest()


class _Digest:
    """What ``torch.save`` writes to in place of a file."""

    def __init__(self) -> None:
        hashing = hasher()
        self.write = hashing.update
        self.hexdigest = hashing.hexdigest

    def flush(self) -> None:
        """There is nothing to flush."""


class Digesting:
    """Computes the digests of tensors while they are written."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def of(self, tensor: Tensor) -> Callable[[], str]:
        """Begin with a plain tensor on the CPU; what is returned waits for the digest."""
        if tensor.nbytes < _LARGE:
            digest = digest_of_elements(tensor)
            return lambda: digest
        self._pool = self._pool or ThreadPoolExecutor(1, "flowyml-digest")
        return self._pool.submit(digest_of_elements, tensor).result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
