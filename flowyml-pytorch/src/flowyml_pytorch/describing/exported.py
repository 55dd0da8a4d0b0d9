"""A census of a ``torch.export.ExportedProgram``, read from its graph and signature.

The layers are those that the export noted beside the operations, so one without operations isn't
among them. An operation counts as functional where the innermost layer is no layer of torch's.
"""

from __future__ import annotations

from typing import Any

from flowyml_pytorch.describing.census import SAMPLE, Census, LayerCount, count
from flowyml_pytorch.describing.functional import is_operation


def take(program: Any) -> Census:
    """Read an exported program."""
    signature = program.graph_signature
    paths = _layers(program)
    census = Census("ExportedProgram", training=False)
    census.class_name = paths.pop("", census.class_name).rpartition(".")[2]
    census.num_layers = max(len(paths), 1)
    for kind in paths.values():
        census.layers.setdefault(kind.rpartition(".")[2], LayerCount()).count += 1

    names: dict[int, list[str]] = {}
    for name in signature.parameters:
        parameter = program.state_dict[name]
        names.setdefault(id(parameter), []).append(name)
        if len(names[id(parameter)]) > 1:
            continue
        elements = count(parameter, census.parameters)
        census.trainable += elements if parameter.requires_grad else 0
        layer = paths.get(name.rpartition(".")[0])
        if layer is not None:
            census.layers[layer.rpartition(".")[2]].parameters += elements
    census.ties = [group for group in names.values() if len(group) > 1]
    census.non_persistent = list(signature.non_persistent_buffers)
    buffers = (
        (program.state_dict if name in program.state_dict else program.constants)[name]
        for name in signature.buffers
    )
    for buffer in {id(buffer): buffer for buffer in buffers}.values():
        count(buffer, census.buffers)
    census.tensors = len(program.state_dict)
    for name, tensor in list(program.state_dict.items())[:SAMPLE]:
        census.sample[name] = list(tensor.shape)
    census.operations = dict.fromkeys(_functional(program))
    return census


def _stack(node: Any) -> list[tuple[str, str]]:
    """Return path and type of the layers that an operation was called in, the innermost last."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(path, _dotted(kind)) for path, kind in stack.values()]


def _dotted(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _layers(program: Any) -> dict[str, str]:
    return dict(pair for node in program.graph.nodes for pair in _stack(node))


def _functional(program: Any) -> list[str]:
    found = []
    for node in program.graph.nodes:
        stack = _stack(node)
        inner = stack[-1][1] if stack else ""
        if node.op == "call_function" and not inner.startswith("torch.nn."):
            packet = getattr(node.target, "_overloadpacket", None)
            name = str(getattr(packet, "__name__", "")).rstrip("_")
            if is_operation(name):
                found.append(name)
    return found
