import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyml import encoding

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
)
keys = st.text(max_size=5) | st.integers() | st.booleans() | st.tuples(st.integers())
values = st.recursive(
    scalars | st.sampled_from(["$float", "$tuple", "$$x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$float", "$tuple", "$dict", "$$", "a"]), inner)
    ),
    max_leaves=20,
)


def same(left: object, right: object) -> bool:
    """Equal in value and in type, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        assert isinstance(right, (list, tuple))
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        assert isinstance(right, dict)
        return same(list(left.items()), list(right.items()))
    return left == right


@given(values)
def test_what_goes_in_comes_out(value: object) -> None:
    assert same(encoding.loads(encoding.dumps(value)), value)


@given(values)
def test_the_text_is_strict_json(value: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(encoding.dumps(value), parse_constant=refuse)


@given(values)
def test_one_value_has_one_text(value: object) -> None:
    assert encoding.dumps(value) == encoding.dumps(encoding.loads(encoding.dumps(value)))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, -0.0])
def test_special_numbers_survive(value: float) -> None:
    back = encoding.loads(encoding.dumps([value]))[0]
    assert math.copysign(1, back) == math.copysign(1, value)
    assert back == value or (math.isnan(back) and math.isnan(value))


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), 1j, [lambda: 0], {"a": {1}}, range(3)])
def test_other_types_are_refused(value: object) -> None:
    assert not encoding.is_encodable(value)
    with pytest.raises(encoding.EncodingError, match="has no JSON form"):
        encoding.encode(value)


def test_a_subclass_is_refused_because_it_would_come_back_as_its_base() -> None:
    class Number(int):
        pass

    assert not encoding.is_encodable(Number(1))


def test_cycles_are_refused_at_once() -> None:
    cycle: list[object] = []
    cycle += [cycle, cycle]
    with pytest.raises(encoding.EncodingError, match="contains itself"):
        encoding.encode(cycle)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"nonsense", b"\xff", b'{"$new": 1}', b'{"$float": "1.5"}', b'{"$tuple": 3}',
        b'{"$dict": [1]}', b'{"$dict": [[[], 1]]}', b'{"$dict": 7}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_unfit_text_is_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(encoding.EncodingError):
        encoding.loads(text)
