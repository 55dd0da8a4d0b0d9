"""Modules as exported programs: a ``.pt2`` file that needs none of the module's classes.

``torch.export`` traces a module with example inputs into a graph of torch's own operators. The
file is a plain ``.pt2`` archive, without the parts through which ``torch.export.load`` would run
code; it comes back through torch's deserializer only after every word of it has been checked.
"""

from __future__ import annotations

import importlib
import inspect
import json
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._export.serde import schema
from torch._export.serde.serialize import (
    ExportedProgramDeserializer,
    _dict_to_dataclass,
    serialize,
)
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from flowyml.errors import MaterializationError, MaterializationWarning, UntrustedDataError, warn
from flowyml.interfaces import LoadOptions, Saved, SaveResult
from flowyml_pytorch.describing.census import class_name, unwrap
from flowyml_pytorch.exporting import archive as program_archive
from flowyml_pytorch.exporting.archive import Archive
from flowyml_pytorch.exporting.checks import Checker
from flowyml_pytorch.exporting.export import export
from flowyml_pytorch.storing.mapped import check_device, placed
from flowyml_pytorch.storing.modules import load_into

FILE = "program.pt2"

_KEPT = ("nn_module_stack", "torch_fn")
"""What is kept of a node's metadata; the rest are paths of the machine and ids of objects."""

_ELSEWHERE = ("serialize_state_dict", "serialize_constants", "serialize_example_inputs")
"""What the serializer needn't do here, where it has the option."""

_LARGEST_EXAMPLE = 1 << 28
"""Bytes of the inputs that stand in for the example inputs, which aren't stored."""

_lock = threading.Lock()
"""torch's deserializer keeps its state in a global variable."""


def save(model: nn.Module | ExportedProgram, folder: Path, example_inputs: Any) -> SaveResult:
    """Write ``program.pt2``: a module in its present mode, or a program that was exported already.

    A wrapper, such as what ``torch.compile`` returns, is exported as the model inside.

    Args:
        model: what to save; it doesn't change.
        folder: where to write the file.
        example_inputs: what the module's forward takes: a tensor, a tuple of positional
            arguments, or a dict of keyword arguments. Not needed for an exported program.

    Raises:
        MaterializationError: when there are no example inputs, or with torch's reason for not
            exporting the module.
    """
    details: dict[str, Any] = {"torch": str(torch.__version__)}
    if isinstance(model, ExportedProgram):
        program = model
        data, required = _described(program)
        details["kind"] = "program"
    else:
        module, _ = unwrap(model)
        name = class_name(module)
        if example_inputs is None:
            raise MaterializationError(
                f"{name} can't be saved as an exported program without example inputs: torch "
                f"traces its forward with them. Give them to "
                f"Model.from_pytorch(..., example_inputs=...)."
            )
        found = export(module, example_inputs, _described)
        program, (data, required) = found.program, found.description
        details |= {
            "kind": "module",
            "class": name,
            "training": module.training,
            "dynamic": [*found.dynamic],
        }
        if module.training and _behaves_as_in_training(program):
            warn(
                f"{name} is exported in training mode, and stays in it: its dropout and batch "
                f"normalization act as in training. Call eval() before you save it to export it "
                f"for inference.",
                MaterializationWarning,
            )
    weights = {key: item for key, item in program.state_dict.items() if isinstance(item, Tensor)}
    left_out = [key for key in program.state_dict if key not in weights]
    if left_out:
        details["left_out"] = left_out
    program_archive.write(folder / FILE, data, weights, program.constants)
    return SaveResult(required_trust=required, details=details)


def _described(program: ExportedProgram) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a program as JSON data, without traces of the machine, and the trust it needs."""
    known = inspect.signature(serialize).parameters.keys()
    options: dict[str, Any] = dict.fromkeys(known & {*_ELSEWHERE}, False)
    try:
        artifact = serialize(program, **options)
    except Exception as error:  # the serializer raises AssertionErrors and more
        raise MaterializationError(
            f"torch can't write the exported program: {_first_line(error)}"
        ) from error
    data = json.loads(artifact.exported_program)
    data["graph_module"]["metadata"] = {}
    for node in _nodes(data["graph_module"]["graph"]):
        node["metadata"] = {key: node["metadata"][key] for key in _KEPT if key in node["metadata"]}
    checker = Checker("what was exported")
    try:
        checker.check_program(data)
    except UntrustedDataError as error:
        raise MaterializationError(
            f"its program couldn't be loaded without running what is unknown: {checker.refused}"
        ) from error
    return data, checker.required


def _nodes(graph: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a graph as JSON data, with those of the graphs in it."""
    for node in graph["nodes"]:
        yield node
        for item in node["inputs"]:
            if "as_graph" in item["arg"]:
                yield from _nodes(item["arg"]["as_graph"]["graph"])


def _behaves_as_in_training(program: ExportedProgram) -> bool:
    """Tell whether an operator was told that this is training."""
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            schema = getattr(node.target, "_schema", None)
            if node.op == "call_function" and schema is not None:
                names = (argument.name for argument in schema.arguments)
                given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
                if given.get("train") is True or given.get("training") is True:
                    return True
    return False


