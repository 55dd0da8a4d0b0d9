"""Loading runs no code from the files, nor any that the caller hasn't trusted."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from flowyml import Store
from flowyml.errors import IntegrityError, MaterializationError, UntrustedDataError
from flowyml.interfaces import LoadOptions, Saved, SaveResult
from flowyml.trust import Trust
from flowyml_pytorch.storing import modules


@attrs.define
class Config:
    depth: int = 3


class Plain:
    def __init__(self) -> None:
        self.width = 4


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1)
        self.config = Plain()


ran: list[str] = []


class Stateful(nn.Linear):
    def __setstate__(self, state: dict[str, Any]) -> None:
        ran.append("__setstate__")
        super().__setstate__(state)


class Constructed(nn.Linear):
    def __new__(cls, *arguments: Any) -> Any:
        ran.append("__new__")
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        ran.append("__init__")
        super().__init__(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        ran.append("__setattr__")
        super().__setattr__(name, value)


def test_an_object_of_another_class_needs_trust_and_is_listed(store: Store) -> None:
    store.save(Configured(), "m")
    name = f"{__name__}.Plain"
    assert store.get("m").required_trust == (name,)
    with pytest.raises(UntrustedDataError, match=r"trust=\['.*Plain'\]") as caught:
        store.load("m")
    assert caught.value.required == (name,)
    for trust in ([Plain], Plain, name, [f"{__name__}.*"]):
        assert store.load("m", trust=trust).config.width == 4
    with pytest.raises(UntrustedDataError):
        store.load("m", trust=["other.*", f"{__name__}.Plainer"])


def test_objects_that_keep_their_state_elsewhere_cost_the_structure(store: Store) -> None:
    module = Configured()
    module.config = Config()
    with pytest.warns(UserWarning, match="config: Config keeps its state outside __dict__"):
        store.save(module, "m")


def test_no_code_of_a_module_class_runs_on_load(store: Store) -> None:
    store.save(Constructed(1, 1), "m")
    ran.clear()
    assert type(store.load("m")) is Constructed
    assert ran == []


def test_a_setstate_runs_only_when_its_class_is_trusted(store: Store) -> None:
    store.save(Stateful(1, 1), "m")
    assert store.get("m").stored.required_trust == (f"{__name__}.Stateful",)
    with pytest.raises(UntrustedDataError, match="Stateful"):
        store.load("m")
    assert ran == []
    assert type(store.load("m", trust=[Stateful])) is Stateful
    assert ran == ["__setstate__"]
    ran.clear()


@pytest.mark.parametrize("trust", ["*", "a b", "", ".x", "a.*.b"])
def test_trust_takes_dotted_names_only(store: Store, trust: str) -> None:
    with pytest.raises(ValueError, match="trust= takes dotted names"):
        store.load("m", trust=[trust])


def crafted(tmp_path: Path, structure: Any, weights: bytes | None = None) -> Saved:
    """What a stranger may put in place of an honest file, every digest being right."""
    (tmp_path / "structure.json").write_text(
        structure if isinstance(structure, str) else json.dumps(structure)
    )
    row = ["0" * 64, "tensors/w.pt", None, "float32", [1], [1]]
    (tmp_path / "tensors.json").write_text(json.dumps({"schema": 1, "tensors": [row]}))
    (tmp_path / "tensors").mkdir(exist_ok=True)
    path = tmp_path / "tensors" / "w.pt"
    torch.save(torch.zeros(1), path)
    if weights is not None:
        path.write_bytes(weights)
    files = {name: tmp_path / name for name in ("structure.json", "tensors.json", "tensors/w.pt")}
    return Saved("evil@v1", "module", files, SaveResult())


def structure(*objects: Any, root: Any = None) -> dict[str, Any]:
    return {
        "schema": 1,
        "root": {"$object": 0} if root is None else root,
        "state": {"$ordered": [["weight", {"$tensor": 0}]]},
        "metadata": None,
        "objects": list(objects),
        "tensors": [{"stored": 0, "parameter": True, "requires_grad": True}],
    }


def module(**state: Any) -> dict[str, Any]:
    return {"$class": "torch.nn.modules.module:Module", "state": state}


DANGEROUS = [
    "os:system", "posix:system", "builtins:eval", "builtins:exec", "builtins:getattr",
    "builtins:__import__", "subprocess:Popen", "runpy:run_path", "functools:partial",
    "torch:load", "torch.serialization:load", "torch.hub:load", "torch:compile", "torch.jit:load",
    "torch.utils.cpp_extension:load", "torch:from_file", "torch.nn.modules.module:os",
    "torch.nn.modules.module:OrderedDict", "torch.nn.functional:importlib", "pathlib:Path",
    "torch.nn.modules.lazy:LazyModuleMixin", "torch.nn.parameter:Parameter", "json:loads",
    "flowyml.store.store:Store", "torch.distributed.nn:RemoteModule", "socket:socket",
]  # fmt: skip


@pytest.mark.parametrize("name", DANGEROUS)
@pytest.mark.parametrize("place", ["class", "name"])
def test_dangerous_names_are_refused(tmp_path: Path, name: str, place: str) -> None:
    data = (
        structure({"$class": name, "state": {"args": ["touch pwned"]}})
        if place == "class"
        else structure(module(forward={"$name": name}))
    )
    with pytest.raises((UntrustedDataError, MaterializationError)) as caught:
        modules.load(crafted(tmp_path, data), LoadOptions())
    assert name.replace(":", ".") in str(caught.value)
    assert not Path("pwned").exists()


def test_no_module_is_imported_for_a_name_that_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text(
        "import torch\nopen('imported', 'w').close()\nclass Net(torch.nn.Module): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    saved = crafted(tmp_path, structure({"$class": "stranger:Net", "state": {}}))
    with pytest.raises(UntrustedDataError, match="import the module that defines it"):
        modules.load(saved, LoadOptions())
    assert "stranger" not in sys.modules
    assert not Path("imported").exists()
    loaded = modules.load(saved, LoadOptions(Trust.of("stranger.Net")))
    assert type(loaded).__name__ == "Net"
    del sys.modules["stranger"]


def test_a_module_level_getattr_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lazy_module.py").write_text("def __getattr__(name): raise SystemExit(name)\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    importlib.import_module("lazy_module")
    saved = crafted(tmp_path, structure({"$class": "lazy_module:Net", "state": {}}))
    with pytest.raises((UntrustedDataError, MaterializationError), match="lazy_module.Net"):
        modules.load(saved, LoadOptions())
    del sys.modules["lazy_module"]


class Harmless:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_in_place_of_the_weights_is_not_run(tmp_path: Path, how: str) -> None:
    path = tmp_path / "evil"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Harmless()))
    else:
        torch.save(Harmless(), path, _use_new_zipfile_serialization=how == "zip")
    data = structure(module(x={"$tensor": 0}))
    saved = crafted(tmp_path, data, path.read_bytes())
    with pytest.raises((UntrustedDataError, MaterializationError)):
        modules.load(saved, LoadOptions())
    with pytest.raises((UntrustedDataError, MaterializationError)):
        modules.load(saved, LoadOptions(into=nn.Linear(1, 1)))
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "unfit",
    [
        "", "[", "null", "[]", "{}", "[" * 100_000, '{"a":' * 100_000, json.dumps(structure()),
        structure(root=1), structure(root={"$object": 7}), structure(module(), root={"$same": 1}),
        structure(module(x={"$new": 1})), structure(module(x={"$tensor": 5})),
        structure(module(x={"$tensor": "0"})), structure(module(x={"$float": "a"})),
        structure(module(x={"$dtype": "load"})), structure(module(x={"$size": ["a"]})),
        structure(module(x={"$shared": 1})), structure(module(x={"$enum": [{"$name": "a"}, "b"]})),
        structure({"$class": "no-name", "state": {}}), structure({"$class": 7, "state": {}}),
        structure({"state": {}}), structure(7), structure(module(x={"$dict": [[[], 1]]})),
        structure({"$class": "torch.nn.modules.linear:Linear", "state": []}),
        structure({"$class": "torch.nn.functional:relu", "state": {}}),
        structure({**module(), "parametrized": ["weight"]}), structure(module(x={"$partial": [1]})),
        structure(module(x={"$bytes": "zz"})), structure(module(x={"$ordered": 3})),
    ],
)  # fmt: skip
def test_an_unfit_structure_is_one_kind_of_error(tmp_path: Path, unfit: Any) -> None:
    with pytest.raises(MaterializationError, match="evil@v1"):
        modules.load(crafted(tmp_path, unfit), LoadOptions())


def test_a_class_that_is_gone_is_named_with_the_way_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(Configured(), "m")
    monkeypatch.delattr(sys.modules[__name__], "Configured")
    with pytest.raises(MaterializationError, match=r"Configured, which no longer exists.*into="):
        store.load("m", trust=[Plain])


def test_two_files_of_one_script_do_not_take_each_others_class(
    run_script: Callable[..., str],
) -> None:
    define = "from torch import nn\nfrom flowyml import Store\nclass Net(nn.Linear): pass\n"
    run_script(define + "Store.default().save(Net(1, 1), 'm')", name="one.py")
    code = "Store.default().load('m')\nprint('loaded')"
    failing = f"try:\n    {code.splitlines()[0]}\nexcept Exception as e: print(type(e).__name__)"
    assert run_script(define + code, name="one.py") == "loaded\n"
    assert run_script("import one\n" + define + code, name="two.py") == "loaded\nloaded\n"
    assert run_script("from flowyml import Store\n" + failing, name="three.py") != "loaded\n"


HOOKED = """
import torch
from torch import nn
import os as _os, tempfile
ran = []
class Finalized(nn.Module):
    def __del__(self): ran.append("__del__")
