"""The adapter that `new-adapter` writes. That it installs and passes the kit: tests/packaging."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from flowyml import __version__, adapters, hookimpl, interfaces, new_adapter, testing
from flowyml.errors import AdapterError, FlowymlError

TEMPLATE = Path(new_adapter.__file__).with_name("template")


def files_in(folder: Path) -> dict[str, str]:
    """The texts of the files in a folder, by path, without what tools leave behind."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.endswith("cache__") or part.endswith("_cache") for part in path.parts)
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("written")
    return files_in(new_adapter.write("my_framework", folder / "adapter"))


def test_every_file_of_the_template_is_written(written: dict[str, str]) -> None:
    there = {path.replace("yourframework", "my_framework") for path in files_in(TEMPLATE)}
    assert set(written) == there


def test_the_name_is_everywhere_where_it_has_to_be(written: dict[str, str]) -> None:
    assert "yourframework" not in "".join([*written, *written.values()]).lower()
    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert project["name"] == "flowyml-my-framework"
    assert project["dependencies"] == [f"flowyml-core>={__version__}"]
    assert project["entry-points"]["flowyml.adapters"] == {
        "my_framework": "flowyml_my_framework.plugin"
    }
    assert "src/flowyml_my_framework/plugin.py" in written


def test_all_code_compiles_and_is_documented(written: dict[str, str]) -> None:
    for path, text in written.items():
        if path.endswith(".py"):
            assert ast.get_docstring(ast.parse(text, path)), path


def test_comments_tell_what_to_replace(written: dict[str, str]) -> None:
    told = {Path(path).name for path, text in written.items() if "REPLACE: " in text}
    untouched = {".gitignore", "py.typed", "__init__.py", "plugin.py"}
    assert told == {Path(path).name for path in written} - untouched


def test_the_readme_tells_which_checks_come_before_the_materializer(
    written: dict[str, str],
) -> None:
    (words,) = re.findall(r'pytest -x -k "(.*)"', written["README.md"])
    names = [check.__name__ for check in testing.CHECKS]
    chosen = [name for name in names if any(word in name for word in words.split(" or "))]
    assert chosen == names[:6]
    assert chosen[-1] == "check_the_description_is_deterministic"
    own = "".join(re.findall(r"def (test_\w+)", written["tests/test_adapter.py"]))
    assert not any(word in own for word in words.split(" or "))


def test_the_same_name_gives_the_same_files(written: dict[str, str], tmp_path: Path) -> None:
    assert files_in(new_adapter.write("my_framework", tmp_path / "again")) == written


def test_the_folder_is_named_after_the_distribution_and_can_be_entered(tmp_path: Path) -> None:
    folder = new_adapter.write("my_framework")
    assert folder == Path("flowyml-my-framework")
    (tmp_path / "ordinary").mkdir()
    assert folder.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [folder.name, "ordinary"]


def test_what_to_type_next_is_told() -> None:
    told = new_adapter.next_steps(Path("a folder"))
    assert told.startswith("Wrote a folder: ")
    assert "  cd 'a folder'\n" in told
    assert '-m pip install -e ".[test]"' in told
    assert "-m pytest\n" in told


Told = Callable[[dict[str, object] | None], list[str]]


@pytest.fixture
def told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """What pip is told to install besides the adapter, by its record of where the core is from."""

    def told_of(record: dict[str, object] | None) -> list[str]:
        info = tmp_path / "site" / f"flowyml_core-{__version__}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: flowyml-core\nVersion: {__version__}\n"
        )
        if record is not None:
            (info / "direct_url.json").write_text(json.dumps(record))
        monkeypatch.syspath_prepend(tmp_path / "site")
        told = new_adapter.next_steps(Path("adapter"))
        (besides,) = re.findall(r'pip install -e "\.\[test\]"(.*)\n', told)
        return shlex.split(besides)

    return told_of


def test_a_core_from_an_index_is_found_by_its_name(told_of: Told) -> None:
    assert told_of(None) == []


@pytest.mark.parametrize("how", [[], ["-e"]], ids=["copied", "editable"])
def test_a_core_from_a_folder_is_found_there(how: list[str], told_of: Told, tmp_path: Path) -> None:
    (tmp_path / "mein Ordner").mkdir()
    url = (tmp_path / "mein Ordner").as_uri()
    assert "%20" in url
    record = {"url": url, "dir_info": {"editable": True} if how else {}}
    assert told_of(record) == [*how, str(tmp_path / "mein Ordner")]


def test_a_core_from_a_wheel_is_found_there(told_of: Told, tmp_path: Path) -> None:
    wheel = tmp_path / "core.whl"
    wheel.write_bytes(b"")
    record = {"url": wheel.as_uri(), "archive_info": {"hash": "sha256=0"}}
    assert told_of(record) == [str(wheel)]


def test_what_is_gone_since_is_not_asked_for(told_of: Told, tmp_path: Path) -> None:
    record = {"url": (tmp_path / "core.whl").as_uri(), "archive_info": {}}
    assert told_of(record) == []


def test_a_core_from_a_repository_is_found_there(told_of: Told) -> None:
    record = {
        "url": "https://example.org/flowyml.git",
        "vcs_info": {"vcs": "git", "requested_revision": "main", "commit_id": "0123abc"},
        "subdirectory": "flowyml-core",
    }
    where = "git+https://example.org/flowyml.git@0123abc#subdirectory=flowyml-core"
    assert told_of(record) == [where]


