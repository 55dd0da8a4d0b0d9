import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowyml
from flowyml import Model, Store, adapters
from flowyml.errors import (
    AdapterError,
    AdapterNotFoundError,
    AdapterWarning,
    AmbiguousFrameworkError,
    MaterializationError,
    UnknownFrameworkError,
)
from flowyml.interfaces import Extractor


def make_distribution(folder: Path, name: str, source: str, dist: str | None = None) -> None:
    """Lay a distribution out as pip would: a module, its metadata, an entry point."""
    module = f"{(dist or name).replace('-', '_')}_plugin"
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{(dist or name).replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist or name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[flowyml.adapters]\n{name} = {module}\n")


ATTEMPT = """
import warnings
import flowyml
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        print(flowyml.Store("store").save([1, 2], "numbers").ref)
        try:
            flowyml.Model.from_odd(object())
        except flowyml.errors.AdapterNotFoundError as error:
            print("ERROR", error, "CAUSE", repr(error.__cause__))
print(len(caught), "WARNING", caught[0].category.__name__, caught[0].message)
print({info.name: info.state for info in flowyml.adapters.list()})
"""


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("raise RuntimeError('broken at import')", "RuntimeError: broken at import"),
        ("import does_not_exist", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def f(): f()\nf()", "RecursionError"),
        (
            "import flowyml\n@flowyml.hookimpl\ndef flowyml_register_extractor(): ...",
            "unknown hook",
        ),
        ("def flowyml_register_extractors(): return []", "lacks the @flowyml.hookimpl mark"),
        (
            "import flowyml\n@flowyml.hookimpl\ndef flowyml_register_extractors(): return [1]",
            "returned a int; needed is an instance of flowyml.interfaces.Extractor",
        ),
        ("import flowyml\n@flowyml.hookimpl\ndef flowyml_register_extractors(): 1/0", "ZeroDiv"),
    ],
)
def test_a_broken_adapter_harms_nobody_else(
    source: str, cause: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", source, dist="odd-dist")
    printed = run_python(ATTEMPT, PYTHONPATH=str(tmp_path))
    assert "numbers@v1" in printed
    assert "numbers@v2" in printed
    assert "1 WARNING AdapterWarning The adapter 'odd' (odd-dist 1.2) is left out" in printed
    assert printed.count(f"{cause}") >= 3, printed  # the warning, and both errors
    assert "CAUSE None" not in printed
    assert "'odd': 'broken'" in printed


def test_strictness_raises_where_a_broken_adapter_is_left_out(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", "raise RuntimeError('broken')")
    code = """
import flowyml
try:
    flowyml.Store("store").save(1, "one")
except flowyml.errors.AdapterError as error:
    print("STRICT", error, type(error.__cause__).__name__)
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path), FLOWYML_STRICT_ADAPTERS="1")
    assert "STRICT The adapter 'odd' (odd 1.2) is left out: RuntimeError: broken Runtime" in printed


def test_a_disabled_adapter_is_not_even_imported(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", "print('IMPORTED')")
    code = """
import flowyml
flowyml.adapters.load()
print({i.name: i.state for i in flowyml.adapters.list()}, dir(flowyml.Model).count("from_odd"))
try:
    flowyml.Model.from_odd
except AttributeError as error:
    print(error)
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path), FLOWYML_DISABLE_ADAPTERS="x, odd")
    assert "'odd': 'disabled'" in printed
    assert "} 0" in printed
    assert "FLOWYML_DISABLE_ADAPTERS switches 'odd' (odd 1.2) off" in printed
    assert "IMPORTED" not in printed