class Hashed(nn.Module):
    def __hash__(self): ran.append("__hash__"); return 1
class Watched(nn.Module):
    def __getattribute__(self, name): ran.append(name); return super().__getattribute__(name)
"""


@pytest.fixture
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's that is imported, with classes that run code of their own."""
    (tmp_path / "hooked.py").write_text(HOOKED)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("hooked")
    del sys.modules["hooked"]


@pytest.mark.parametrize("name", ["Finalized", "Hashed", "Watched"])
def test_a_class_that_python_calls_on_its_own_needs_trust(
    tmp_path: Path, hooked: Any, name: str
) -> None:
    saved = crafted(tmp_path, structure({"$class": f"hooked:{name}", "state": {}}))
    with pytest.raises(UntrustedDataError, match=f"hooked.{name}"):
        modules.load(saved, LoadOptions())
    assert hooked.ran == []
    assert type(modules.load(saved, LoadOptions(Trust.of(f"hooked.{name}")))).__name__ == name


@pytest.mark.parametrize("name", ["hooked:tempfile._TemporaryFileCloser", "hooked:_os.system"])
def test_trust_in_a_module_is_no_trust_in_what_it_imports(
    tmp_path: Path, hooked: Any, name: str
) -> None:
    saved = crafted(tmp_path, structure(module(x={"$name": name})))
    with pytest.raises(MaterializationError, match="no longer exists"):
        modules.load(saved, LoadOptions(Trust.of("hooked.*")))