def test_a_core_from_a_web_page_is_found_there(told_of: Told) -> None:
    record = {"url": "https://example.org/core.whl", "archive_info": {}}
    assert told_of(record) == ["https://example.org/core.whl"]


def test_a_core_that_was_never_installed_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert new_adapter._source_of_core() == []


@pytest.mark.parametrize(
    ("name", "fitting"),
    [
        ("my-framework", "my_framework"),
        ("My Framework 2", "my_framework_2"),
        ("JAX", "jax"),
        ("flowyml-jax", "jax"),
        ("flowyml_jax", "jax"),
        ("my__framework", "my_framework"),
        ("_jax", "jax"),
        ("jax_", "jax"),
        ("scikit-learn", "scikit_learn"),
        ("../jax", "jax"),
        ("jax\n", "jax"),
    ],
)
def test_an_unfit_name_is_refused_with_one_that_would_do(
    name: str, fitting: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="can't be the name of an adapter") as caught:
        new_adapter.write(name)
    assert str(caught.value).startswith(repr(name))
    assert "Use the framework's import name" in str(caught.value)
    assert str(caught.value).endswith(f" If it is imported as {fitting!r}, give that.")
    assert not [*tmp_path.iterdir()]
    new_adapter.check_name(fitting)


@pytest.mark.parametrize("name", ["", "class", "3", "2x", "é", "-", "Lambda"])
def test_where_no_name_is_near_none_is_suggested(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no keyword of Python\\.$"):
        new_adapter.write(name)
    assert not [*tmp_path.iterdir()]


def test_the_name_of_an_installed_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=f"'core' already: 'core' .flowyml-core {__version__}"):
        new_adapter.write("core")
    assert not [*tmp_path.iterdir()]


def test_a_framework_that_another_adapter_describes_is_refused(tmp_path: Path) -> None:
    class Several(interfaces.Extractor):
        framework = "jax"

        def detect(self, obj: object) -> bool:
            return False

        def extract(self, obj: object, options: object) -> dict[str, object]:
            return {}

    class Plugin:
        @hookimpl
        def flowyml_register_extractors(self) -> list[interfaces.Extractor]:
            return [Several()]

    adapters.register(Plugin(), "several")
    with pytest.raises(AdapterError, match="an adapter for 'jax' already: 'several' .*Plugin"):
        new_adapter.write("jax")
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("important")
    with pytest.raises(FlowymlError, match="mine isn't empty: it has 'notes' in it"):
        new_adapter.write("jax", tmp_path / "mine")
    assert files_in(tmp_path) == {"mine/notes": "important"}


@pytest.mark.parametrize("kind", ["file", "broken link"])
def test_what_is_no_folder_is_left_alone(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("important")
    else:
        target.symlink_to("nowhere")
    with pytest.raises(FlowymlError, match="target is no folder; give one that doesn't exist"):
        new_adapter.write("jax", target)
    assert os.listdir(tmp_path) == ["target"]  # noqa: PTH208


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("important")
    with pytest.raises(FlowymlError, match="'jax' can't be written to .*file/adapter: .*FOLDER"):
        new_adapter.write("jax", tmp_path / "file" / "adapter")
    assert files_in(tmp_path) == {"file": "important"}


def test_folders_on_the_way_are_made(written: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "ein Ordner" / "für mich"
    assert new_adapter.write("my_framework", target) == target
    assert files_in(target) == written


@pytest.mark.parametrize("given", [".", "link"])
def test_an_empty_folder_is_filled_and_stays_the_one_it_was(
    given: str, written: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    before = (tmp_path / "empty").stat().st_ino
    (tmp_path / "link").symlink_to("empty")
    monkeypatch.chdir(tmp_path / ("empty" if given == "." else ""))
    new_adapter.write("my_framework", given)
    assert (tmp_path / "empty").stat().st_ino == before
    assert files_in(tmp_path / "empty") == written


@pytest.mark.parametrize("target", ["new", "empty"])
def test_a_full_disk_leaves_nothing_half_written(
    target: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    code = f"""
import resource
from flowyml import errors, new_adapter
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    new_adapter.write("jax", {target!r})
except errors.FlowymlError as error:
    print(error)
"""
    assert f"can't be written to {target}: " in run_python(code)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_the_adapter_is_written_for_these_interfaces_and_imports_no_framework(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    new_adapter.write("jax", tmp_path / "adapter")
    code = """
import sys
from flowyml import Model, adapters
from flowyml_jax import plugin
adapters.register(plugin, "jax")
print(plugin.api_version, "flowyml_jax.toy" in sys.modules)
from flowyml_jax import toy
print(Model.create(toy.Linear([1.0])).framework)
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path / "adapter" / "src"))
    assert printed.split() == [str(interfaces.API_VERSION), "False", "jax"]


def test_its_own_tests_pass_once_the_entry_point_is_there(tmp_path: Path) -> None:
    folder = new_adapter.write("jax", tmp_path / "adapter")
    info = folder / "src" / "flowyml_jax-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flowyml-jax\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[flowyml.adapters]\njax = flowyml_jax.plugin\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/test_adapter.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 passed" in done.stdout