def test_an_installed_adapter_is_found_loaded_when_needed_and_listed(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    source = """
print("LOADED")
import flowyml
from flowyml.interfaces import Extractor
class Odd(Extractor):
    framework = "odd"
    accepts = "an int"
    def detect(self, obj): return type(obj) is int
    def extract(self, obj, options): return {"parameters": obj}
@flowyml.hookimpl
def flowyml_register_extractors(): return [Odd()]
"""
    make_distribution(tmp_path, "odd", source)
    code = """
import flowyml
print(*[(i.distribution, i.version, i.state) for i in flowyml.adapters.list() if i.name == "odd"])
print("from_odd" in dir(flowyml.Model))
print(flowyml.Model.from_odd(5, "five").parameters, flowyml.Model.create(6).framework)
"""
    lines = run_python(code, PYTHONPATH=str(tmp_path)).splitlines()
    assert lines == ["('odd', '1.2', 'known')", "True", "LOADED", "5 odd"]


def test_two_adapters_with_one_key_are_named(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    source = """
import flowyml
from flowyml.interfaces import Extractor
class Odd(Extractor):
    framework = "odd"
    def detect(self, obj): return False
    def extract(self, obj, options): return {}
@flowyml.hookimpl
def flowyml_register_extractors(): return [Odd()]
"""
    make_distribution(tmp_path, "odd", source)
    make_distribution(tmp_path, "other", source, dist="other-dist")
    code = "import flowyml; print({i.name: i.state for i in flowyml.adapters.load()})"
    printed = run_python(code, PYTHONPATH=str(tmp_path))
    assert "'odd' (odd 1.2) and 'other' (other-dist 1.2) both claim the framework 'odd'" in printed
    assert "'odd': 'loaded'" in printed
    assert "'other': 'broken'" in printed


def test_an_adapter_that_is_not_installed_is_said_so() -> None:
    with pytest.raises(AttributeError) as caught:
        Model.from_jax  # noqa: B018
    assert isinstance(caught.value, AdapterNotFoundError)
    assert "no adapter 'jax' is installed" in str(caught.value)
    assert "pip install flowyml-jax" in str(caught.value)
    assert "flowyml-core" in str(caught.value)
    assert not hasattr(Model, "from_jax")


def test_other_attributes_of_model_stay_ordinary() -> None:
    with pytest.raises(AttributeError, match="type object 'Model' has no attribute 'nothing'"):
        Model.nothing  # noqa: B018


def test_registering_by_hand(toy: Any) -> None:
    assert "from_toy" in dir(Model)
    info = adapters.list()[-1]
    assert (info.name, info.distribution, info.state) == ("toy", None, "loaded")
    assert Model.from_toy(toy([1.0])).parameters == 1


def test_registering_what_is_unfit_registers_nothing(toy: Any) -> None:
    class Late:
        @flowyml.hookimpl
        def flowyml_register_extractors(self) -> list[Extractor]:
            return [adapters.extractor("toy")]

    before = adapters.list()
    with pytest.raises(AdapterError, match="both claim the framework 'toy'"):
        adapters.register(Late())
    assert adapters.list() == before


def test_the_constructor_shows_its_arguments(toy: Any) -> None:
    import inspect

    signature = inspect.signature(Model.from_toy)
    assert list(signature.parameters)[:3] == ["model", "name", "version"]
    assert "example_inputs" in signature.parameters
    assert "framework" not in signature.parameters
    assert Model.from_toy.__name__ == "from_toy"


class Failing(Extractor):
    framework = "failing"

    def detect(self, obj: object) -> bool:
        raise RuntimeError("no idea")

    def extract(self, obj: Any, options: Any) -> dict[str, Any]:
        return {}


class Greedy(Extractor):
    framework = "greedy"

    def detect(self, obj: object) -> bool:
        return True

    def extract(self, obj: Any, options: Any) -> dict[str, Any]:
        raise ValueError("can't be described")


def register(extractor: Extractor) -> None:
    class Plugin:
        @flowyml.hookimpl
        def flowyml_register_extractors(self) -> list[Extractor]:
            return [extractor]

    adapters.register(Plugin(), name=extractor.framework)


def test_a_detection_that_raises_counts_as_no(toy: Any) -> None:
    register(Failing())
    with pytest.warns(AdapterWarning, match="'failing'.*counts as no: RuntimeError: no idea"):
        assert Model.create(toy([1.0])).framework == "toy"


def test_detection_is_not_asked_before_a_framework_is_imported(toy: Any) -> None:
    class Absent(Failing):
        framework = "absent"
        modules = ("a_framework_that_nobody_imported", "nor_this")

    register(Absent())
    assert Model.create(toy([1.0])).framework == "toy"  # and no warning


def test_two_claims_on_one_object_name_both_and_the_way_out(toy: Any) -> None:
    register(Greedy())
    with pytest.raises(AmbiguousFrameworkError, match="'toy' of .* and 'greedy' of .*framework="):
        Model.create(toy([1.0]))
    assert Model.create(toy([1.0]), framework="toy").parameters == 1


def test_an_extractor_that_raises_costs_the_description_only() -> None:
    register(Greedy())
    with pytest.warns(AdapterWarning, match="ValueError: can't be described"):
        model = Model.from_greedy(5)
    assert model.data == 5
    assert model.metadata.properties == {"framework": "greedy"}


def test_an_unrecognised_object_is_said_so(toy: Any) -> None:
    with pytest.raises(UnknownFrameworkError, match="No adapter recognises a int.*a Toy") as caught:
        Model.create(3)
    assert isinstance(caught.value, TypeError)


def test_threads_load_an_adapter_once(toy: Any) -> None:
    barrier = threading.Barrier(8)
    states: list[Any] = []

    def load() -> None:
        barrier.wait()
        states.append([info.state for info in adapters.load()])

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(states) == 8
    assert {state for each in states for state in each} == {"loaded"}


def test_loading_without_the_adapter_that_saved(store: Store, toy: Any, monkeypatch: Any) -> None:
    store.save(toy([1.0]), "m")
    monkeypatch.setattr(adapters, "_registry", adapters.Registry(adapters._scan()))
    assert store.get("m").ref == "m@v1"
    with pytest.raises(AdapterNotFoundError, match="'toy.model' can't be had: no adapter 'toy'"):
        store.load("m")


def test_a_key_is_refused_when_two_materializers_claim_an_object(store: Store, toy: Any) -> None:
    materializer = adapters.materializer("toy.model")

    class Twin(type(materializer)):  # type: ignore[misc]  # made on the fly
        key = "twin.model"

    class Plugin:
        @flowyml.hookimpl
        def flowyml_register_materializers(self) -> list[Any]:
            return [Twin()]

    adapters.register(Plugin(), name="twin")
    with pytest.raises(MaterializationError, match="'toy.model' of .* and 'twin.model' of"):
        store.save(toy([1.0]), "m")
