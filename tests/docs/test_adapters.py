"""The pages on adapters say what the code says, and their adapter works.

The declarations of a page are executed and compared with those of the code, member by member; what
either of them lacks is a failure, and so is a member that the prose doesn't explain.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any, get_args

import attrs
import pytest

from flowyml import (
    adapters,
    errors,
    hookspecs,
    interfaces,
    isolation,
    models,
    new_adapter,
    registry,
    summary,
    testing,
    trust,
)
from flowyml.errors import FlowymlError, FlowymlWarning

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "adapters"
FENCE = re.compile(r"^```(?P<language>\w*)(?P<title>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S)


def read(page: str) -> str:
    return (PAGES / f"{page}.md").read_text(encoding="utf-8")


def python_of(page: str) -> str:
    return "\n".join(block.code for block in code_blocks().blocks_of(page) if block.is_executed)


def declared_in(page: str) -> dict[str, Any]:
    """What the Python blocks of a page define."""
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(python_of(read(page)), page, "exec", dont_inherit=True), names)  # noqa: S102  (our own page)
    return names


def own(declared: dict[str, Any]) -> dict[str, Any]:
    """The classes and functions among them that the page itself defines."""
    return {n: item for n, item in declared.items() if getattr(item, "__module__", "") == "page"}


def classes_of(module: Any) -> Iterator[type]:
    for name, item in vars(module).items():
        if isinstance(item, type) and item.__module__ == module.__name__ and name[0] != "_":
            yield item


def functions_of(module: Any) -> dict[str, FunctionType]:
    return {
        name: item
        for name, item in vars(module).items()
        if inspect.isfunction(item) and item.__module__ == module.__name__ and name[0] != "_"
    }


def section(page: str, title: str) -> str:
    """What stands between a heading and the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", page, re.M | re.S)
    assert found, f"there is no heading {title!r}"
    return found[1]


def prose(page: str, title: str) -> str:
    """The same without code."""
    return section(FENCE.sub("", page), title)


def text_of(value: object) -> str:
    """A value as text that is the same for equal values."""
    if isinstance(value, FunctionType):
        code = value.__code__
        return f"a function of {code.co_argcount} that does {code.co_code.hex()} {code.co_consts}"
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, frozenset):
        return f"frozenset({sorted(value)})"
    if isinstance(value, MappingProxyType):
        return repr(dict(value))
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]  # a class, in spite of its type
        return f"what {text_of(value.factory)} makes"
    return repr(value)


def signature_of(function: Any) -> str:
    return str(inspect.signature(function)).replace("'", "")


def members_of(cls: type) -> dict[str, str]:
    """What a class itself declares: how, by name."""
    found = {"base classes": ", ".join(base.__qualname__ for base in cls.__bases__)}
    for name, annotation in inspect.get_annotations(cls).items():
        found[name] = str(annotation)
    for field in attrs.fields(cls) if attrs.has(cls) else ():
        if field.default is not attrs.NOTHING:
            found[field.name] += f" = {text_of(field.default)}"
    for name, member in vars(cls).items():
        function = inspect.unwrap(getattr(member, "__func__", member))
        if name[0] == "_":
            continue
        if inspect.isfunction(function):
            marks = "classmethod " * isinstance(member, classmethod)
            marks += "abstract " * getattr(member, "__isabstractmethod__", False)
            found[name] = f"{marks}def {name}{signature_of(function)}"
        elif not attrs.has(cls):
            found[name] = f"{found.get(name, 'not annotated')} = {text_of(member)}"
    return found


def check_class(cls: type, page: str) -> None:
    declared = declared_in(page).get(cls.__name__)
    assert declared is not None, f"{page}.md doesn't declare {cls.__name__}"
    assert members_of(declared) == members_of(cls)
    explained = prose(read(page), cls.__name__)
    unexplained = [name for name in members_of(cls) if f"`{name}`" not in explained]
    assert unexplained == ["base classes"]


REFERENCE = [*classes_of(interfaces), trust.Trust]


@pytest.mark.parametrize("cls", REFERENCE, ids=lambda cls: cls.__name__)
def test_the_reference_declares_and_explains_a_class_as_it_is(cls: type) -> None:
    check_class(cls, "hooks")


def test_the_reference_declares_and_explains_what_is_known_of_an_adapter() -> None:
    declared = declared_in("hooks")["AdapterInfo"]
    assert members_of(declared) == members_of(adapters.AdapterInfo)
    explained = prose(read("hooks"), "Registering and listing")
    assert all(f"`{field.name}`" in explained for field in attrs.fields(adapters.AdapterInfo))
    assert all(f'`"{state}"`' in explained for state in get_args(registry.State))