@pytest.mark.parametrize(
    "name",
    ["torch.nn.attention.varlen:X", "torch.nn.parallel.distributed:DistributedDataParallel"],
)
def test_torch_itself_is_not_made_to_import_or_build_more(tmp_path: Path, name: str) -> None:
    imported = set(sys.modules)
    saved = crafted(tmp_path, structure({"$class": name, "state": {}}))
    with pytest.raises((UntrustedDataError, MaterializationError)):
        modules.load(saved, LoadOptions())
    assert set(sys.modules) == imported


def test_a_small_file_does_not_keep_the_loader_busy(tmp_path: Path) -> None:
    state = {"_all_weights": [[5]], "num_layers": 10**9, "bidirectional": True, "proj_size": 0}
    saved = crafted(tmp_path, structure({"$class": "torch.nn.modules.rnn:LSTM", "state": state}))
    assert modules.load(saved, LoadOptions()).num_layers == 10**9


class Foreign(nn.Module):
    """A class that another script has under the same name."""


def test_a_class_of_another_script_is_taken_by_name_with_a_warning_only(
    run_script: Callable[..., str],
) -> None:
    define = "from torch import nn\nfrom flowyml import Store\nclass Net(nn.Linear): pass\n"
    run_script(define + "Store.default().save(Net(1, 1), 'm')", name="one.py")
    load = (
        "import warnings\nwarnings.simplefilter('error')\n"
        "try:\n    Store.default().load('m')\nexcept Warning as told:\n    print(told)\n"
    )
    assert "saved by the script 'one'" in run_script(define + load, name="two.py")


CONFIGURED = """
from torch import nn
from flowyml import Store
class Config:
    width = 3
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = Config()
if __name__ == "__main__":
    Store.default().save(Net(), "m")
"""


