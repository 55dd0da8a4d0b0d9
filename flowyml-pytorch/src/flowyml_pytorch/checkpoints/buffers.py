"""A copy of a state in memory that is kept and filled again, so that a save costs only the copying.

Fresh memory costs several times what copying into it does: the system clears it page by page. So
the buffers stay, can be made ready beforehand, and are pinned for what comes from CUDA.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from flowyml_pytorch.checkpoints.plain import mapped
from flowyml_pytorch.storing.layout import is_strided, storage_of
from flowyml_pytorch.storing.sharded import is_sharded

_THREADS = min(4, os.cpu_count() or 1)
_WORTH_A_THREAD = 8 << 20
"""Bytes from which on copying takes longer than handing it to threads."""

_Kind = tuple[tuple[int, ...], tuple[int, ...], torch.dtype, bool]
"""Shape, strides, data type, and whether the memory is pinned."""

_Pair = tuple[Tensor, Tensor]
"""What to copy to, and from."""

_Place = tuple[Any, ...]
"""Where the elements of a tensor are: the same for tensors that are tied."""


class Buffers:
    """Memory for one copy of a state."""

    def __init__(self) -> None:
        self._pool: defaultdict[_Kind, list[Tensor]] = defaultdict(list)
        self._preparing: threading.Thread | None = None
        self._threads: ThreadPoolExecutor | None = None

    def prepare(self, tensors: Iterable[Tensor]) -> None:
        """Make memory ready for tensors like these, in the background."""
        places = {_place(here): _kind(here) for here in map(_local, tensors) if _is_copied(here)}
        wanted = Counter(places.values())
        self._ready()

        def allocate() -> None:
            for kind, count in wanted.items():
                while len(self._pool[kind]) < count:
                    self._pool[kind].append(_allocated(kind).zero_())

        self._preparing = threading.Thread(target=allocate, name="flowyml buffers", daemon=True)
        self._preparing.start()

    def _ready(self) -> None:
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None

    def copy(self, state: Any, *, only_shards: bool = False) -> Any:
        """Return a state with copies of its tensors, in the memory of the copy before.

        Args:
            state: plain containers with tensors.
            only_shards: leave tensors as they are that aren't sharded: another process copies
                them, and here only their shapes count.

        Raises:
            UnfitStateError: when it holds more than plain data and tensors.
        """
        self._ready()
        used: Counter[_Kind] = Counter()
        copies: dict[_Place, Tensor] = {}
        pairs: list[_Pair] = []

        def buffer(tensor: Tensor) -> Tensor:
            if not _is_copied(tensor):
                return tensor.detach().clone()
            place = _place(tensor)
            if place not in copies:
                kind = _kind(tensor)
                if used[kind] == len(self._pool[kind]):
                    self._pool[kind].append(_allocated(kind))
                copies[place] = self._pool[kind][used[kind]]
                used[kind] += 1
                pairs.append((copies[place], tensor.detach()))
            return copies[place]

        def convert(tensor: Tensor) -> Tensor:
            if is_sharded(tensor):
                return _with_shard(tensor, buffer(_local(tensor)))
            return tensor if only_shards else buffer(tensor)

        copied = mapped(state, convert)
        self._fill(pairs)
        return copied

    def _fill(self, pairs: list[_Pair]) -> None:
        """Copy, in as many threads as memory is fast for."""
        if sum(source.nbytes for _, source in pairs) < _WORTH_A_THREAD or _THREADS == 1:
            _copy(pairs)
        else:
            self._threads = self._threads or ThreadPoolExecutor(_THREADS, "flowyml-copy")
            list(self._threads.map(_copy, _divided(pairs)))
        for device in {source.device for _, source in pairs if source.device.type != "cpu"}:
            torch.accelerator.synchronize(device)


def _copy(pairs: list[_Pair]) -> None:
    with torch.no_grad():
        for target, source in pairs:
            if source.device.type == "cpu" and source.stride() == target.stride():
                # Threads of torch's own would wait for each other where others need the cores.
                ctypes.memmove(target.data_ptr(), source.data_ptr(), target.nbytes)
            else:
                target.copy_(source, non_blocking=True)


def _divided(pairs: list[_Pair]) -> list[list[_Pair]]:
    """Divide among threads, to each about the same number of bytes."""
    shares: list[list[_Pair]] = [[] for _ in range(_THREADS)]
    sizes = [0] * _THREADS
    for pair in sorted(pairs, key=lambda pair: -pair[1].nbytes):
        least = sizes.index(min(sizes))
        shares[least].append(pair)
        sizes[least] += pair[1].nbytes
    return shares


def _local(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    if not is_sharded(tensor):
        return tensor
    shard: Any = tensor
    local: Tensor = shard.detach().to_local()
    return local


def _with_shard(tensor: Tensor, local: Tensor) -> Tensor:
    """Return a sharded tensor with another shard, which may be on another device than the mesh."""
    kind: Any = type(tensor)
    sharded: Any = tensor
    made: Tensor = kind(local, sharded._spec, requires_grad=False)
    return made


def _is_copied(tensor: Tensor) -> bool:
    """Tell whether a tensor is nothing but its elements."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer)
    return plain and is_strided(tensor) and not tensor.is_meta


def _place(tensor: Tensor) -> _Place:
    where = storage_of(tensor), tensor.storage_offset()
    return (*where, tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def _kind(tensor: Tensor) -> _Kind:
    like = torch.empty_like(tensor, device="meta")  # whose strides have no gaps
    return tuple(like.shape), tuple(like.stride()), like.dtype, tensor.device.type == "cuda"


def _allocated(kind: _Kind) -> Tensor:
    shape, strides, dtype, pinned = kind
    return torch.empty_strided(shape, strides, dtype=dtype, device="cpu", pin_memory=pinned)