def test_the_reference_declares_and_explains_every_hook_and_every_function() -> None:
    public = {name: vars(adapters)[name] for name in adapters.__all__}
    functions = functions_of(hookspecs) | {n: f for n, f in public.items() if inspect.isfunction(f)}
    declared = {n: f for n, f in own(declared_in("hooks")).items() if inspect.isfunction(f)}
    assert {n: signature_of(f) for n, f in declared.items()} == {
        n: signature_of(f) for n, f in functions.items()
    }
    explained = prose(read("hooks"), "Hooks") + prose(read("hooks"), "Registering and listing")
    assert all(f"`{name}`" in explained for name in functions)


def test_the_reference_declares_nothing_that_is_gone() -> None:
    declared = {*own(declared_in("hooks"))}
    known = {cls.__name__ for cls in REFERENCE} | {*functions_of(hookspecs), *adapters.__all__}
    assert declared <= known


def test_the_reference_lists_the_properties_that_every_model_has() -> None:
    rows = re.findall(r"^\| (`.*`) \| \w.* \|", prose(read("hooks"), "Extractor"), re.M)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    attributes = {n for n, item in vars(models.Model).items() if isinstance(item, models.Described)}
    assert listed >= attributes
    assert listed - attributes == {*members_of(interfaces.Extractor)} - {"base classes", "detect"}
    shown = prose(read("hooks"), "Extractor")
    assert [name for name in summary._TOTALED if f"`{name}`" not in shown] == []


def test_the_reference_lists_errors_that_there_are() -> None:
    listed = re.findall(r"^\| `(\w+)", prose(read("hooks"), "Errors to raise"), re.M)
    assert len(listed) == 4
    assert all(issubclass(getattr(errors, name), (FlowymlError, FlowymlWarning)) for name in listed)


def test_the_reference_has_the_version_of_the_interfaces() -> None:
    declared = declared_in("hooks")
    for name in ("API_VERSION", "OLDEST_API_VERSION"):
        assert declared[name] == getattr(interfaces, name)
    assert declared["api_version"] == interfaces.API_VERSION


TITLE = re.compile(r' title="(?P<name>[\w.-]+)"')


def write_files(page: str, folder: Path) -> str:
    """Write the blocks that have a title as files, joining those of one title; return the rest."""
    files: dict[str, list[str]] = {}

    def taken(block: re.Match[str]) -> str:
        title = TITLE.fullmatch(block["title"])
        if title is None:
            return block[0]
        files.setdefault(title["name"], []).append(block["code"])
        return "\n" * block[0].count("\n")  # what follows keeps its line

    rest = FENCE.sub(taken, page)
    for name, blocks in files.items():
        (folder / name).write_text("\n\n".join(blocks), encoding="utf-8")
    return rest


