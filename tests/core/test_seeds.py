import random

import numpy as np
import pytest

from flowyml import Store, seed_everything, step


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