def test_a_config_class_of_a_script_is_trusted_by_the_name_it_is_imported_under(
    run_script: Callable[..., str],
) -> None:
    run_script(CONFIGURED, name="training.py")
    code = """
from flowyml import Store
from flowyml.errors import UntrustedDataError
try:
    Store.default().load("m")
except UntrustedDataError as error:
    print(*error.required)
print(type(Store.default().load("m", trust=["training.*"]).config).__name__)
"""
    assert run_script(code, name="serving.py") == "training.Net training.Config\nConfig\n"


def test_files_that_are_missing_or_strange_are_one_kind_of_error(store: Store) -> None:
    from flowyml import adapters

    store.save(nn.Linear(1, 1), "m")
    materializer = adapters.materializer("pytorch.module")
    with pytest.raises(MaterializationError, match="structure.json is unfit"):
        materializer.load(Saved("m@v1", "module", {}, SaveResult()), LoadOptions())
    for strange in ({"$device": "foo"}, {"$float": 10**400}, {"$numpy": ["O", None, "00"]}):
        path = store.path / "structure.json"
        path.write_text(json.dumps(structure(module(x=strange))))
        saved = Saved("m@v1", "module", {"structure.json": path}, SaveResult())
        with pytest.raises(Exception, match=".") as caught:
            materializer.load(saved, LoadOptions())
        assert not isinstance(caught.value, (SystemExit, MemoryError))


def test_a_class_of_ones_own_script_is_trusted_for_itself_only(
    run_script: Callable[..., str],
) -> None:
    define = (
        CONFIGURED
        + """
    for trust in ([Config], "__main__.Config", "training.Config"):
        print(type(Store.default().load("m", trust=trust).config) is Config)
"""
    )
    assert run_script(define, name="training.py") == "True\nTrue\nTrue\n"
    other = """
import training
from flowyml import Store
from flowyml.errors import UntrustedDataError
class Config:
    pass
try:
    Store.default().load("m", trust=[Config])
except UntrustedDataError as error:
    print(*error.required)
"""
    assert run_script(other, name="other.py") == "training.Config\n"


def test_a_script_that_cannot_be_imported_is_said_to_need_into(
    run_script: Callable[..., str],
) -> None:
    define = "from torch import nn\nfrom flowyml import Store\nclass Net(nn.Linear): pass\n"
    run_script(define + "Store.default().save(Net(1, 1), 'm')", name="02-train.py")
    load = (
        "from flowyml import Store\ntry: Store.default().load('m')\nexcept Exception as e: print(e)"
    )
    told = run_script(load, name="serve.py")
    assert "__main__.Net, which no longer exists" in told
    assert "into=" in told


class Moved(nn.Linear):
    pass


def test_a_class_map_says_where_a_class_has_moved(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = nn.Sequential(Configured(), Moved(2, 2))
    store.save(net, "m")
    for name in ("Configured", "Moved", "Plain"):
        monkeypatch.setattr(
            sys.modules[__name__], name, type(name, (globals()[name],), {"__module__": "gone"})
        )
    with pytest.raises(MaterializationError, match=r"class_map=\{.*Configured': NewClass\}"):
        store.load("m", trust=[f"{__name__}.*"])
    here = sys.modules[__name__]
    new = {f"{__name__}.{name}": getattr(here, name) for name in ("Configured", "Moved", "Plain")}
    back = store.load("m", class_map=new)
    assert [type(part) for part in back] == [here.Configured, here.Moved]
    assert type(back[0].config) is here.Plain
    assert torch.equal(back[1].weight, net[1].weight)
    state = store.load("m", format="state_dict")
    assert list(state) == list(net.state_dict())
    assert torch.equal(state["1.weight"], net[1].weight)


def test_damage_names_the_tensors(store: Store) -> None:
    net = nn.Sequential(nn.Linear(200, 200), nn.BatchNorm1d(200), nn.Linear(3, 3))
    store.save({"net": net, "extra": [torch.ones(9000)]}, "m")
    told = {}
    for file in store.get("m").stored.files:
        path = store.path / "blobs" / file.digest[:2] / file.digest[2:]
        honest = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(honest[: len(honest) // 2] + b"?" + honest[len(honest) // 2 + 1 :])
        with pytest.raises(IntegrityError, match=rf"m@v1, file '{file.path}', is damaged") as error:
            store.load("m")
        told[file.path] = str(error.value).partition("Damaged in it: ")[2]
        path.write_bytes(honest)
    assert "the tensor net.0.weight." in told.values()
    assert "the tensor extra.0." in told.values()
    assert any("one or more of the tensors net.0.bias, net.1.weight" in t for t in told.values())
    assert told["structure.json"] == ""
    store.load("m")
