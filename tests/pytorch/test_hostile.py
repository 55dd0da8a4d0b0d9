"""What a stranger can put into a store or an exported folder, with every digest right.

Nothing of it may run code, crash, hang, or take memory without bound. So each artifact is opened in
a process of its own, which is forked from one that has torch and some classes of a user's: those
leave a mark wherever code of theirs runs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from flowyml import Store, encoding
from flowyml.digests import digest_of_bytes
from flowyml.store import manifest
from flowyml.stored import StoredFile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads its own size")

LONGEST = 2.5
"""Seconds that opening any artifact of this file may take."""

# Classes that the process of a user has imported. Every way into them leaves a mark.
VICTIM = """
import torch
from torch import nn
def mark(*what):
    with open("pwned", "a") as file: print(*what, file=file)
class Net(nn.Module):
    def __init__(self, *a, **k): super().__init__(); mark("Net()", a)
    def forward(self, *a): mark("forward", a)
class Data(torch.utils.data.Dataset):
    def __init__(self, *a, **k): mark("Data()", a)
    def __getitem__(self, index): mark("item", index); return index
    def __len__(self): mark("len"); return 3
    def __iter__(self): mark("iter"); yield 1
class Property(nn.Module):
    @property
    def weight(self): mark("property"); raise AttributeError("weight")
class Accessed(nn.Conv2d):
    def __getattr__(self, name): mark("get", name); return super().__getattr__(name)
    def __setattr__(self, name, item): mark("set", name); super().__setattr__(name, item)
class Descended(nn.Module):
    def __init_subclass__(cls): mark("subclass", cls)
class Restored(nn.Module):
    def __setstate__(self, state): mark("setstate")
class Sgd(torch.optim.SGD): pass
class Told(nn.Module):
    def extra_repr(self): mark("repr"); return ""
class Flat(nn.LSTM):
    def flatten_parameters(self): mark("flatten")
    def __setattr__(self, name, item): mark("set", name); super().__setattr__(name, item)
class Padded(nn.Conv2d):
    @property
    def padding_mode(self): mark("property"); return "zeros"
class Grouped(torch.optim.SGD):
    @property
    def param_groups(self): mark("property"); return []
class Assigned(torch.optim.SGD):
    def __setattr__(self, name, item): mark("set", name); super().__setattr__(name, item)
"""

# Each line that it reads is an artifact's folder and what to do there; each line that it writes
# says how that ended: with an object, an error of flowyml, another one, a signal, or not in time.
SERVER = """
import gc, json, os, resource, signal, sys, time, warnings
import torch
from torch import nn
torch.set_num_threads(1)
import numpy, victim
import flowyml_pytorch.exporting.programs, flowyml_pytorch.exporting.safetensors_file
import flowyml_pytorch.storing.formats, flowyml_pytorch.storing.values
from flowyml import Store, adapters
from flowyml.errors import FlowymlError
adapters.materializer("pytorch.module"), adapters.materializer("core.numpy")
gc.freeze()  # so that a child that collects garbage needs no copy of all that

def limit(kind, size):
    resource.setrlimit(kind, (size, size))

def act(code):
    with open("/proc/self/statm") as file:
        here = int(file.read().split()[0]) * 4096
    limit(resource.RLIMIT_AS, here + (1 << 30))
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, 64 << 20)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    parameters = [nn.Parameter(torch.zeros(4))]
    sgd = torch.optim.SGD(parameters, lr=0.1)
    try:
        found = eval(code, {**globals(), "store": Store("store"), "sgd": sgd})
        told = "object", type(found).__name__
        del found
        gc.collect()
    except FlowymlError as error:
        told = "refused", f"{type(error).__name__}: {error}"
    except BaseException as error:
        told = "raised", f"{type(error).__name__}: {error}"
    return told

def trial(function):
    try:
        function()
    except FlowymlError:
        pass