@functools.cache
def code_blocks() -> Any:
    """The module that executes the blocks of a page."""
    path = Path(__file__).with_name("test_code_blocks.py")
    spec = importlib.util.spec_from_file_location("code_blocks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_adapter_of_the_tutorial_does_what_the_page_says(tmp_path: Path) -> None:
    rest = write_files(read("write"), tmp_path)
    code_blocks().check_page(rest.replace("<!-- not executed", "<!-- executed"), tmp_path, "use")


def test_the_adapter_of_the_tutorial_passes_the_conformance_kit(tmp_path: Path) -> None:
    write_files(read("write"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-ra", "-W", "error", "test_flowyml_nearby.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"\d+ passed in .*", done.stdout.splitlines()[-1])  # none skipped


def test_the_template_is_what_the_tutorial_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = FENCE.finditer(section(read("write"), "From the template"))
    command, *steps = "".join(block["code"] for block in blocks).splitlines()
    name = command.rpartition(" ")[2]
    assert command == f"python -m flowyml new-adapter {name}"
    folder = new_adapter.write(name)
    told = new_adapter.next_steps(folder)
    assert [step for step in steps if step.removeprefix("python ") not in told] == []
    assert any("REPLACE" in path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))


def test_the_tutorial_names_every_file_that_it_has(tmp_path: Path) -> None:
    write_files(read("write"), tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert set(re.findall(r"^\| `(\w+\.py)`", read("write"), re.M)) == files


def make_broken_distribution(folder: Path) -> None:
    """Lay out flowyml-odd 1.2, whose framework is missing, as pip would install it."""
    info = folder / "flowyml_odd-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flowyml-odd\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[flowyml.adapters]\nodd = flowyml_odd\n")
    (folder / "flowyml_odd.py").write_text("import odd_framework\n")


def test_the_command_line_shows_what_the_page_shows(tmp_path: Path) -> None:
    make_broken_distribution(tmp_path)
    shown = next(m for m in FENCE.finditer(read("index")) if m["language"] == "console")
    command, *lines = shown["code"].splitlines()
    done = subprocess.run(
        [sys.executable, *command.removeprefix("$ python ").split()],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [line for line in lines if line.split() not in printed] == []
    warning = next(
        m for m in FENCE.finditer(read("index")) if m["code"].startswith("AdapterWarning")
    )
    assert warning["code"].replace("AdapterWarning", "flowyml") in done.stderr


def test_the_page_names_every_state_switch_and_option() -> None:
    states = re.findall(r"^\| `(\w+)` \|", prose(read("index"), "States"), re.M)
    assert states == [*get_args(registry.State)]
    source = Path(registry.__file__).parent
    switches = {
        name
        for path in source.glob("*.py")
        for name in re.findall(r"\bFLOWYML_\w*ADAPTER\w*", path.read_text(encoding="utf-8"))
    }
    assert set(re.findall(r"`(FLOWYML_\w+)=", prose(read("index"), "Switches"))) == switches


def test_the_format_of_the_tutorial_is_written_down_as_it_asks_for() -> None:
    page = (ROOT / "docs" / "on-disk.md").read_text(encoding="utf-8")
    written_down = section(page, "Files of other adapters")
    members = re.search(r"^\| Member of `model.json` .*?\n\n", written_down, re.M | re.S)
    head = re.search(r"head = \{\n(.*?)\}\n", read("write"), re.S)
    assert members
    assert head
    listed = re.findall(r"^\| `(\w+)` \|", members[0], re.M)
    assert listed == re.findall(r'"(\w+)": ', head[1])
    assert set(re.findall(r'folder / "([\w.]+)"', read("write"))) == {"model.json", "rows.f64"}


def test_the_page_lists_every_adapter_of_the_repository() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", prose(read("index"), "Known adapters"), re.M))
    projects = [
        *ROOT.glob("flowyml-*/pyproject.toml"),
        *ROOT.glob("docs/examples/*/pyproject.toml"),
    ]
    assert len(projects) >= 2
    for project in projects:
        found = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        assert listed >= found.get("entry-points", {}).get(adapters.GROUP, {}).keys()


def test_the_project_that_the_page_shows_is_fit() -> None:
    toml = next(m["code"] for m in FENCE.finditer(read("publishing")) if m["language"] == "toml")
    shown = tomllib.loads(toml)["project"]
    core = tomllib.loads((ROOT / "flowyml-core" / "pyproject.toml").read_text(encoding="utf-8"))
    assert [*shown["entry-points"]] == [adapters.GROUP]
    assert shown["requires-python"] == core["project"]["requires-python"]
    assert shown["dependencies"][0].startswith("flowyml-core>=")
    wanted = re.findall(r"flowyml-core\[(\w+)\]", str(shown["optional-dependencies"]))
    assert wanted == ["testing"]
    assert {*wanted} <= core["project"]["optional-dependencies"].keys()


def test_the_switches_have_the_default_that_the_page_says() -> None:
    assert f"{isolation._SECONDS:g} by default" in prose(read("index"), "Switches")
    assert f"longer than {isolation._SECONDS:g} s" in prose(read("index"), "Isolation")


def test_the_page_on_the_kit_declares_and_explains_its_subject_as_it_is() -> None:
    declared = declared_in("testing")["Subject"]
    assert members_of(declared) == members_of(testing.Subject)
    explained = prose(read("testing"), "What you fill in")
    assert [m for m in members_of(testing.Subject) if f"`{m}`" not in explained] == ["base classes"]


def test_the_page_on_the_kit_has_every_check_in_its_order() -> None:
    page = read("testing")
    assert re.findall(r"^### (check_\w+)$", page, re.M) == [c.__name__ for c in testing.CHECKS]
    assert {c.__name__ for c in testing.CHECKS} == {n for n in testing.__all__ if "check_" in n}
    for check in testing.CHECKS:
        assert [*inspect.signature(check).parameters] == ["subject"]
        explained = prose(page, check.__name__)
        assert "**Promise.**" in explained
        assert "**If it fails.**" in explained


def test_the_pages_on_adapters_name_everything_of_the_kit() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES.glob("*.md"))
    assert [name for name in testing.__all__ if name not in pages] == []
    named = set(re.findall(r"\bcheck_\w+", pages))
    assert named <= {*testing.__all__}