def load(saved: Saved, options: LoadOptions) -> Any:
    """Give back a module that computes what the saved one did, or the exported program.

    The module is in the mode that it was exported in. It can't change to the other one: what
    ``train()`` and ``eval()`` do to a layer isn't in the graph. With ``into=``, the parameters
    and buffers fill a module that the caller built.

    Raises:
        UntrustedDataError: when the file holds what torch might run as code, or when the program
            uses operators or containers of other libraries that the caller doesn't trust.
        MaterializationError: when the file can't be turned into a program.
    """
    if options.device is not None:
        check_device(options.device, saved.ref)
    archive = Archive.read(saved.files[FILE], saved.ref)
    checker = Checker(saved.ref)
    checker.check_tensors(archive.weights)
    checker.check_tensors(archive.constants)
    checker.check_program(archive.program)
    if options.into is not None:
        weights = archive.tensors("weights", archive.weights, lambda _: torch.device("cpu"))
        return load_into(options.into, weights, saved, options)
    checker.refuse_untrusted(options.trust)
    _import_trusted(checker)
    program = _built(archive, _placement(options.device))
    if saved.result.details.get("kind") != "module":
        return program
    return _callable(program, saved)


def _placement(device: Any) -> Callable[[str], torch.device]:
    """Return what decides where to put things; None leaves them where they were, if it is here."""

    def place(was: str) -> torch.device:
        if torch.device(was).type == "meta":
            return torch.device("meta")
        return placed(was) if device is None else torch.device(device)

    return place


def _import_trusted(checker: Checker) -> None:
    """Import what defines the trusted containers; operators have to be there already."""
    checker.refuse_unknown()
    for name in checker.containers:
        if name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            try:
                importlib.import_module(name.rpartition(".")[0])
            except ImportError as error:
                raise MaterializationError(f"{checker.ref} needs {name}: {error}") from error


def _built(archive: Archive, place: Callable[[str], torch.device]) -> ExportedProgram:
    """Make the program of what was checked."""
    weights = archive.tensors("weights", archive.weights, place)
    constants = archive.tensors("constants", archive.constants, place)
    try:
        description = _dict_to_dataclass(schema.ExportedProgram, _moved(archive.program, place))
        with _lock:
            program = ExportedProgramDeserializer().deserialize(description, weights, constants)
        program.example_inputs = _stand_ins(program, place)
    except Exception as error:  # whatever a description may lead to that is harmless but wrong
        raise MaterializationError(
            f"{archive.ref}: torch {torch.__version__} can't make a program of {FILE}, which torch "
            f"{archive.program.get('torch_version')} wrote: {_first_line(error)}"
        ) from error
    return program


def _moved(data: Any, place: Callable[[str], torch.device]) -> Any:
    """Return a program's description with its devices replaced."""
    if isinstance(data, list):
        return [_moved(item, place) for item in data]
    if not isinstance(data, dict):
        return data
    if data.keys() == {"type", "index"}:
        device = place(program_archive.device_name(data))
        return {"type": device.type, "index": device.index}
    moved = {key: _moved(item, place) for key, item in data.items()}
    if str(data.get("target")).endswith(".wrap_with_autocast"):
        first = moved["inputs"][0]["arg"]
        first["as_string"] = place(first["as_string"]).type
    return moved


def _stand_ins(program: ExportedProgram, place: Callable[[str], torch.device]) -> Any:
    """Return inputs of zeros in place of the example inputs.

    torch asks them for the names of the inputs that its guards speak of; without them, a program
    would take sizes that it wasn't exported for.
    """
    specs = program.graph_signature.input_specs
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    values = [
        node.meta["val"]
        for node, spec in zip(inputs, specs, strict=True)
        if spec.kind is InputKind.USER_INPUT
    ]
    leaves = [_stand_in(value) for value in values]
    if sum(leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)) > _LARGEST_EXAMPLE:
        return None
    spec = program.call_spec.in_spec
    assert spec is not None
    return pytree.tree_unflatten(
        [torch.zeros_like(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec
    )


def _stand_in(value: Any) -> Any:
    if isinstance(value, Tensor):
        shape = [_hint(size) for size in value.shape]
        return torch.zeros((), dtype=value.dtype, device=value.device).expand(shape)
    return _hint(value)


def _hint(value: Any) -> Any:
    """Return the size that a symbol had when it was traced."""
    return value.node.hint if isinstance(value, torch.SymInt) else value


def _callable(program: ExportedProgram, saved: Saved) -> nn.Module:
    """Return a program as a module, in its mode."""
    try:
        module = program.module()
    except Exception as error:  # as above
        raise MaterializationError(
            f"{saved.ref}: torch can't make a module of {FILE}: {_first_line(error)}"
        ) from error
    nn.Module.train(module, saved.result.details.get("training") is True)
    vars(module).update(
        train=types.MethodType(_train, module), eval=types.MethodType(_eval, module)
    )
    return module


def _train(self: nn.Module, mode: bool = True) -> nn.Module:
    if bool(mode) == self.training:
        return self
    was, other = ("training", "eval") if self.training else ("eval", "train")
    raise NotImplementedError(
        f"this module was exported in {was} mode, and an exported graph can't change its mode. "
        f"Call {other}() on the original model before you save it, or save it in the format "
        f"'module', which can do both."
    )


def _eval(self: nn.Module) -> nn.Module:
    return _train(self, False)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0].strip()[:300]}"