def ended(child, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return ("killed", f"signal {status & 127}") if status & 127 else None
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung", f"{seconds} seconds"

for line in sys.stdin:
    folder, code, seconds = json.loads(line)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        told = act(code)
        os.write(writing, json.dumps([told[0], told[1][:2000]]).encode())
        os._exit(0)
    os.close(writing)
    bad = ended(child, seconds)
    with open(reading) as pipe:
        told = pipe.read()
    print(json.dumps(bad or json.loads(told)), flush=True)
"""


@attrs.frozen
class Outcome:
    """How opening an artifact ended, and what code of a user's ran meanwhile."""

    how: str
    what: str
    ran: str


class Process:
    """The server."""

    def __init__(self, folder: Path) -> None:
        (folder / "victim.py").write_text(VICTIM)
        (folder / "server.py").write_text(SERVER)
        self._server = subprocess.Popen(
            [sys.executable, "server.py"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )

    def open(self, folder: Path, code: str = "store.load('e')") -> Outcome:
        """Do something with the store in a folder."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        (folder / "pwned").unlink(missing_ok=True)
        print(json.dumps([str(folder), code, LONGEST]), file=self._server.stdin, flush=True)
        how, what = json.loads(self._server.stdout.readline())
        marker = folder / "pwned"
        return Outcome(how, what, marker.read_text() or "?" if marker.exists() else "")

    def close(self) -> None:
        """End it."""
        self._server.communicate()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    server = Process(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


def assert_harmless(found: Outcome) -> None:
    """Nothing ran, and it ended with an object or an error of flowyml, within bounds."""
    assert found.ran == "", found
    assert found.how in ("refused", "object"), found
    for sign in ("MemoryError", "allocate"):
        assert sign not in found.what, found


def assert_refused(found: Outcome, *errors: str) -> None:
    assert_harmless(found)
    assert found.how == "refused", found
    assert not errors or found.what.startswith(errors), found


# ------------------------------------------------------------------------------ a forger's tools


def saved_tensor(tensor: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(tensor, stream)
    return stream.getvalue()


ZEROS = saved_tensor(torch.zeros(4))
ROW: list[Any] = ["0" * 64, "tensors/w.pt", None, "float32", [4], [1]]


def forge(store: Path, files: dict[str, bytes], /, **members: Any) -> Path:
    """Write a version as a stranger would: with every digest right. Returns the manifest."""
    store.mkdir(parents=True, exist_ok=True)
    (store / "store.json").write_bytes(encoding.dumps({"layout": 1}))
    listed = []
    for path, content in files.items():
        digest = digest_of_bytes(content)
        blob = store / "blobs" / digest[:2] / digest[2:]
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        listed.append({"path": path, "digest": digest, "size": len(content)})
    data: dict[str, Any] = {
        "schema": 1, "kind": "asset", "name": "e", "version": "v1",
        "created_at": "2026-01-31T12:00:00+00:00", "type": "x.Y", "digest": "", "content": None,
        "adapter": "flowyml-pytorch 0.1.0", "materializer": "pytorch.value", "format": "torch",
        "restore": "exact", "restore_reason": None, "required_trust": [], "files": listed,
        "details": {"tensors": [ROW]}, "properties": {}, "framework": None,
        "training_history": None, "tags": {}, "parents": [], "run": None, "step": None, **members,
    }  # fmt: skip
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
        data["digest"] = manifest.content_digest(
            data["materializer"],
            data["format"],
            tuple(StoredFile(**file) for file in data["files"]),
            data["content"],
        )
    digest = digest_of_bytes(encoding.render(data))
    written = store / "assets" / "e" / "v1.json"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.unlink(missing_ok=True)
    written.write_bytes(encoding.render({**data, "manifest_digest": digest}))
    return written


MODULE = {"materializer": "pytorch.module", "format": "module"}


def structure(root: Any, *objects: Any, tensors: Any = (), **members: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"state": {"$ordered": []}, "metadata": None}
    members = {"schema": 1, "root": root, **empty, **members}
    return {**members, "objects": list(objects), "tensors": list(tensors)}


def forged(folder: Path, data: Any, tensor: bytes = ZEROS, /, **members: Any) -> Path:
    """Write a version with a structure and one tensor."""
    files = {"structure.json": json.dumps(data).encode(), "tensors/w.pt": tensor}
    return forge(folder / "store", files, **members)


def obj(cls: str, kind: str | None = None, /, **state: Any) -> dict[str, Any]:
    return {"$class": cls, "state": state, **({"kind": kind} if kind else {})}


def named(name: str) -> dict[str, Any]:
    return {"$name": name}


def partial(function: Any, *arguments: Any, **keywords: Any) -> dict[str, Any]:
    return {"$partial": [function, list(arguments), keywords]}


ANY = "torch.nn.modules.module:Module"
LSTM = "torch.nn.modules.rnn:LSTM"
PIPES = "torch.utils.data.datapipes.iter."
ROOT: dict[str, Any] = {"$object": 0}
CALL = partial(named("victim:Net"), "attacker")
"""A value that is let through, and that leaves a mark when it is called."""
MAKES_NETS = {"$defaultdict": [named("victim:Net"), []]}


def optimizer(cls: str = "torch.optim.sgd:SGD", **attributes: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"defaults": {}, "state": {}, "param_groups": []}
    return obj(cls, "optimizer", **{**empty, **attributes})


def with_attributes(**attributes: Any) -> list[Any]:
    return [{"stored": 0, "attributes": attributes}]


def parametrized(cls: str, modules: Any) -> dict[str, Any]:
    return {**obj(cls, _modules=modules), "parametrized": ["weight"]}


BYTES = {"$numpy": ["|u1", [16], {"$tensor": 0}]}
HOLDER = {"parametrizations": {"$object": 1}}
HELD = obj(ANY, _modules={"weight": None})
SCALER = {
    "_device": "cpu", "_enabled": True, "_init_scale": 1.0, "_init_growth_tracker": 0,
    "_growth_factor": 2.0, "_backoff_factor": 0.5, "_growth_interval": 1,
    "_scale": {"$tensor": 0}, "_growth_tracker": None,
}  # fmt: skip


class Reduced:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


SYSTEM = pickle.dumps(Reduced(os.system, "touch pwned"), 2)


def unpickling_pipe(first: int) -> list[Any]:
    """Return objects, the first of which unpickles bytes of the file when it is iterated over."""
    tuples = [{"$tuple": ["x.pickle", {"$bytes": SYSTEM.hex()}]}]
    pipes = PIPES + "utils:IterableWrapperIterDataPipe"
    decoder = named(PIPES + "routeddecoder:RoutedDecoderIterDataPipe")
    mapper = {"fn": decoder, "input_col": None, "output_col": None}
    return [
        obj(PIPES + "combining:ConcaterIterDataPipe", datapipes={"$object": first + 1}),
        obj(PIPES + "callable:MapperIterDataPipe", datapipe={"$object": first + 2}, **mapper),
        obj(pipes, iterable=[{"$object": first + 3}], deepcopy=False),
        obj(pipes, iterable=tuples, deepcopy=False),
    ]


# ------------------------------------------------------------------------------ structures

CODE: dict[str, Any] = {
    "hooks that are a stream with a pickle": structure(
        ROOT, obj(ANY, _forward_hooks={"$object": 1}), *unpickling_pipe(1)
    ),
    "hooks that are a user's dataset": structure(
        ROOT, obj(ANY, _forward_hooks={"$object": 1}), obj("victim:Data")
    ),
    "a method of an LSTM that is replaced": structure(ROOT, obj(LSTM, _init_flat_weights=CALL)),
    "another method of an LSTM": structure(
        ROOT, obj(LSTM, _flat_weights_names=[], flatten_parameters=CALL)
    ),
    "an LSTM's weight that is a property": structure(
        ROOT, obj(LSTM, _flat_weights_names=["all_weights"], _all_weights=[[]])
    ),
    "a tensor whose cpu() is replaced": structure(BYTES, tensors=with_attributes(cpu=CALL)),
    "a generator's state of that kind": structure(
        ROOT,
        obj("torch._C:Generator", "generator", device={"$device": "cpu"}, state={"$tensor": 0}),
        tensors=with_attributes(cpu=CALL),
    ),
    "a scaler's tensor whose dim() is replaced": structure(
        ROOT,
        obj("torch.amp.grad_scaler:GradScaler", "grad_scaler", **SCALER),
        tensors=with_attributes(dim=CALL),
    ),
    "a parameter group that makes what it lacks": structure(
        ROOT, optimizer(param_groups=[MAKES_NETS])
    ),
    "members of an enum that are made": structure(
        {"$enum": [ROOT, "x"]}, obj(ANY, __members__=MAKES_NETS)
    ),
    "members of an enum that are a user's dataset": structure(
        {"$enum": [ROOT, "x"]}, obj(ANY, __members__={"$object": 1}), obj("victim:Data")
    ),
    "a dataset's constructor, overlooked": structure(
        [
            named("victim:Data"),
            {"$class": "flowyml_pytorch:DatasetRef", "x": 1},
            {"$object": True},
        ],
        obj(ANY),
        obj(
            "flowyml_pytorch:DatasetRef", "dataset_ref", target=named("victim:Data"),
            args=["attacker"], kwargs={}, fingerprint="x", fingerprint_by="word",
        ),
    ),
    "a dataset's constructor": structure(
        ROOT,
        obj(
            "flowyml_pytorch:DatasetRef", "dataset_ref", target=named("victim:Data"),
            args=[], kwargs={}, fingerprint="x", fingerprint_by="word",
        ),
    ),
    "a user's optimizer without its kind": structure(
        ROOT, obj("victim:Sgd", defaults={"$object": 1}, param_groups=[]), obj(ANY, setdefault=CALL)
    ),
    "a user's optimizer that watches what is set": structure(ROOT, optimizer("victim:Assigned")),
    "a user's layer that watches attributes": structure(ROOT, obj("victim:Accessed")),
    "a user's layer with a __setstate__": structure(ROOT, obj("victim:Restored")),
    "a parametrized property": structure(ROOT, parametrized("victim:Property", HOLDER), HELD),
    "a parametrized __init_subclass__": structure(
        ROOT, parametrized("victim:Descended", HOLDER), HELD
    ),
    "parametrizations that are made": structure(ROOT, parametrized(ANY, MAKES_NETS)),
    "a default of a state that is made": structure(
        ROOT,
        optimizer(
            "torch.optim.adagrad:Adagrad",
            defaults=MAKES_NETS, state=MAKES_NETS, param_groups=[{"params": [{"$tensor": 0}]}],
        ),
        tensors=[{"stored": 0}],
    ),
    "attributes that take a tensor's class": structure(
        {"$tensor": 0},
        tensors=with_attributes(__class__=named("victim:Net"), __torch_function__=CALL),
    ),
    "a method that is none": structure({"$method": [ROOT, named("victim:Net")]}, obj("victim:Net")),
    "a set of a user's objects": structure({"$set": [ROOT]}, obj("victim:Data")),
    "a name hidden beside the number of an object": structure(
        [
            {"$class": "victim:Data", "x": 1},
            {"$class": "flowyml_pytorch:DatasetRef", "x": 1},
            {"$object": ROOT, "x": 1},
        ],
        obj(
            "flowyml_pytorch:DatasetRef", "dataset_ref", target=named("victim:Data"), args=[],
            kwargs={}, fingerprint="x", fingerprint_by="word",
        ),
    ),
    "an optimizer's step that is replaced": structure(
        ROOT, optimizer(_patch_step_function={"$object": 1}), obj("victim:Net", training=True)
    ),
    "what is computed when it is given up": structure(
        ROOT,
        {**obj(ANY, _modules=HOLDER), "parametrized": ["__del__"]},
        obj("torch.nn.modules.container:ModuleDict", _modules={"__del__": {"$object": 2}}),
        obj("victim:Net", training=True),
    ),
    "a user's LSTM": structure(ROOT, obj("victim:Flat", _flat_weights_names=[])),
    "a user's convolution": structure(ROOT, obj("victim:Padded")),
    "a user's groups": structure(ROOT, optimizer("victim:Grouped")),
    "parts that are a user's dataset": structure(
        ROOT, obj("torch.nn.modules.conv:Conv2d", _modules={"$object": 1}), obj("victim:Data")
    ),
    "text of a user's object, as an enum": structure({"$enum": [ROOT, "x"]}, obj("victim:Told")),
    "text of it, as a factory": structure({"$defaultdict": [ROOT, []]}, obj("victim:Told")),
    "text of it, as a kind of weights": structure(
        ROOT, obj("torch:ScriptObject", "packed", packs={"$object": 1}, engine="x"),
        obj("victim:Told"),
    ),
    "text of it, as a device": structure(
        ROOT, obj("torch._C:Generator", "generator", device={"$object": 1}, state=None),
        obj("victim:Told"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CODE)
def test_no_structure_runs_code_on_load(process: Process, tmp_path: Path, case: str) -> None:
    rows = {"details": {"tensors": [[*ROW[:3], "uint8", [16], [1]]]}}
    for how in ({}, MODULE):
        forged(
            tmp_path, CODE[case], saved_tensor(torch.zeros(16, dtype=torch.uint8)), **rows, **how
        )
        assert_harmless(process.open(tmp_path))


def tuples(count: int, width: int) -> list[Any]:
    """Return tuples, each of which holds the one before: small in a file, immense spelled out."""
    first = [{"$shared": [0, {"$tuple": [1]}]}]
    return first + [
        {"$shared": [number, {"$tuple": [{"$same": number - 1}] * width}]}
        for number in range(1, count)
    ]


def frozensets(start: int, count: int) -> list[Any]:
    first = [{"$shared": [start, {"$frozenset": [1]}]}]
    return first + [
        {"$shared": [number, {"$frozenset": [{"$tuple": [{"$same": number - 1}] * 2}]}]}
        for number in range(start + 1, start + count)
    ]


def view(dtype: str, shape: list[Any], strides: list[Any], offset: Any = 0) -> list[Any]:
    return [{"stored": 0, "view": [dtype, shape, strides, offset]}]


ENDLESS = {"$range": [0, 10**15, 1]}
SAMPLER = obj("torch.utils.data.dataloader:_InfiniteConstantSampler", "sampler")

BOUNDS: dict[str, Any] = {
    "an array beyond its tensor": structure(
        {"$numpy": ["|u1", [1 << 26], {"$tensor": 0}]}, tensors=view("uint8", [1 << 26], [0])
    ),
    "an array with an address of its own": structure(
        BYTES, tensors=with_attributes(data_ptr=partial({"$builtin": "int"}, 4096))
    ),
    "an array of what has no values": structure(BYTES, tensors=[{"meta": ["uint8", [16], [1]]}]),
    "weights of gigabytes that are one number": structure(
        ROOT,
        obj(
            "torch:ScriptObject", "packed", packs="quantized.LinearPackedParamsBase",
            engine="fbgemm", weight={"$tensor": 0}, bias=None,
        ),
        tensors=view("float32", [1 << 16, 1 << 16], [0, 0]),
    ),
    "arguments without end": structure({"$partial": [named("torch:relu"), ENDLESS, {}]}),
    "hooks without end": structure(ROOT, obj(ANY, _forward_hooks=ENDLESS)),
    "hooks without end, and without numbers": structure(
        ROOT, obj(ANY, _forward_hooks={"$object": 1}), SAMPLER
    ),
    "a hash of exponentially many": structure([*tuples(60, 2), {"$set": [{"$same": 59}]}]),
    "a hash of exponentially many as a key": structure(
        [*tuples(60, 2), {"$dict": [[{"$same": 59}, 1]]}]
    ),
    "a hash deeper than the stack": structure(
        [*tuples(100_000, 1), {"$set": [{"$same": 99_999}]}]
    ),
    "many keys of one hash": structure({"$set": [i * (2**61 - 1) for i in range(60_000)]}),
    "a chain of queues": structure(
        {
            f"a{i}": {"$shared": [i, {"$deque": [None, [{"$same": i - 1}] if i else []]}]}
            for i in range(50_000)
        }
    ),
    "elements that are far apart": structure(
        {"$tensor": 0}, tensors=[{"stored": 0, "strides": [1 << 32]}]
    ),
    "partials of partials": structure(
        [
            {"$shared": [0, [1] * 3000]},
            {"$shared": [1, partial(named("torch:relu"))]},
            *(
                {"$shared": [i, {"$partial": [{"$same": i - 1}, {"$same": 0}, {}]}]}
                for i in range(2, 3000)
            ),
        ]
    ),
    "a comparison of exponentially many": structure(
        [*frozensets(0, 50), *frozensets(100, 50), {"$set": [{"$same": 49}, {"$same": 149}]}]
    ),
    "a number of a hook beyond all others": structure(
        ROOT, obj("torch.utils.hooks:RemovableHandle", "handle", hooks=None, id=10**4200, extra=[])
    ),
    "a long chain of objects": structure(
        ROOT, *(obj(ANY, x={"$object": number + 1}) for number in range(30_000)), obj(ANY)
    ),
    "a module that is its own part": structure(ROOT, obj(ANY, _modules={"a": ROOT})),
    "a long queue": structure({"$deque": [1 << 60, [1]]}),
    "a longer queue": structure({"$deque": [1 << 80, [1]]}),
    "many dimensions": structure({"$tensor": 0}, tensors=view("float32", [1] * 9999, [1] * 9999)),
    "letters without end": structure({"$numpy": ["<U1000000", [0], {"$tensor": 0}]}),
    "a huge empty array": structure(
        {"$numpy": ["<f4", [0, 1 << 62], {"$tensor": 0}]}, tensors=view("float32", [0], [1])
    ),
    "a tensor without values, beyond all bounds": structure(
        {"$tensor": 0}, tensors=[{"meta": ["float32", [1 << 62, 1 << 62], [1, 1]]}]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOUNDS)
def test_no_structure_goes_beyond_time_memory_or_its_files(
    process: Process, tmp_path: Path, case: str
) -> None:
    forged(tmp_path, BOUNDS[case], **(MODULE if BOUNDS[case]["root"] == ROOT else {}))
    if "weights" in case:  # by itself
        forged(tmp_path, BOUNDS[case])
    assert_harmless(process.open(tmp_path))


def test_a_file_does_not_spoil_the_numbers_of_hooks_to_come(
    process: Process, tmp_path: Path
) -> None:
    forged(tmp_path, BOUNDS["a number of a hook beyond all others"])
    number = "torch.utils.hooks.RemovableHandle.next_id"
    attempt = "[0 for _ in [0] if not trial(lambda: store.load('e'))]"
    found = process.open(tmp_path, f"{attempt}, {number} < 1 << 62 or 1 / 0")
    assert_harmless(found)


@pytest.mark.parametrize(
    "unfit",
    [
        view("float32", [5], [1]), view("float32", [2], [4]), view("float64", [3], [1]),
        view("float32", [-1], [1]), view("float32", [1], [-1]), view("float32", [1], [1], -1),
        view("float32", [1], [1], 4), view("float32", [1 << 47, 1 << 47], [1 << 47, 1]),
        view("float32", [1], []), view("load", [1], [1]), view("nn", [1], [1]),
        view("float32", [True], [1]), view("float32", [1], [1], True), view("float32", [1.0], [1]),
        [{"stored": 7}], [{"stored": "0"}], [{"stored": None}], [{"stored": [0]}], [{}], [7],
        [{"meta": ["float32", [-1], [1]]}], [{"meta": ["load", [1], [1]]}], [{"meta": 5}],
        [{"uninitialized": "load"}], [{"uninitialized": {}}],
        [{"stored": 0, "attributes": [1]}], [{"stored": 0, "attributes": 5}],
        [{"stored": 0, "view": 5}], [{"stored": 0, "view": None}],
        [{"stored": 0, "parameter": True, "requires_grad": True,
          "view": ["int32", [1], [1], 0]}],
    ],
)  # fmt: skip
def test_a_tensor_that_is_none_is_refused(process: Process, tmp_path: Path, unfit: Any) -> None:
    forged(tmp_path, structure({"$tensor": 0}, tensors=unfit))
    assert_refused(process.open(tmp_path), "MaterializationError")


@pytest.mark.parametrize(
    "dtype", ["qint8", "quint8", "qint32", "quint4x2", "quint2x4", "bits1x8", "bits16"]
)
@pytest.mark.parametrize("place", ["row", "view"])
def test_a_dtype_that_is_more_than_bytes_does_no_harm(
    process: Process, tmp_path: Path, dtype: str, place: str
) -> None:
    by_row = {"details": {"tensors": [[*ROW[:2], 0, dtype, [4], [1]]]}}
    entries = [{"stored": 0}] if place == "row" else view(dtype, [4], [1])
    forged(tmp_path, structure({"$tensor": 0}, tensors=entries), **by_row if place == "row" else {})
    assert_harmless(process.open(tmp_path, "store.load('e').clone()"))


@pytest.mark.filterwarnings("ignore:.*[Qq]uantiz")
@pytest.mark.parametrize("layout", ["quantized", "sparse"])
def test_a_view_of_what_is_more_than_its_elements_does_no_harm(
    process: Process, tmp_path: Path, layout: str
) -> None:
    quantized = torch._empty_affine_quantized([1000], scale=1.0, zero_point=0, dtype=torch.qint8)
    rows = {"details": {"tensors": [[*ROW[:3], None, [], []]]}}
    for dtype, count in (("uint8", 1000), ("qint8", 1000), ("float32", 250)):
        data = structure({"$tensor": 0}, tensors=view(dtype, [count], [1]))
        forged(
            tmp_path,
            data,
            saved_tensor(quantized if layout == "quantized" else torch.ones(1000).to_sparse()),
            **rows,
        )
        assert_harmless(process.open(tmp_path, "store.load('e').clone()"))


@pytest.mark.parametrize(
    "row",
    [
        [*ROW[:2], 8, *ROW[3:]], [*ROW[:2], -8, *ROW[3:]], [*ROW[:2], 1 << 47, *ROW[3:]],
        [*ROW[:2], True, *ROW[3:]], [*ROW[:2], 1.0, *ROW[3:]], [*ROW[:2], 10**400, *ROW[3:]],
        [*ROW[:4], [5], [1]], [*ROW[:4], [4], [2]], [*ROW[:4], [4], [-1]], [*ROW[:4], [4, 4], [1]],
        [*ROW[:4], [1 << 47, 1 << 47], [1 << 47, 1]], [*ROW[:4], "4", "1"], [*ROW[:4], 4, 1],
        [*ROW[:3], "load", [4], [1]], [*ROW[:3], "Tensor", [4], [1]], [*ROW[:3], 5, [4], [1]],
        [*ROW[:3], "float64", [2], [1]], [ROW[0], "structure.json", *ROW[2:]],
        [ROW[0], "../../../etc/passwd", *ROW[2:]], [ROW[0], "/dev/zero", *ROW[2:]],
        [ROW[0], ["a"], *ROW[2:]], [5, *ROW[1:]], [], "abcdef", 5, None, {"a": 1},
    ],
)  # fmt: skip
def test_a_row_that_leads_elsewhere_is_refused(process: Process, tmp_path: Path, row: Any) -> None:
    data = structure({"$tensor": 0}, tensors=[{"stored": 0}])
    forged(tmp_path, data, details={"tensors": [row]})
    assert_refused(process.open(tmp_path), "MaterializationError")


@pytest.mark.parametrize(
    "details",
    [
        {"tensors": 5}, {"tensors": {"a": 1}}, {"tensors": [[[[[]]]]]}, {"tensors": None}, {},
        {"main": [1], "tensors": [ROW]}, {"main": {"a": 1}, "tensors": [ROW]},
        {"main": "os", "tensors": [ROW]}, {"left_out": 5, "tensors": [ROW]},
        {"left_out": {"a": [1]}, "tensors": [ROW]}, {"torch": [1], "tensors": [ROW]},
    ],
)  # fmt: skip
def test_details_of_wrong_types_do_no_harm(process: Process, tmp_path: Path, details: Any) -> None:
    data = structure(
        ROOT,
        obj(ANY),
        tensors=view("float32", [1, 4], [4, 1]),
        state={"$ordered": [["weight", {"$tensor": 0}]]},
    )
    forged(tmp_path, data, details=details, **MODULE)
    assert_harmless(process.open(tmp_path))
    assert_harmless(process.open(tmp_path, "store.load('e', format='state_dict')"))
    assert_harmless(process.open(tmp_path, "store.load('e', into=nn.Linear(4, 1, bias=False))"))


# ------------------------------------------------------------------------------ into=


def group(**options: Any) -> dict[str, Any]:
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(4))], lr=0.1)
    return {**sgd.state_dict()["param_groups"][0], **options}


def made_group() -> dict[str, Any]:
    pairs = [[key, value] for key, value in group().items() if key != "params"]
    return {"$defaultdict": [named("victim:Net"), pairs]}


def scheduler_state(**attributes: Any) -> dict[str, Any]:
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(4))], lr=0.1)
    return {**torch.optim.lr_scheduler.StepLR(sgd, 1).state_dict(), **attributes}


COPIED = obj(ANY, __deepcopy__=CALL)
STEP = "torch.optim.lr_scheduler.StepLR(sgd, 1)"
WEIGHTS = {"$ordered": [["weight", {"$tensor": 0}]]}
INTO: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "an option that copies itself": (
        "sgd", structure(1, COPIED, state={"state": {}, "param_groups": [group(lr=ROOT)]}), {}
    ),
    "a group that makes what it lacks": (
        "sgd", structure(1, state={"state": {}, "param_groups": [made_group()]}), {}
    ),
    "an attribute that copies itself": (
        STEP, structure(1, COPIED, state=scheduler_state(gamma=ROOT)), {}
    ),
    "rates that are a user's dataset": (
        STEP, structure(1, obj("victim:Data"), state=scheduler_state(base_lrs=ROOT)), {}
    ),
    "metadata with a method of its own": (
        "nn.Linear(4, 1, bias=False)",
        structure(
            ROOT, obj(ANY, get=CALL), tensors=view("float32", [1, 4], [4, 1]),
            state=WEIGHTS, metadata=ROOT,
        ),
        MODULE,
    ),
    "a state that is no state": ("sgd", structure(1, state=[1]), {}),
    "weights that are no dict": ("nn.Linear(4, 1)", structure(1, state={"weight": 1}), MODULE),
    "weights that are objects": (
        "nn.Linear(4, 1, bias=False)",
        structure(1, obj("victim:Data"), state={"$ordered": [["weight", ROOT]]}),
        MODULE,
    ),
    "a generator's state of another kind": (
        "torch.Generator()", structure(1, state={"device": "cpu", "state": [1]}), {}
    ),
    "a scaler's state of another kind": (
        "torch.amp.GradScaler('cpu')", structure(1, state={"scale": {"$bytes": "00"}}), {}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INTO)
def test_nothing_runs_when_a_state_is_put_into_what_the_caller_built(
    process: Process, tmp_path: Path, case: str
) -> None:
    into, data, how = INTO[case]
    forged(tmp_path, data, **how)
    assert_refused(process.open(tmp_path, f"store.load('e', into={into})"))


# ------------------------------------------------------------------------------ ordinary use


def test_what_comes_back_does_not_unpickle_when_it_is_iterated_over(
    process: Process, tmp_path: Path
) -> None:
    forged(tmp_path, structure(ROOT, *unpickling_pipe(0)))
    assert_harmless(process.open(tmp_path, "[*store.load('e')]"))


@pytest.mark.parametrize("method", ["extra_repr", "_get_name", "__repr__", "__hash__", "__eq__"])
def test_printing_and_comparing_a_module_calls_nothing_of_the_file(
    process: Process, tmp_path: Path, method: str
) -> None:
    forged(tmp_path, structure(ROOT, obj(ANY, **{method: CALL})), **MODULE)
    use = "(lambda m: (hash(m), m == m, bool(m), [str(m) for m in [m] if True]))"
    found = process.open(tmp_path, f"{use}(store.load('e'))")
    assert found.ran == ""


# ------------------------------------------------------------------------------ pickles

INNER = pickle.dumps(Reduced(eval, "open('pwned', 'w')"), 2)
OPCODES = {
    "getattr": b"c__builtin__\ngetattr\n(cos\npath\nS'os'\ntR(S'system'\ntR(S'touch pwned'\ntR.",
    "a chain of getattr": b"c__builtin__\ngetattr\n(ctorch\nhub\nS'load'\ntR(S'/tmp'\ntR.",
    "runpy": b"crunpy\nrun_path\n(S'evil.py'\ntR.",
    "torch.load": b"ctorch\nload\n(S'evil.pt'\ntR.",
    "functools.partial": b"cfunctools\npartial\n(cos\nsystem\nS'touch pwned'\ntR(tR.",
    "INST": b"(S'touch pwned'\nios\nsystem\n.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0btouch pwned\x85R.",
    "__setstate__": b"ctorch.nn.modules.module\nModule\n)\x81}S'x'\nK\x01sb.",
    "a __setstate__ of a user's": b"cvictim\nRestored\n)\x81}S'x'\nK\x01sb.",
    "a class of a user's": b"cvictim\nNet\n)R.",
    "deep nesting": b"(" * 100_000 + b"l" * 100_000 + b".",
    "a huge number": b"I" + b"9" * 5000 + b"\n.",
    "a long string that is short": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.",
    "a memo beyond all bounds": b"\x80\x02}r\xff\xff\xff\x7f.",
}
PICKLES: dict[str, bytes] = {
    **OPCODES,
    "os.system": SYSTEM,
    "eval": INNER,
    "exec": pickle.dumps(Reduced(exec, "open('pwned', 'w')"), 2),
    "a pickle in a pickle": pickle.dumps(Reduced(pickle.loads, INNER), 2),
}


def zipped(*entries: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


def archived(pickled: bytes, storage: bytes = bytes(16), prefix: str = "archive") -> bytes:
    return zipped(
        (f"{prefix}/data.pkl", pickled),
        (f"{prefix}/byteorder", b"little"),
        (f"{prefix}/data/0", storage),
        (f"{prefix}/version", b"3\n"),
    )


LOAD = ("store.load('e')", "store.load('e', verify=False)")
WEIGHTS_ONLY = (
    "store.load('e', into=nn.Linear(4, 1, bias=False))",
    "store.load('e', format='state_dict')",
)


def assert_tensor_refused(
    process: Process, folder: Path, content: bytes, ways: tuple[str, ...]
) -> None:
    """A file in the place of a tensor is refused, whatever the index says of it."""
    (folder / "evil.py").write_text("open('pwned', 'w')")
    (folder / "evil.pt").write_bytes(archived(SYSTEM))
    data = structure(ROOT, obj(ANY, x={"$tensor": 0}), tensors=[{"stored": 0}], state=WEIGHTS)
    for row, way in zip((ROW, [*ROW[:3], None, [], []]), (ways[0], ways[1]), strict=True):
        forged(folder, data, content, details={"tensors": [row]}, **MODULE)
        assert_refused(process.open(folder, way), "UntrustedDataError", "MaterializationError")


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("wrapped", ["bare", "archived", "nested"])
def test_no_pickle_is_run_in_place_of_a_tensor(
    process: Process, tmp_path: Path, name: str, wrapped: str
) -> None:
    pickled = PICKLES[name]
    if wrapped != "bare":
        pickled = archived(pickled)
    if wrapped == "nested":
        pickled = archived(b"\x80\x02}.", storage=pickled)
    ways = WEIGHTS_ONLY if wrapped == "archived" else LOAD
    assert_tensor_refused(process, tmp_path, pickled, ways)


def overlapping() -> bytes:
    """Two entries whose bytes are the same bytes."""
    content = bytearray(archived(SYSTEM))
    at = content.rindex(b"PK\1\2")
    content[at + 42 : at + 46] = struct.pack("<I", 0)
    return bytes(content)


def oversized() -> bytes:
    """An entry that says it has more bytes than there are."""
    content = bytearray(archived(SYSTEM))
    at = content.index(b"PK\1\2")
    content[at + 20 : at + 28] = struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)
    return bytes(content)


ARCHIVES: dict[str, bytes] = {
    "entries that overlap": overlapping(),
    "an entry that is too large": oversized(),
    "a bomb": zipped(("archive/data.pkl", bytes(1 << 26)), method=zipfile.ZIP_DEFLATED),
    "a bomb in a bomb": zipped(
        ("archive/data/0", zipped(("x", bytes(1 << 26)), method=zipfile.ZIP_DEFLATED)),
        method=zipfile.ZIP_DEFLATED,
    ),
    "a path upwards": archived(SYSTEM, prefix="../../archive"),
    "an absolute path": archived(SYSTEM, prefix="/archive"),
    "an archive in an archive": archived(b"\x80\x02}.", storage=archived(SYSTEM)),
    "code of TorchScript": zipped(("a/code/x.py", b"import os"), ("a/constants.pkl", SYSTEM)),
    "many entries": zipped(*((f"archive/data/{number}", b"") for number in range(20_000))),
    "nothing": b"",
    "half an archive": ZEROS[: len(ZEROS) // 2],
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_no_archive_is_unpacked_in_place_of_a_tensor(
    process: Process, tmp_path: Path, name: str
) -> None:
    assert_tensor_refused(process, tmp_path, ARCHIVES[name], WEIGHTS_ONLY)
    assert_tensor_refused(process, tmp_path, ARCHIVES[name], LOAD)
    assert not (tmp_path.parent / "archive").exists()


@pytest.mark.parametrize(
    "name", [*ARCHIVES, "os.system", "eval", "samples", "a pickle of weights", "deep"]
)
def test_no_archive_is_run_in_place_of_a_program(
    process: Process, tmp_path: Path, name: str
) -> None:
    frame = (("a/archive_format", b"pt2"), ("a/byteorder", sys.byteorder.encode()))
    own = {
        "samples": zipped(*frame, ("a/data/sample_inputs/model.pt", SYSTEM)),
        "a pickle of weights": zipped(*frame, ("a/data/weights/weight_0.pt", SYSTEM)),
        "deep": zipped(*frame, ("a/models/model.json", b"[" * 100_000)),
    }
    content = {**ARCHIVES, **PICKLES, **own}[name]
    how = {"materializer": "pytorch.module", "format": "exported", "details": {"kind": "module"}}
    forge(tmp_path / "store", {"program.pt2": content}, **how)
    found = process.open(tmp_path)
    assert_refused(found, "UntrustedDataError", "MaterializationError")


def with_header(header: Any, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
SAFETENSORS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "a header beyond the file": (struct.pack("<Q", 1 << 62) + b"{}", {}),
    "a deep header": (with_header(b'{"a":' * 100_000), {}),
    "data beyond the file": (with_header({"w": {**F32, "data_offsets": [0, 1 << 40]}}), {}),
    "a shape beyond all bounds": (with_header({"w": {**F32, "shape": [1 << 62, 4]}}), {}),
    "a negative shape": (with_header({"w": {**F32, "shape": [-4]}}), {}),
    "tensors that overlap": (with_header({"w": F32, "v": F32}), {}),
    "a pickle": (SYSTEM, {}),
    "keys that aren't there": (with_header({"w": F32}), {"keys": ["x"]}),
    "keys of a wrong type": (with_header({"w": F32}), {"keys": 5}),
    "aliases of a wrong type": (with_header({"w": F32}), {"keys": ["w"], "aliases": [1]}),
    "versions of a wrong type": (with_header({"w": F32}), {"versions": [1]}),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_no_unfit_safetensors_file_is_read(process: Process, tmp_path: Path, name: str) -> None:
    pytest.importorskip("safetensors")
    content, details = SAFETENSORS[name]
    how = {"materializer": "pytorch.module", "format": "safetensors", "details": details}
    forge(tmp_path / "store", {"model.safetensors": content}, **how)
    assert_refused(process.open(tmp_path), "MaterializationError")


def npy(header: str, data: bytes = bytes(64)) -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", SYSTEM),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}\n"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}\n"),
        npy("(" * 9000 + "\n"),
        npy("__import__('os').system('touch pwned')\n"),
        zipped(("array.npy", SYSTEM)),
        SYSTEM,
        b"",
    ],
)
def test_no_unfit_array_is_read(process: Process, tmp_path: Path, content: bytes) -> None:
    how = {"materializer": "core.numpy", "format": "npy", "details": {}}
    forge(tmp_path / "store", {"array.npy": content}, **how)
    assert_refused(process.open(tmp_path), "MaterializationError")


# ------------------------------------------------------------------------------ the folders

TENSOR = structure({"$tensor": 0}, tensors=[{"stored": 0}])
KEPT = ("store.load('e', verify=False)", "store.verify()")


def in_place_of(path: Path, kind: str, elsewhere: Path) -> None:
    """Put something else in place of a file; a link leads to the very same bytes."""
    elsewhere.mkdir(exist_ok=True)
    content = path.read_bytes()
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    else:
        (elsewhere / path.name).write_bytes(content)
        path.symlink_to(elsewhere / path.name)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device", "loop"])
@pytest.mark.parametrize("place", ["blob", "manifest", "store.json"])
def test_a_store_holds_plain_files_only(
    process: Process, tmp_path: Path, kind: str, place: str
) -> None:
    made = forged(tmp_path, TENSOR)
    store = tmp_path / "store"
    blobs = [path for path in (store / "blobs").rglob("*") if path.is_file()]
    path = {"blob": blobs[0], "manifest": made, "store.json": store / "store.json"}[place]
    in_place_of(path, kind, tmp_path / "elsewhere")
    for code in KEPT:
        assert_refused(process.open(tmp_path, code), "IntegrityError", "StoreError")


@pytest.mark.parametrize("place", ["blobs", "blobs/*", "assets", "assets/e"])
def test_a_folder_of_a_store_is_no_link(process: Process, tmp_path: Path, place: str) -> None:
    forged(tmp_path, TENSOR)
    for number, folder in enumerate([*(tmp_path / "store").glob(place)]):
        folder.rename(tmp_path / f"elsewhere{number}")
        folder.symlink_to(tmp_path / f"elsewhere{number}")
    for code in KEPT:
        assert_refused(process.open(tmp_path, code), "IntegrityError", "StoreError")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device", "loop"])
@pytest.mark.parametrize("place", ["manifest.json", "structure.json", "tensors/w.pt", "tensors"])
def test_a_folder_to_import_holds_plain_files_only(
    process: Process, tmp_path: Path, kind: str, place: str
) -> None:
    forged(tmp_path, TENSOR)
    folder = Store(tmp_path / "store").export("e", tmp_path / "exported")
    if place == "tensors":
        (folder / place).rename(tmp_path / "elsewhere")
        (folder / place).symlink_to(tmp_path / "elsewhere")
    else:
        in_place_of(folder / place, kind, tmp_path / "elsewhere")
    found = process.open(tmp_path, "Store('other').import_('exported')")
    assert_refused(found, "IntegrityError", "StoreError")


FILE = {"path": "structure.json", "digest": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    "members",
    [
        {"schema": 2}, {"schema": 10**400}, {"schema": "1"}, {"kind": {}}, {"name": "../e"},
        {"version": "../v1"}, {"files": [{**FILE, "path": "../../x"}]},
        {"files": [{**FILE, "path": "/etc/passwd"}]}, {"files": [{**FILE, "path": "a\x00b"}]},
        {"files": [{**FILE, "digest": "../" * 21 + "a"}]}, {"files": [{**FILE, "size": -1}]},
        {"files": [{**FILE, "size": 10**400}]}, {"files": [{**FILE, "size": 1e300}]},
        {"files": [FILE, FILE]}, {"files": FILE}, {"files": None}, {"files": [[]]},
        {"details": {"$x": 1}}, {"details": []}, {"details": {"$dict": [[[], 1]]}},
        {"details": {"$float": "1e9"}}, {"created_at": "9999-12-31T23:59:59-23:59"},
        {"restore": []}, {"restore": {}}, {"materializer": "os.system"}, {"materializer": "../x"},
        {"format": "exported"}, {"format": "safetensors"}, {"format": "no"}, {"content": "../x"},
        {"properties": {"$tuple": 5}}, {"kind": "model", "training_history": {"epochs": "abc"}},
        {"tags": {"$dict": [[1, "a"]]}}, {"tags": {"a": "\ud800"}}, {"parents": [[]]},
        {"required_trust": {"a": 1}},
    ],
)  # fmt: skip
def test_a_forged_manifest_is_refused(
    process: Process, tmp_path: Path, members: dict[str, Any]
) -> None:
    forged(tmp_path, TENSOR, **members)
    if "format" in members:
        forged(tmp_path, TENSOR, **{**MODULE, **members})
    for code in ("store.load('e')", "store.load('e', verify=False)"):
        assert_refused(process.open(tmp_path, code))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 200_000, b'{"a":' * 100_000, b"9" * 100_000, b"{}", b"null", b"\xff\xfe", b"",
        b'{"schema": 1, "schema": 1}', b'{"name": "..", "version": "/"}', b"\x00" * 1000,
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(process: Process, tmp_path: Path, text: bytes) -> None:
    forged(tmp_path, TENSOR).write_bytes(text)
    for code in KEPT:
        assert_refused(process.open(tmp_path, code), "IntegrityError", "StoreError")
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "manifest.json").write_bytes(text)
    assert_refused(process.open(tmp_path, "Store('other').import_('exported')"))


@pytest.mark.parametrize(
    "members",
    [
        {"tags": {"a": "\ud800"}}, {"type": "\ud800"}, {"properties": {"a": "\ud800"}},
        {"properties": json.loads('{"a":' * 250 + "1" + "}" * 250)}, {"version": "v" + "9" * 63},
    ],
)  # fmt: skip
def test_a_folder_that_no_store_would_write_is_imported_or_refused(
    process: Process, tmp_path: Path, members: dict[str, Any]
) -> None:
    made = forged(tmp_path, TENSOR, **members)
    folder = tmp_path / "exported"
    (folder / "tensors").mkdir(parents=True)
    (folder / "tensors" / "w.pt").write_bytes(ZEROS)
    (folder / "structure.json").write_bytes(json.dumps(TENSOR).encode())
    (folder / "manifest.json").write_bytes(made.read_bytes())
    assert_harmless(process.open(tmp_path, "Store('other').import_('exported')"))
    assert_harmless(process.open(tmp_path, "store.export('e', 'x')"))


# ------------------------------------------------------------------------------ at random


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, its optimizer and a loader: the structure, the other files and the details."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.LSTM(2, 2))
    nn.utils.parametrizations.weight_norm(model[0])
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = torch.utils.data.TensorDataset(torch.ones(4, 2))
    loader = torch.utils.data.DataLoader(data, shuffle=True, generator=torch.Generator())
    store = Store(tmp_path_factory.mktemp("honest"))
    saved = store.save({"model": model, "optimizer": sgd, "loader": loader}, "e")
    folder = store.export("e", store.path.parent / "laid-out")
    assert saved.stored is not None
    files = {file.path: (folder / file.path).read_bytes() for file in saved.stored.files}
    told = json.loads((folder / "manifest.json").read_bytes())
    return {"structure": json.loads(files["structure.json"]), "files": files, "told": told}


NASTY: list[Any] = [
    None, True, -1, 0, 1, 10**30, 1 << 62, "", "0", "weight", [], {}, [[]], {"": 0},
    {"$object": 0}, {"$object": -1}, {"$object": True}, {"$object": 99}, {"$tensor": 0},
    {"$tensor": -1}, {"$same": 1}, {"$same": 0}, {"$shared": [1, []]}, ENDLESS, CALL, MAKES_NETS,
    {"$name": "victim:Net"}, {"$name": "victim:Data"}, {"$name": "torch:relu"},
    {"$name": "os:system"}, {"$builtin": "int"}, {"$set": [{"$object": 0}]}, {"$float": "nan"},
    {"$bytes": "00"}, {"$size": [1]}, {"$dtype": "qint8"}, {"$device": "meta"}, {"$tuple": []},
    {"$ordered": [["x", CALL]]}, {"$deque": [0, [1]]}, {"$enum": [{"$object": 0}, "x"]},
    {"$method": [{"$object": 0}, {"$name": "torch:relu"}]},
    {"$numpy": ["|u1", [9], {"$tensor": 0}]},
    {"$class": "victim:Net", "state": {}}, {"$class": "victim:Sgd", "state": {}},
    "victim:Data", "victim:Accessed", "torch.nn.modules.rnn:LSTM", "torch.optim.adam:Adam",
]  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where the values are in JSON data."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


def changed(data: Any, changes: list[tuple[int, Any]]) -> Any:
    """Return JSON data with some values replaced, or added under a new key."""
    data = json.loads(json.dumps(data))
    for number, item in changes:
        known = [*places(data)]
        *path, key = known[number % len(known)]
        holder = data
        for part in path:
            holder = holder[part]
        if isinstance(holder, dict) and number % 3 == 0 and "state" in path[-1:]:
            key = ("cpu", "_forward_hooks", "_init_flat_weights", "attributes")[number % 4]
        holder[key] = json.loads(json.dumps(item))
    return data


def test_no_random_change_of_a_structure_has_another_end_than_an_error(
    process: Process, honest: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        check_changes(process, honest, Path(name))


def check_changes(process: Process, honest: dict[str, Any], folder: Path) -> None:
    opened: Callable[[], Outcome] = lambda: process.open(folder)  # noqa: E731
    members = {key: honest["told"][key] for key in ("materializer", "format", "details")}
    forge(folder / "store", honest["files"], **members)
    assert opened().how == "object"

    @settings(
        max_examples=100,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from(NASTY)), min_size=1, max_size=3)
    )
    def check(changes: list[tuple[int, Any]]) -> None:
        text = json.dumps(changed(honest["structure"], changes)).encode()
        forge(folder / "store", {**honest["files"], "structure.json": text}, **members)
        assert_harmless(opened())

    check()
