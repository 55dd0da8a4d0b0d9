"""The state dict of a module as one safetensors file."""

from __future__ import annotations

import json
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import nn

from flowyml.errors import MaterializationError, MaterializationWarning
from flowyml.interfaces import LoadOptions, Saved, SaveResult
from flowyml_pytorch.exporting import safetensors_file

torch.set_num_threads(1)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.outer = nn.Linear(3, 3, bias=False)
        self.outer.weight = self.inner.weight


class WithExtra(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"calls": 3}

    def set_extra_state(self, state: Any) -> None:
        raise AssertionError("there is no extra state to set")


class Holding(nn.Module):
    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        for index, tensor in enumerate(tensors):
            self.register_buffer(f"t{index}", tensor)


def saved(module: nn.Module, folder: Path) -> Saved:
    """Save a module, and describe it as a store would; its files are read-only there."""
    folder.mkdir(exist_ok=True)
    result = safetensors_file.save(module, folder)
    path = folder / "model.safetensors"
    path.chmod(0o444)
    return Saved("m@v1", "safetensors", {path.name: path}, result)


def load(given: Saved, **options: Any) -> Any:
    return safetensors_file.load(given, LoadOptions(**options))


def test_a_state_dict_comes_back_in_its_order(tmp_path: Path) -> None:
    module = Tied()
    given = saved(module, tmp_path)
    back = load(given)
    state = module.state_dict()
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    assert back._metadata["norm"]["version"] == state._metadata["norm"]["version"] == 2
    assert given.result.restore == "weights"
    fresh = Tied()
    fresh.load_state_dict(back)
    assert torch.equal(fresh.outer.weight, module.inner.weight)


def test_a_tie_is_written_once_and_comes_back(tmp_path: Path) -> None:
    module = Tied()
    given = saved(module, tmp_path)
    assert given.result.details["aliases"] == {"outer.weight": "inner.weight"}
    back = load(given)
    assert back["outer.weight"] is back["inner.weight"]
    other = Tied()
    assert load(given, into=other) is other
    assert other.outer.weight is other.inner.weight
    assert torch.equal(other.inner.weight, module.inner.weight)


def test_other_readers_take_the_file(tmp_path: Path) -> None:
    module = Tied()
    path = saved(module, tmp_path).files["model.safetensors"]
    other = Tied()
    load_model(other, path)
    assert torch.equal(other.outer.weight, module.outer.weight)
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt", "outer.weight": "inner.weight"}
    assert "outer.weight" not in load_file(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.arange(6.0).view(2, 3).t(),
        torch.arange(100)[40:43],
        torch.ones(1).expand(4),
        torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(3).to(torch.bfloat16),
        torch.randn(3).to(torch.float8_e4m3fn),
        torch.tensor([True, False]),
        torch.tensor([-1, 2], dtype=torch.int8),
        torch.randn(2, dtype=torch.complex64).conj(),
        torch.randn(2, dtype=torch.complex64).conj().imag,
        nn.Parameter(torch.ones(2), requires_grad=False),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_tensors_of_all_kinds_come_back(tmp_path: Path, tensor: torch.Tensor) -> None:
    given = saved(Holding(tensor), tmp_path)
    back = load(given)["t0"]
    assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    assert torch.equal(back.reshape(-1).view(torch.uint8), plain.reshape(-1).view(torch.uint8))
    assert given.files["model.safetensors"].stat().st_size < 600


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.randn(2, dtype=torch.complex128), "t0 is of torch.complex128"),
        (torch.eye(2).to_sparse(), "t0 is of the layout torch.sparse_coo"),
        (torch.empty(2, device="meta"), "t0 is on the meta device"),
        (nn.UninitializedBuffer(), "t0 is a UninitializedBuffer"),
    ],
)
def test_what_the_format_has_no_place_for_is_named(
    tmp_path: Path, tensor: torch.Tensor, problem: str
) -> None:
    with pytest.raises(MaterializationError, match=f"Holding can't be .*{problem}"):
        safetensors_file.save(Holding(tensor), tmp_path)


