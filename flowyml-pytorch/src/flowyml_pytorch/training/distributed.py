"""A DataLoader that divides each batch among the processes of a group.

What the processes read together doesn't depend on how many there are: the batch size is that of
all of them, and the order follows from one seed and the epoch. So training with one process and
with several sees the same batches, and a number of processes can be chosen by the hardware alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

import flowyml
from flowyml.seeds import derived

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_Item = TypeVar("_Item")

_OWN = ("batch_sampler", "sampler")
"""Options of a loader that leave no order to be made here."""


class EpochSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` whose epoch advances by itself: each iterator is the next epoch's.

    `epoch` is the one that the next iterator goes through, 0 at first; ``set_epoch`` chooses
    another. An iterator in use keeps its own.
    """

    def __iter__(self) -> Iterator[int]:
        """Return this rank's indices of an epoch, and go on to the next."""
        indices = super().__iter__()
        self.epoch += 1
        return indices


def distributed_loader(
    dataset: Dataset[_Item],
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int | None = None,
    drop_last: bool | None = None,
    mesh: DeviceMesh | None = None,
    **loader_options: Any,
) -> DataLoader[_Item]:
    """Return a DataLoader of this process's share of every batch, for `flowyml.current`'s group.

    Alone, a process reads whole batches, in the same order. Make the loader inside of the step:
    one that is passed to it belongs to the process that made it.

    Each ``iter()`` of the loader begins the next epoch, from 0 on, in another order, also where
    the iterator before it wasn't used up; ``loader.sampler.epoch`` is the epoch of the next one,
    and ``loader.sampler.set_epoch(n)`` changes it. An epoch begins with its first batch, or at
    once where there are workers. An epoch that was left is gone through again, up to the same
    batch, after ``set_epoch`` of its number.

    Workers draw random numbers from seeds of their own on each rank, which follow from the seed
    and the rank unless you pass ``generator=``.

    Args:
        dataset: items by number; each process has all of them at hand.
        batch_size: samples in a batch of all processes together.
        shuffle: whether each epoch has an order of its own.
        seed: what the order follows from, the same in all processes; by default that of the
            running step, and 0 outside of steps.
        drop_last: whether the rest that fills no batch is left out of an epoch; by default when
            shuffled. If it isn't, the rest becomes a smaller batch, in which up to (number of
            processes - 1) samples from the beginning of the epoch come a second time, so that
            all processes have as many samples and batches.
        mesh: the one-dimensional mesh of the processes that divide the batches, where others
            hold parts of one model: the data-parallel part of a larger mesh. By default all
            processes divide them.
        loader_options: further arguments of the DataLoader, such as ``num_workers``.

    Raises:
        TypeError: when the dataset has no length, or an option decides the order instead.
        ValueError: when the processes can't have equal shares of a batch, or no batch would come.
    """
    _check_options(loader_options)
    length = _length(dataset)
    rank, processes = _place(mesh)
    drop_last = shuffle if drop_last is None else drop_last
    share = _share(batch_size, processes)
    if drop_last and length < batch_size:
        raise ValueError(
            f"the dataset has {length} samples, which fill no batch of {batch_size}, and what "
            f"fills none is left out. Pass a smaller batch_size, or drop_last=False"
        )
    seed = flowyml.current().seed or 0 if seed is None else seed
    sampler = EpochSampler(dataset, processes, rank, shuffle, seed, drop_last)
    if loader_options.get("generator") is None:
        loader_options["generator"] = torch.Generator().manual_seed(derived(seed, f"rank {rank}"))
    return DataLoader(dataset, share, sampler=sampler, drop_last=drop_last, **loader_options)


def _check_options(options: dict[str, Any]) -> None:
    given = ", ".join(f"{name}=" for name in _OWN if options.get(name) is not None)
    if given:
        raise TypeError(
            f"distributed_loader makes the sampler itself, and takes no {given}. To use your own, "
            f"make a DataLoader with one that yields this rank's share: see flowyml.current().rank"
        )


def _length(dataset: Any) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(type(dataset), "__len__"):
        raise TypeError(
            f"distributed_loader divides a dataset that has a length and items by number; "
            f"{type(dataset).__qualname__} hasn't. Let the dataset itself yield every "
            f"flowyml.current().world_size-th item from flowyml.current().rank on, and make a "
            f"DataLoader of it"
        )
    return len(dataset)


def _place(mesh: DeviceMesh | None) -> tuple[int, int]:
    """Return this process's number among those that divide the batches, and how many there are."""
    if mesh is None:
        context = flowyml.current()
        return context.rank, context.world_size
    if mesh.ndim != 1:
        raise ValueError(
            f"distributed_loader divides batches along one dimension; this mesh has {mesh.ndim}: "
            f"{mesh.mesh_dim_names or tuple(mesh.shape)}. Pass the data-parallel one, such as "
            f"mesh['data']"
        )
    return mesh.get_local_rank(), mesh.size()


def _share(batch_size: int, processes: int) -> int:
    """Return the samples of a batch that each process gets."""
    if batch_size < 1:
        raise ValueError(f"batch_size has to be 1 or more; got {batch_size}")
    if batch_size % processes:
        lower = batch_size - batch_size % processes
        fitting = " or ".join(str(size) for size in (lower, lower + processes) if size)
        raise ValueError(
            f"a batch of {batch_size} can't be divided equally among {processes} processes; "
            f"batch_size is that of all processes together. Pass {fitting}, or start another "
            f"number of processes"
        )
    return batch_size // processes
