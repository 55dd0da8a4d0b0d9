"""Sharded models that their processes save at once: the files are those of the whole model."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from flowyml import Store
from flowyml.errors import MaterializationError
from flowyml_pytorch.storing import common_file
from flowyml_pytorch.storing.common_file import Tally
from flowyml_pytorch.storing.frames import Frame, without_elements
from flowyml_pytorch.storing.shards import part_of, pieces

pytestmark = pytest.mark.xdist_group("together_sharded")

START = """
import copy, json, os, signal, sys, threading, time, warnings
from datetime import timedelta
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import (
    DTensor, Partial, Replicate, Shard, distribute_tensor, distribute_module,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel, RowwiseParallel, parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from flowyml import Model, Store

torch.set_num_threads(1)
rank, size, port = map(int, sys.argv[1:4])
dist.init_process_group(
    "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size,
    timeout=timedelta(seconds=int(os.environ.get("SECONDS", 60))),
)
mesh = init_device_mesh("cpu", (size,))
store, alone = Store("store"), Store("alone")

def make(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(70, 301), nn.ReLU(), nn.Linear(301, 300), nn.Linear(300, 70), nn.BatchNorm1d(70),
        nn.Linear(70, 1),
    )
    net[2].bias.requires_grad_(False)
    return net

def say(**found):
    print("FOUND" + json.dumps(found), flush=True)

def refused(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"

def files(asset):
    return [[file.path, file.digest] for file in asset.stored.files]
"""


def launch(folder: Path, text: str, size: int = 2) -> list[tuple[int, dict[str, Any], str]]:
    """Run a script in several processes; return exit code, what it said, and its errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    (folder / "script.py").write_text(START + text)
    started = [
        subprocess.Popen(
            [sys.executable, "script.py", str(rank), str(size), port],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    ended = []
    for process in started:
        out, err = process.communicate(timeout=240)
        said: dict[str, Any] = {}
        for line in out.splitlines():
            if line.startswith("FOUND"):
                said |= json.loads(line.removeprefix("FOUND"))
        ended.append((process.returncode, said, err))
    return ended


def finds(folder: Path, text: str, size: int = 2) -> list[dict[str, Any]]:
    """Run a script in several processes, all of which have to succeed."""
    ended = launch(folder, text, size)
    assert [code for code, _, _ in ended] == [0] * size, "\n".join(err for _, _, err in ended)
    return [said for _, said, _ in ended]


# What the files are.

SAVING = """
# Memory first, before anything else has taken some.
def memory(key):
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(key + ":"))
    return int(line.split()[1]) << 10

with torch.device("meta"):
    big = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(12)])
for layer in big:
    fully_shard(layer, mesh=mesh)
fully_shard(big, mesh=mesh).to_empty(device="cpu")
with torch.no_grad():
    for parameter in big.parameters():
        parameter.to_local().uniform_()
dist.barrier()
if sys.platform == "linux":
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = memory("VmRSS")
    store.save(big, "big")
    whole = sum(parameter.nbytes for parameter in big.parameters())
    say(whole=whole, above=memory("VmHWM") - before)

def hybrid(net):
    return fully_shard(net, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("r", "s")))

def both(net):
    flat = init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(net, flat["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return fully_shard(net, mesh=flat["dp"])

HOW = {
    "fsdp2": lambda net: fully_shard(net, mesh=mesh),
    "fsdp2 of layers": lambda net: fully_shard(net[2], mesh=mesh) and fully_shard(net, mesh=mesh),
    "hsdp": hybrid,
    "tensor-parallel": lambda net: parallelize_module(
        net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}
    ),
    "replicated": lambda net: distribute_module(net, mesh),
    "fsdp2 of tensor-parallel": both,
}
for how, wrap in HOW.items():
    warnings.simplefilter("ignore")
    name = how.replace(" ", "_")
    whole, net = make(), wrap(make())
    saved = store.save(net, name)
    if rank == 0:
        plain = alone.save(whole, name)
        say(**{how: [saved.version, files(saved) == files(plain), saved.digest == plain.digest]})
    else:
        say(**{how: [saved.version, True, True]})

flat = FullyShardedDataParallel(make(), device_id=torch.device("cpu"), use_orig_params=True)
say(fsdp1=[store.save(flat, "fsdp1").version, store.versions("fsdp1")])

# Other formats and containers.
net = fully_shard(make(), mesh=mesh)
store.save(net, "weights", format="state_dict")
store.save(net, "exchanged", format="safetensors")
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(4, 70)).sum().backward()
optimizer.step()
state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}
saved = store.save(state, "checkpoint")
store.save({"net": net, "optimizer": optimizer}, "both")

def gathered(item):
    if isinstance(item, dict):
        return type(item)((key, gathered(value)) for key, value in item.items())
    return item.full_tensor() if isinstance(item, DTensor) else item

whole = gathered(state)
vars(whole["model"])["_metadata"] = state["model"]._metadata
if rank == 0:
    say(checkpoint=alone.save(whole, "checkpoint").digest == saved.digest)
torch.manual_seed(0)
columns = torch.randn(6, 40, 8, 8).contiguous(memory_format=torch.channels_last)
data = [
    distribute_tensor(columns, mesh, [Shard(0)]),
    distribute_tensor(torch.arange(90_000.0).view(300, 300).t(), mesh, [Shard(1)]),
    distribute_tensor(torch.ones(1, 3, dtype=torch.bfloat16), mesh, [Shard(0)]),
    distribute_tensor(torch.zeros(0, 4), mesh, [Shard(0)]),
    distribute_tensor(torch.randn(50_000, dtype=torch.complex128), mesh, [Shard(0)]),
    torch.ones(2),
]
saved = store.save(data, "data")
say(data=all(map(torch.equal, map(gathered, data), store.load("data"))))
model = Model.from_pytorch(net, "described").save(store)
say(world=[model.metadata.properties["wrapper"], model.metadata.properties["world_size"]])
ddp = Model.from_pytorch(DistributedDataParallel(make())).metadata.properties
say(ddp=[ddp["wrapper"], ddp["world_size"]])
say(alone=Model.from_pytorch(make()).metadata.properties["world_size"])

# What has not changed is not written again.
net = make()
net = fully_shard(net, mesh=mesh)
first = store.save(net, "again")
equal = store.save(net, "again")
with torch.no_grad():
    if rank == 1:
        net[0].weight.to_local()[-1] += 1  # only one of the processes sees a change
third = store.save(net, "again")
say(again=[first.digest == equal.digest, files(first) == files(equal), third.digest != first.digest,
           third.version, len({*map(tuple, files(third))} - {*map(tuple, files(first))})])
whole = make()
with torch.no_grad():
    whole[0].weight[-1] += 1
say(changed=torch.equal(store.load("again", format="state_dict")["0.weight"], whole[0].weight))

# Training goes on while another thread saves.
waiting = threading.Thread(target=lambda: [store.save(net, "aside") for _ in range(5)])
waiting.start()
rounds = 0
while True:
    done = torch.tensor([float(not waiting.is_alive())])
    dist.all_reduce(done)
    rounds += 1
    if done.item() == size:
        break
say(rounds=rounds, aside=store.versions("aside"))

# What can't be saved.
partial = DTensor.from_local(torch.ones(3), mesh, [Partial()])
say(partial=refused(lambda: store.save({"sum": partial}, "partial")))
unlike = fully_shard(nn.Linear(3, 4 + rank), mesh=mesh)
say(unlike=refused(lambda: store.save(unlike, "unlike")))
extra = fully_shard(nn.Sequential(nn.Linear(3, 4), *[nn.Linear(4, 4)] * rank), mesh=mesh)
say(extra=refused(lambda: store.save(extra, "extra")))
say(kinds=refused(lambda: store.save(unlike if rank else [unlike.weight], "kinds")))
say(left=os.listdir("store/staging"), names=store.names())
dist.barrier()
dist.destroy_process_group()
"""

WAYS = (
    "fsdp2", "fsdp2 of layers", "hsdp", "tensor-parallel", "replicated",
    "fsdp2 of tensor-parallel",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return finds(folder, SAVING)


def whole_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(70, 301), nn.ReLU(), nn.Linear(301, 300), nn.Linear(300, 70)),
        *(nn.BatchNorm1d(70), nn.Linear(70, 1)),
    )


@pytest.mark.parametrize("how", WAYS)
def test_the_files_are_those_of_the_whole_model(found: list[dict[str, Any]], how: str) -> None:
    assert [said[how] for said in found] == [["v1", True, True]] * 2


@pytest.mark.parametrize("how", WAYS)
def test_one_process_loads_what_several_saved(
    found: list[dict[str, Any]], folder: Path, how: str
) -> None:
    loaded = Store(folder / "store").load(how.replace(" ", "_"))
    for there, here in zip(loaded.parameters(), whole_model().parameters(), strict=True):
        assert type(there) is nn.Parameter
        assert torch.equal(there, here)


def test_what_the_first_fsdp_sharded_is_one_version_too(
    found: list[dict[str, Any]], folder: Path
) -> None:
    assert [said["fsdp1"] for said in found] == [["v1", ["v1"]]] * 2
    filled = Store(folder / "store").load("fsdp1", into=nn.Sequential(*whole_model().double()))
    for there, here in zip(filled.parameters(), whole_model().parameters(), strict=True):
        assert torch.equal(there.float(), here)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_saving_takes_little_memory_besides_the_shards(found: list[dict[str, Any]]) -> None:
    for said in found:
        assert said["whole"] > 200e6
        assert said["above"] < 0.6 * said["whole"]


def test_other_formats_and_containers_are_saved_together(
    found: list[dict[str, Any]], folder: Path
) -> None:
    store = Store(folder / "store")
    expected = whole_model().state_dict()
    for name in ("weights", "exchanged"):
        loaded = store.load(name)
        assert all(torch.equal(loaded[key], item) for key, item in expected.items())
        assert store.versions(name) == ["v1"]
    assert found[0]["checkpoint"] is True
    both = store.load("both")
    assert both["optimizer"].param_groups[0]["params"][0] is both["net"][0].weight
    state = both["optimizer"].state[both["net"][0].weight]
    assert torch.equal(
        state["exp_avg"], store.load("checkpoint")["optimizer"]["state"][0]["exp_avg"]
    )


def test_tensors_of_any_layout_and_type_come_back(found: list[dict[str, Any]]) -> None:
    assert [said["data"] for said in found] == [True, True]


def test_how_many_processes_there_were_is_recorded(found: list[dict[str, Any]]) -> None:
    for said in found:
        assert said["world"] == ["FSDPModule", 2]
        assert said["ddp"] == ["DistributedDataParallel", 2]
        assert said["alone"] is None


def test_what_is_equal_in_all_processes_is_not_written_again(found: list[dict[str, Any]]) -> None:
    for said in found:
        assert said["again"] == [True, True, True, "v3", 1]
        assert said["changed"] is True


def test_another_thread_saves_while_training_communicates(found: list[dict[str, Any]]) -> None:
    for said in found:
        assert said["rounds"] > 1
        assert said["aside"] == ["v1", "v2", "v3", "v4", "v5"]


def test_what_cannot_be_saved_is_refused_by_all(found: list[dict[str, Any]]) -> None:
    for said in found:
        assert "Redistribute it before saving" in said["partial"]
        assert "rank 0 has a part of a tensor of float32, shape [4, 3]" in said["unlike"]
        assert "rank 1 has a part of a tensor of float32, shape [5, 3]" in said["unlike"]
        assert "rank 0 has nothing, and rank 1 has a part of a tensor" in said["extra"]
        assert "materializer is 'pytorch.value' on rank 0 and 'pytorch.module'" in said["kinds"]
        assert said["left"] == []
        assert not {"partial", "unlike", "extra", "kinds"} & {*said["names"]}


def test_the_store_of_them_all_is_intact(found: list[dict[str, Any]], folder: Path) -> None:
    Store(folder / "store").verify()


LOADING = """
for name, wrap in {
    "fsdp2": lambda net: fully_shard(net, mesh=mesh),
    "tensor-parallel": lambda net: parallelize_module(
        net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()}
    ),
}.items():
    into = wrap(make(1))
    store.load("hsdp", into=into)
    whole = make()
    pairs = zip(into.parameters(), whole.parameters(), strict=True)
    say(**{name: all(
        torch.equal(there.full_tensor() if isinstance(there, DTensor) else there, here)
        for there, here in pairs
    )})
tensors = {"a": distribute_tensor(torch.zeros(7, 5), mesh, [Shard(0)])}
if rank == 0:
    alone.save({"a": torch.arange(35.0).view(7, 5)}, "a")
dist.barrier()
alone.load("a", into=tensors)
say(a=torch.equal(tensors["a"].full_tensor(), torch.arange(35.0).view(7, 5)))
net = fully_shard(make(), mesh=mesh)
say(three=store.save(net, "three").digest)
dist.barrier()
dist.destroy_process_group()
"""


def test_another_number_of_processes_loads_and_saves_the_same(
    found: list[dict[str, Any]], folder: Path
) -> None:
    store = Store(folder / "store")
    for said in finds(folder, LOADING, size=3):
        assert (said["fsdp2"], said["tensor-parallel"], said["a"]) == (True, True, True)
        assert said["three"] == store.get("fsdp2").digest


# When a process ends in the middle.

KILLED = """
from flowyml_pytorch.storing import common_file
net = fully_shard(make(), mesh=mesh)
store.save(net, "net")
dist.barrier()
written = common_file._write
def write(*arguments):
    written(*arguments)
    if rank == int(os.environ["WHO"]):
        os.kill(os.getpid(), signal.SIGKILL)
common_file._write = write
with torch.no_grad():
    for parameter in net.parameters():
        parameter.add_(1)
begun = time.monotonic()
say(refused=refused(lambda: store.save(net, "net")), after=time.monotonic() - begun)
os._exit(0)  # the process group can't be taken down in order any more
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills processes")
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_is_killed_leaves_no_half_of_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: int
) -> None:
    monkeypatch.setenv("WHO", str(who))
    monkeypatch.setenv("SECONDS", "5")
    ended = launch(tmp_path, KILLED)
    assert ended[who][0] == -signal.SIGKILL
    code, said, err = ended[1 - who]
    assert code == 0, err
    store = Store(tmp_path / "store")
    assert said["refused"].split(":")[0] != "nothing was refused"
    assert store.versions("net") == ["v1"]
    store.verify()
    assert torch.equal(store.load("net")[0].weight, whole_model()[0].weight)
    store.gc(grace=0)
    assert [*(store.path / "staging").iterdir()] == []
    files = store.get("net").stored
    assert files is not None
    assert store.stats().blobs == len({file.digest for file in files.files})


# The pieces, without processes.

DTYPES = ("bool", "uint8", "int16", "float16", "bfloat16", "float32", "float64", "complex64",
          "complex128", "uint16", "float8_e4m3fn")  # fmt: skip


def file_of(tensor: Tensor, path: Path) -> bytes:
    with path.open("wb", buffering=0) as sink:
        torch.save(tensor, Sink(sink))
    return path.read_bytes()


class Sink:
    def __init__(self, file: Any) -> None:
        self.write, self.flush = file.write, file.flush


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (1000, 70), (2, 3, 4)])
def test_a_frame_with_elements_is_the_file_that_torch_writes(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    kind = getattr(torch, dtype)
    tensor = torch.randint(0, 255, (math.prod(shape) * kind.itemsize,), dtype=torch.uint8)
    tensor = (tensor % 2 if kind is torch.bool else tensor).view(kind).view(shape)
    tensor = tensor.mT.contiguous().mT if len(shape) > 2 else tensor
    alike = without_elements(tensor.shape, tensor.stride(), kind, "cpu")
    frame, path = Frame.of(alike), tmp_path / "0.pt"
    frame.write(path)
    order = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)
    with path.open("r+b") as file:
        file.seek(len(frame.before))
        file.write(bytes(order.tolist()))
    _, checksum, tally = common_file.read_through(path, len(frame.before), alike)
    frame.finish(path, checksum)
    assert path.read_bytes() == file_of(tensor, tmp_path / "torch.pt")
    assert tally == Tally.of(tensor).plus(Tally())


def arrangements(count: int) -> Iterator[tuple[Any, ...]]:
    """Yield shapes, meshes, and how the one lies on the other; always the same ones."""
    draw = random.Random(0)
    shapes = [(8, 6), (7, 5), (5,), (1, 3), (3, 1, 4), (2,), (0, 4), (12, 5, 2)]
    for _ in range(count):
        shape, mesh = draw.choice(shapes), draw.choice([(2,), (3,), (2, 2), (3, 2)])
        along = range(len(shape))
        ways = [Replicate(), *map(Shard, along)]
        ways += [_StridedShard(n, split_factor=k) for n in along for k in (2, 3)]
        yield shape, mesh, [draw.choice(ways) for _ in mesh]


@pytest.fixture
def ranks() -> Iterator[Any]:
    """Return what makes this process any rank of any group, without the others."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def become(rank: int, mesh: Sequence[int]) -> Any:
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=math.prod(mesh))
        return init_device_mesh("cpu", tuple(mesh))

    yield become
    if dist.is_initialized():
        dist.destroy_process_group()


def test_the_pieces_of_all_processes_are_the_whole(tmp_path: Path, ranks: Any) -> None:
    for number, (shape, mesh, placements) in enumerate(arrangements(150)):
        whole = torch.arange(1, math.prod(shape) + 1).view(shape)
        whole = whole.t().contiguous().t() if number % 3 == 0 and whole.dim() == 2 else whole
        path, told = tmp_path / str(number), f"{shape} on {mesh}: {placements}"
        path.write_bytes(bytes(whole.nbytes))
        wrote = Tally()
        for rank in range(math.prod(mesh)):
            here = distribute_tensor(whole, ranks(rank, mesh), placements, src_data_rank=None)
            parts = pieces(here, number)
            wrote = wrote.plus(common_file.put(path, 0, parts, whole.stride()))
            assert common_file.holds(path, 0, parts, whole.stride())
            assert torch.equal(part_of(whole, here)._local_tensor, here._local_tensor), told
        assert torch.equal(common_file.read(path, 0, whole, wrote), whole), told


def test_what_a_file_system_loses_is_noticed(tmp_path: Path) -> None:
    path, whole = tmp_path / "file", torch.arange(100)
    path.write_bytes(whole.numpy().tobytes())
    wrote = Tally.of(whole)
    assert torch.equal(common_file.read(path, 0, whole, wrote), whole)
    for start, lost in itertools.product((0, 400), (8, 80)):
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(range(1, lost + 1)))
        with pytest.raises(MaterializationError, match="let several processes write into one file"):
            common_file.read(path, 0, whole, wrote)