def test_parts_of_one_storage_are_written_once_each(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    back = load(saved(Holding(whole[:3], whole[3:]), tmp_path))
    assert back["t0"].tolist() == [0, 1, 2]
    assert back["t1"].tolist() == [3, 4, 5]


def test_an_overlap_is_told_when_it_is_lost(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    with pytest.warns(MaterializationWarning, match="Memory that t1 shared"):
        back = load(saved(Holding(whole, whole[2:4]), tmp_path))
    assert back["t1"].tolist() == [2, 3]


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = nn.Module()
    module.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(8))
    for layer in module.layers:
        layer.weight = module.layers[0].weight
    contents = {
        saved(module, tmp_path / str(turn)).files["model.safetensors"].read_bytes()
        for turn in range(4)
    }
    assert len(contents) == 1


def test_changes_stay_in_memory(tmp_path: Path) -> None:
    given = saved(Tied(), tmp_path)
    before = given.files["model.safetensors"].read_bytes()
    back = load(given)
    back["inner.weight"].zero_()
    assert load(given)["inner.weight"].any()
    assert given.files["model.safetensors"].read_bytes() == before


def test_a_module_is_filled_strictly(tmp_path: Path) -> None:
    given = saved(Tied(), tmp_path)
    other = Tied()
    other.inner = nn.Linear(4, 3)
    other.more = nn.Linear(1, 1)
    del other.norm
    before = other.inner.weight.clone()
    with pytest.raises(MaterializationError) as caught:
        load(given, into=other)
    for part in ("more.weight", "norm.bias", "inner.weight (saved [3, 3], into= has [3, 4])"):
        assert part in str(caught.value)
    assert torch.equal(other.inner.weight, before)


def test_what_is_no_tensor_is_left_out_and_told(tmp_path: Path) -> None:
    module = WithExtra(2, 2)
    with pytest.warns(MaterializationWarning, match="Left out are _extra_state"):
        given = saved(module, tmp_path)
    assert list(load(given)) == ["weight", "bias"]
    other = WithExtra(2, 2)
    with pytest.warns(MaterializationWarning, match="_extra_state"):
        load(given, into=other)
    assert torch.equal(other.weight, module.weight)


def test_tensors_go_where_they_are_asked_to(tmp_path: Path) -> None:
    given = saved(Tied(), tmp_path)
    back = load(given, device="meta")
    assert back["inner.weight"].device.type == "meta"
    assert back["outer.weight"] is back["inner.weight"]
    with pytest.raises(MaterializationError, match="device='nowhere'"):
        load(given, device="nowhere")


def test_a_device_that_is_not_here_becomes_the_cpu(tmp_path: Path) -> None:
    given = saved(nn.Linear(1, 1), tmp_path)
    details = {**given.result.details, "device": "cuda:77"}
    elsewhere = Saved("m@v1", given.format, given.files, SaveResult("weights", details=details))
    assert load(elsewhere)["weight"].device.type == "cpu"


def test_a_wrapper_is_saved_as_the_model_inside(tmp_path: Path) -> None:
    assert list(load(saved(torch.compile(nn.Linear(2, 2), backend="eager"), tmp_path))) == [
        "weight",
        "bias",
    ]


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = saved(nn.Linear(1, 1), tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(MaterializationError, match=r"Install flowyml-pytorch\[safetensors\]"):
        load(given)
    with pytest.raises(MaterializationError, match=r"Install flowyml-pytorch\[safetensors\]"):
        safetensors_file.save(nn.Linear(1, 1), tmp_path)


def crafted(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0",
        crafted({}, length=2**63 - 1),
        crafted({}, length=2**64 - 1),
        crafted({}, length=99_999_999),
        crafted(one([2**62, 4], [0, 0])),
        crafted(one([2**31, 2**31], [0, 4]), b"1234"),
        crafted(one([-1], [0, 4]), b"1234"),
        crafted(one([1], [4, 0]), b"1234"),
        crafted(one([1], [0, 2**63])),
        crafted(one([1], [0, 4], "X8"), b"1234"),
        crafted(b"[" * 100_000),
        crafted(b'{"a":' * 5_000),
        crafted(one([1], [0, 4]), b"1234"),
    ],
)
def test_a_damaged_or_hostile_file_is_refused(tmp_path: Path, content: bytes) -> None:
    given = saved(nn.Linear(1, 1), tmp_path)
    path = given.files["model.safetensors"]
    path.chmod(0o644)
    path.write_bytes(content)
    with pytest.raises(MaterializationError, match=r"model.safetensors (can't be|isn't)"):
        load(given)


def test_no_flipped_byte_of_the_header_does_harm(tmp_path: Path) -> None:
    given = saved(Tied(), tmp_path)
    path = given.files["model.safetensors"]
    path.chmod(0o644)
    honest = path.read_bytes()
    numbers = random.Random(0)
    end = 16 + struct.unpack_from("<Q", honest)[0]

    def attempt(change: Callable[[bytearray], None]) -> bool:
        content = bytearray(honest)
        change(content)
        path.write_bytes(content)
        try:
            load(given)
        except MaterializationError:
            return False
        return True

    def flip(content: bytearray) -> None:
        content[numbers.randrange(end)] = numbers.randrange(256)

    assert 0 < sum(attempt(flip) for _ in range(300)) < 100
