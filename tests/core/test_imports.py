"""What an import costs and touches, seen from a new process."""

from collections.abc import Callable

import pytest

import flowyml

CHECK = """
import sys
{code}
loaded = {{"torch", "numpy", "flowyml_pytorch", "flowyml.builtin", "blake3"}} & set(sys.modules)
print(sorted(loaded))
"""


ADDED = """
import sys
import attrs, importlib_metadata, pluggy
needed = set(sys.modules)
{code}
print(*{{name.partition(".")[0] for name in set(sys.modules) - needed}})
print(*sorted(name for name in sys.modules if name.startswith("flowyml.")))
"""


def test_an_import_adds_nothing_to_what_it_is_made_of_but_itself(
    run_python: Callable[..., str],
) -> None:
    added, ours = run_python(ADDED.format(code="import flowyml")).splitlines()
    assert added == "flowyml"  # none of datetime, difflib, email, html, zipfile, ...
    assert not {"flowyml.steps", "flowyml.store", "flowyml.summary"} & {*ours.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import flowyml",
        "import flowyml; flowyml.adapters.list()",
        "import flowyml; dir(flowyml.Model); dir(flowyml)",
    ],
)
def test_an_import_touches_no_framework_and_no_adapter(
    code: str, run_python: Callable[..., str]
) -> None:
    assert run_python(CHECK.format(code=code)).strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in flowyml.__all__:
        assert getattr(flowyml, name) is not None, name
    assert set(dir(flowyml)) == set(flowyml.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'models_'"):
        flowyml.models_  # type: ignore[attr-defined]  # noqa: B018
