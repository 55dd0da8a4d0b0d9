import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyml import names


@pytest.mark.parametrize("name", ["digits", "a.b-c_d", "_x", "9", "A" * 128])
def test_a_name_may_be(name: str) -> None:
    assert names.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a b", "-a", ".a", "ä", "a@b", "A" * 129, "a\n", "a\0"]
)
def test_a_name_may_not_be(name: str) -> None:
    with pytest.raises(ValueError, match="can't be a name"):
        names.check_name(name)


@given(st.text())
def test_any_text_has_a_name_near_it(text: str) -> None:
    names.check_name(names.from_text(text))


def test_refs() -> None:
    assert names.parse_ref("digits") == ("digits", None)
    assert names.parse_ref("digits@v3") == ("digits", "v3")
    for unfit in ("digits@", "@v1", "a@b@c", "a@../b"):
        with pytest.raises(ValueError, match="can't be a"):
            names.parse_ref(unfit)
    with pytest.raises(TypeError, match="a ref is a string"):
        names.parse_ref(3)


def test_versions_are_ordered_by_their_numbers() -> None:
    versions = ["v10", "v9", "v1", "1.10.0", "1.9.0"]
    assert sorted(versions, key=names.version_order) == ["1.9.0", "1.10.0", "v1", "v9", "v10"]


def test_the_last_number_is_the_highest() -> None:
    assert names.last_number([]) == 0
    assert names.last_number(["v1", "v10", "v9", "1.0", "v11b"]) == 10
