import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from flowyml import Store, adapters, seed_everything, step
from flowyml.builtin import NumpyRandomSource, PythonRandomSource
from flowyml.errors import AdapterWarning
from flowyml.interfaces import RandomSource
from flowyml.seeds import seeded


def numbers() -> tuple[float, float]:
    return random.random(), float(np.random.rand())


def test_a_seed_reaches_python_and_numpy() -> None:
    assert seed_everything(7) == 7
    first = numbers()
    seed_everything(np.int64(7))
    assert numbers() == first
    seed_everything(8)
    assert numbers() != first


@pytest.mark.parametrize("seed", ["7", 7.0, None, True])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(TypeError, match="a seed has to be a whole number"):
        seed_everything(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_has_a_range(seed: int) -> None:
    with pytest.raises(ValueError, match="0 ≤ seed < 2"):
        seed_everything(seed)


def test_a_step_is_seeded_and_the_outer_state_is_put_back(store: Store) -> None:
    @step(seed=3, store=store)
    def draw() -> list[float]:
        return list(numbers())

    seed_everything(1)
    expected = numbers(), numbers()
    seed_everything(1)
    assert numbers() == expected[0]
    first = draw()
    assert numbers() == expected[1]
    assert draw() == first


def test_the_outer_state_is_put_back_after_an_error(store: Store) -> None:
    @step(seed=3, store=store)
    def fail() -> None:
        numbers()
        raise RuntimeError

    seed_everything(1)
    expected = numbers()
    seed_everything(1)
    with pytest.raises(RuntimeError):
        fail()
    assert numbers() == expected


class Failing(RandomSource):
    """A source of which one method fails."""

    name = "failing"

    def __init__(self, method: str) -> None:
        self.method = method
        self.calls: list[str] = []

    def call(self, method: str) -> None:
        self.calls.append(method)
        if method == self.method:
            raise SystemExit(method)

    def seed(self, seed: int) -> None:
        self.call("seed")

    def state(self) -> None:
        self.call("state")

    def restore(self, state: object) -> None:
        self.call("restore")


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("seed", ["state", "seed", "restore"]),
        ("restore", ["state", "seed", "restore"]),
        ("state", ["state", "seed"]),
    ],
)
def test_a_source_that_fails_keeps_no_other_from_being_put_back(
    method: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Failing(method)
    sources = [source, *adapters.random_sources()]
    monkeypatch.setattr(adapters, "random_sources", lambda: sources)

    random.seed(1)
    np.random.seed(1)
    expected = numbers()
    random.seed(1)
    np.random.seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(AdapterWarning, match=f"'failing' failed: SystemExit: {method}"):
            enter(3)
    assert source.calls == calls
    assert numbers() == expected


def enter(seed: int) -> None:
    with seeded(seed):
        assert numbers()


def test_the_outer_state_is_put_back_where_warnings_are_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = [Failing("restore"), *adapters.random_sources()]
    monkeypatch.setattr(adapters, "random_sources", lambda: sources)
    random.seed(1)
    np.random.seed(1)
    expected = numbers()
    random.seed(1)
    np.random.seed(1)
    with pytest.raises(AdapterWarning, match="'failing' failed"):
        enter(3)
    assert numbers() == expected


SOURCES = [PythonRandomSource(), NumpyRandomSource()]


def drawn() -> tuple[float, ...]:
    """Numbers of which the last takes the normal number that was kept for later."""
    return (*numbers(), random.gauss(0, 1), float(np.random.normal()))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_a_packed_state_goes_on_as_the_state_would_have(source: RandomSource) -> None:
    seed_everything(5)
    drawn()  # which leaves a normal number for later
    data = source.pack(source.state())
    assert data is not None
    expected = drawn()
    seed_everything(6)
    drawn()
    for other in SOURCES:
        if other.name != source.name:
            seed_everything(5)
            drawn()
    source.restore(source.unpack(data))
    assert drawn() == expected
    assert source.pack(source.unpack(data)) == data


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_packed_states_are_equal_when_the_states_are(source: RandomSource) -> None:
    packed = []
    for seed in (5, 6, 5):
        source.seed(seed)
        packed.append(source.pack(source.state()))
        drawn()
        packed.append(source.pack(source.state()))
    assert packed[0:2] == packed[4:6]
    assert len({*packed}) == 4


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"x" + data[1:],
        lambda data: data.replace(b"python", b"numpy") if b"python" in data else b"python",
        lambda data: data[:-13] + b"\xff\xff\xff\xff" + data[-9:],  # more words used than there are
        lambda data: (head := data[: data.index(b"\n") + 1]) + bytes(len(data) - len(head)),
    ],
)
def test_what_is_no_packed_state_is_refused(
    source: RandomSource, damage: Callable[[bytes], bytes]
) -> None:
    data = source.pack(source.state())
    assert data is not None
    with pytest.raises(ValueError, match="state"):
        source.unpack(damage(data))


def test_another_generator_of_numpy_is_put_back_and_not_packed() -> None:
    source = NumpyRandomSource()
    usual = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        state = source.state()
        expected = np.random.rand()
        source.restore(state)
        assert np.random.rand() == expected
        assert source.pack(state) is None
    finally:
        np.random.set_bit_generator(usual)


def test_there_is_nothing_to_pack_where_numpy_is_not_imported(
    run_python: Callable[..., str],
) -> None:
    code = """
from flowyml.builtin import NumpyRandomSource
import sys
source = NumpyRandomSource()
assert "numpy" not in sys.modules
print(source.state(), source.pack(source.state()))
"""
    assert run_python(code) == "None None\n"
