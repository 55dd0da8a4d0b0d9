import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flowyml
from flowyml import Asset, Model, Store, __version__, adapters, interfaces
from flowyml.errors import (
    AdapterError,
    AdapterNotFoundError,
    AdapterWarning,
    AmbiguousFrameworkError,
    FlowymlWarning,
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


GOOD = """
import flowyml
from flowyml.interfaces import Extractor
class Odd(Extractor):
    framework = "odd"
    accepts = "a complex"
    def detect(self, obj): return type(obj) is complex
    def extract(self, obj, options): return {"parameters": 2}
@flowyml.hookimpl
def flowyml_register_extractors(): return [Odd()]
"""

ATTEMPT = """
import warnings
import flowyml
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        print(flowyml.Store("store").save([1, 2], "numbers").ref)
        print(flowyml.Model.from_good(1j).parameters, "parameters")
        try:
            flowyml.Model.from_odd(object())
        except flowyml.errors.AdapterNotFoundError as error:
            print("ERROR", error, "CAUSE", repr(error.__cause__))
print(len(caught), "WARNING", caught[0].category.__name__, caught[0].message)
print({info.name: info.state for info in flowyml.adapters.list()})
"""

HOOK = "import flowyml\n@flowyml.hookimpl\ndef "
EXTRACTORS = f"{HOOK}flowyml_register_extractors(): return "
MATERIALIZERS = """
import flowyml
from flowyml.interfaces import Materializer
class Unfit(Materializer):
    key = "odd.model"
    formats = ("odd",)
    def detect(self, obj): return False
    def save(self, obj, folder, options): ...
    def load(self, saved, options): ...
    {line}
@flowyml.hookimpl
def flowyml_register_materializers(): return [Unfit()]
"""
NEWER = interfaces.API_VERSION + 1

BROKEN = {
    "raises": ("raise RuntimeError('broken at import')", "RuntimeError: broken at import"),
    "raises without words": ("raise LookupError", "LookupError"),
    "lacks a dependency": ("import does_not_exist", "ModuleNotFoundError"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "exits by sys.exit": ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "is no Python": ("def", "SyntaxError"),
    "sleeps": ("import time; time.sleep(3600)", "TimeoutError: loading it takes longer than 1 s"),
    "waits": ("import threading; threading.Event().wait()", "FLOWYML_ADAPTER_TIMEOUT"),
    "never ends": ("while True: pass", "TimeoutError: loading it takes longer than 1 s"),
    "hangs in a hook": (
        f"{HOOK}flowyml_register_extractors():\n  while True: pass",
        "TimeoutError",
    ),
    "misspells a hook": (f"{HOOK}flowyml_register_extractor(): ...", "unknown hook"),
    "forgets the mark": (
        "def flowyml_register_extractors(): return []",
        "lacks the @flowyml.hookimpl mark",
    ),
    "raises in a hook": (f"{EXTRACTORS}1/0", "ZeroDivisionError"),
    "returns None": (f"{EXTRACTORS}[None]", "returned a NoneType; needed is an instance of"),
    "returns no list": (f"{EXTRACTORS}5", "returned a int; needed is a list of instances of"),
    "returns a number": (
        f"{EXTRACTORS}[1]",
        "flowyml_register_extractors returned a int; needed is an instance of "
        "flowyml.interfaces.Extractor",
    ),
    "returns the class": (GOOD.replace("[Odd()]", "[Odd]"), "return an instance of it: Odd()"),
    "returns one alone": (GOOD.replace("[Odd()]", "Odd()"), "needed is a list of instances of"),
    "lacks a method": (GOOD.replace("def extract", "def extracts"), "abstract"),
    "lacks the framework": (GOOD.replace('framework = "odd"', ""), "Odd.framework is None"),
    "has an unfit framework": (
        GOOD.replace('framework = "odd"', 'framework = "odd-one"'),
        "has the framework 'odd-one', which can't stand in Model.from_<framework>",
    ),
    "has an unfit key": (
        MATERIALIZERS.format(line="key = 'odd'"),
        "has the key 'odd'; needed is '<adapter>.<what>'",
    ),
    "forgets a comma": (
        MATERIALIZERS.format(line="formats = ('odd')"),
        "Unfit.formats is 'odd'; needed are several strings",
    ),
    "has no formats": (MATERIALIZERS.format(line="formats = ()"), "has no formats"),
    "has formats in no order": (
        MATERIALIZERS.format(line="formats = {'odd'}"),
        "Unfit.formats is {'odd'}; needed are several strings in order",
    ),
    "has unfit conversions": (
        MATERIALIZERS.format(line="conversions = {'odd': 'even'}"),
        "Unfit.conversions is {'odd': 'even'}; needed are tuples",
    ),
    "has modules that are none": (
        MATERIALIZERS.format(line="modules = (1,)"),
        "Unfit.modules is (1,); needed are several strings",
    ),
    "claims a key of the core": (
        MATERIALIZERS.format(line="key = 'core.json'"),
        "both claim the materializer 'core.json'",
    ),
    "claims a name of the core": (
        MATERIALIZERS.format(line="key = 'core.more'"),
        "both claim what goes by the name 'core'",
    ),
    "claims another's framework": (
        GOOD.replace('"odd"', '"good"'),
        "the adapters 'good' (good 1.2) and 'odd' (odd-dist 1.2) both claim",
    ),
    "needs a newer core": (
        f"api_version = {NEWER}",
        f"written for version {NEWER} of flowyml's interfaces, and flowyml-core {__version__} has "
        f"version {interfaces.API_VERSION}; upgrade flowyml-core",
    ),
    "has a version that is none": ("api_version = '1'", "its api_version is '1'"),
    "uses what the core lacks": (
        "from flowyml.interfaces import Telepathy",
        f"it may be written for another flowyml-core than {__version__}",
    ),
}


@pytest.mark.parametrize(("source", "cause"), BROKEN.values(), ids=BROKEN)
def test_a_broken_adapter_harms_nobody_else(
    source: str, cause: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", source, dist="odd-dist")
    good = GOOD.replace("odd", "good").replace("complex", "complex number")
    make_distribution(tmp_path, "good", good.replace("is complex number", "is complex"))
    printed = run_python(ATTEMPT, PYTHONPATH=str(tmp_path), FLOWYML_ADAPTER_TIMEOUT="1")
    assert "numbers@v1\n2 parameters" in printed
    assert "numbers@v2\n2 parameters" in printed
    assert "1 WARNING AdapterWarning The adapter 'odd' (odd-dist 1.2) is left out" in printed
    assert printed.count(cause) >= 3, printed  # the warning, and both errors
    assert "CAUSE None" not in printed
    assert "'good': 'loaded', 'odd': 'broken'" in printed


def test_an_adapter_that_prints_works_and_its_author_is_told(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    noise = """
import sys
print("Welcome!")
sys.stdout.buffer.write(b"And more.\\n")
"""
    make_distribution(tmp_path, "odd", noise + GOOD)
    code = """
import flowyml, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(flowyml.Model.from_odd(1j).parameters)
    print(flowyml.Model.create(1j).framework)
print(len(caught), caught[0].message)
"""
    assert run_python(code, PYTHONPATH=str(tmp_path)).splitlines() == [
        "2",
        "odd",
        "1 The adapter 'odd' (odd 1.2) works, but it prints when it is loaded: "
        "'Welcome!\\nAnd more.'.",
    ]


def test_an_adapter_that_imports_its_framework_works_and_its_author_is_told(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "heavy.py").write_text("")
    declared = GOOD.replace('framework = "odd"', 'framework = "odd"; modules = ("heavy",)')
    make_distribution(tmp_path, "odd", "import heavy\n" + declared)
    code = """
import flowyml, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    {first}flowyml.Model.from_odd(1j)
print([str(item.message) for item in caught])
"""
    printed = run_python(code.format(first=""), PYTHONPATH=str(tmp_path))
    assert "'odd' (odd 1.2) works, but it imports heavy when it is loaded" in printed
    printed = run_python(code.format(first="import heavy; "), PYTHONPATH=str(tmp_path))
    assert printed.strip() == "[]"  # who has the framework waits for nothing


def test_an_adapter_may_use_flowyml_while_it_is_loaded(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    early = """
import flowyml
print("JSON" if flowyml.adapters.materializer("core.json") else "")
flowyml.adapters.load()
"""
    make_distribution(tmp_path, "odd", early + GOOD)
    code = "import flowyml; print([i.state for i in flowyml.adapters.load()])"
    printed = run_python(code, PYTHONPATH=str(tmp_path), FLOWYML_ADAPTER_TIMEOUT="20")
    assert "'loaded', 'loaded'" in printed
    assert "'JSON'" in printed


def test_an_adapter_in_a_package_that_uses_it_while_it_is_imported(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", "import project\n" + GOOD)
    (tmp_path / "project.py").write_text(
        "import flowyml\nmodel = flowyml.Model.from_odd(1j)\nprint(model.parameters)"
    )
    printed = run_python("import project", PYTHONPATH=str(tmp_path), FLOWYML_ADAPTER_TIMEOUT="20")
    assert printed.strip() == "2"


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("class E(Exception):\n  def __str__(self): raise self\nraise E", "E (whose text can't be"),
        (
            "class E(Exception):\n  def __str__(self): raise SystemExit(3)\nraise E",
            "E (whose text can't be had)",
        ),
        ("class E(BaseException): pass\nraise E('a panic')", "E: a panic"),
        ("raise ImportError('no', name=5)", "ImportError: no"),
        ("raise ValueError('\\ud800')", "ValueError: \\ud800"),
        ("import flowyml\nflowyml.adapters.register(object(), 'x')", "'x' can't be registered by"),
        (f"import itertools\n{EXTRACTORS}itertools.repeat(1)", "more than 10000 objects"),
        (f"{EXTRACTORS}None", "flowyml_register_extractors returned None; needed is a list"),
    ],
)
def test_whatever_an_adapter_does_while_it_is_loaded_is_told(
    source: str, cause: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", source)
    code = """
import flowyml
print(flowyml.Store("store").save([1, 2], "numbers").ref)
print([i.state for i in flowyml.adapters.list() if i.name in ("core", "odd")])
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path), FLOWYML_ADAPTER_TIMEOUT="20")
    assert printed.startswith("numbers@v1\n['loaded', 'broken']\n")
    assert re.search(
        rf"'odd' \(odd 1\.2\) is left out: (AdapterError: )?.*{re.escape(cause)}", printed
    )


@pytest.mark.parametrize(
    "source",
    [
        "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'utf-8')",
        "import sys\nsys.stdout.close()",
        "import threading\nthreading.excepthook = None",
    ],
)
def test_an_adapter_that_takes_the_output_away_gives_it_back(
    source: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", source + GOOD)
    code = "import flowyml; print(flowyml.Model.from_odd(1j).parameters)"
    assert run_python(code, PYTHONPATH=str(tmp_path)).strip() == "2"


def test_a_user_may_print_from_a_thread_while_adapters_are_loaded(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("odd", "odder", "oddest"):
        make_distribution(
            tmp_path, name, "import time; time.sleep(0.05)" + GOOD.replace("odd", name)
        )
    code = """
import flowyml, os, sys, threading, time
sys.stdout = open(os.devnull, "w")
go_on = True
def talk():
    while go_on:
        for _ in range(100):
            print("something")
        time.sleep(0.001)  # for the others
threads = [threading.Thread(target=talk)]
for thread in threads: thread.start()
states = [info.state for info in flowyml.adapters.load()]
go_on = False
for thread in threads: thread.join()
sys.stdout.close()
print(states.count("loaded") >= 4, file=sys.__stdout__)
"""
    assert run_python(code, PYTHONPATH=str(tmp_path)).strip() == "True"


def test_what_a_user_redirects_meanwhile_stays_redirected_no_longer(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", "import time; time.sleep(0.5)" + GOOD)
    code = """
import contextlib, flowyml, io, threading, time
caught = io.StringIO()
with contextlib.redirect_stdout(caught):
    thread = threading.Thread(target=flowyml.adapters.load)
    thread.start()
    time.sleep(0.2)
thread.join()
print("shown")
"""
    assert run_python(code, PYTHONPATH=str(tmp_path)).strip() == "shown"


def test_a_hanging_adapter_is_no_burden_afterwards(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", "while True: pass")
    code = """
import flowyml, sys, time
flowyml.adapters.load()
time.sleep(0.5)
print(len(sys._current_frames()))
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path), FLOWYML_ADAPTER_TIMEOUT="0.3")
    assert printed.startswith("1\n")  # thread


def test_a_child_that_is_forked_while_an_adapter_is_loaded_loads_it_itself(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", "import time; time.sleep(1)" + GOOD)
    code = """
import flowyml, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks
thread = threading.Thread(target=flowyml.adapters.load)
thread.start()
time.sleep(0.3)
child = os.fork()
if not child:
    os._exit(0 if flowyml.Store("store").save(1, "one").version == "v1" else 1)
print(os.waitpid(child, 0)[1])
thread.join()
"""
    assert run_python(code, PYTHONPATH=str(tmp_path), FLOWYML_ADAPTER_TIMEOUT="5").strip() == "0"


def test_adapters_load_where_no_thread_can_be_started(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", GOOD)
    code = """
import _thread, flowyml
def refuse(*arguments): raise RuntimeError("can't start new thread")
_thread.start_new_thread = refuse
print(flowyml.Model.from_odd(1j).parameters)
"""
    assert run_python(code, PYTHONPATH=str(tmp_path)).strip() == "2"


def test_an_interrupted_load_goes_on_where_no_thread_can_be_started(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    once = """
import os
if not os.path.exists("met"):
    open("met", "w").close()
    raise KeyboardInterrupt
"""
    make_distribution(tmp_path, "odd", once + GOOD)
    (tmp_path / "project.py").write_text("import flowyml; flowyml.adapters.load()")
    code = """
import flowyml
try:
    import project  # which loads it in this thread
except KeyboardInterrupt:
    print("interrupted")
print(flowyml.Model.from_odd(1j).parameters)
"""
    assert run_python(code, PYTHONPATH=str(tmp_path)).splitlines() == ["interrupted", "2"]


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ('framework = "odd"', 'framework = "odd"; options = ("name",)', "has the option 'name'"),
        ('framework = "odd"', 'framework = "odd"; options = ("a-b",)', "has the option 'a-b'"),
    ],
)
def test_an_option_that_cannot_be_an_argument_is_refused(
    old: str, new: str, cause: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", GOOD.replace(old, new))
    printed = run_python("import flowyml; flowyml.adapters.load()", PYTHONPATH=str(tmp_path))
    assert cause in printed


def test_an_extractor_need_not_be_hashable(run_python: Callable[..., str], tmp_path: Path) -> None:
    equal = GOOD.replace("class Odd", "import dataclasses\n@dataclasses.dataclass\nclass Odd")
    make_distribution(tmp_path, "odd", equal.replace('framework = "odd"', 'framework = "odd"'))
    code = "import flowyml; print(flowyml.Model.from_odd(1j).refresh().parameters)"
    assert run_python(code, PYTHONPATH=str(tmp_path)).strip() == "2"


def test_an_unfit_time_limit_is_told_of(run_python: Callable[..., str], tmp_path: Path) -> None:
    make_distribution(tmp_path, "odd", GOOD)
    code = "import flowyml; print(flowyml.Model.from_odd(1j).parameters)"
    printed = run_python(code, PYTHONPATH=str(tmp_path), FLOWYML_ADAPTER_TIMEOUT="soon")
    assert printed.startswith("2")
    assert "FLOWYML_ADAPTER_TIMEOUT is 'soon'; needed is a number of seconds" in printed


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
import flowyml, sys
print("LOADED", file=sys.stderr)
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
    assert lines == ["('odd', '1.2', 'known')", "True", "5 odd", "LOADED"]


@pytest.mark.parametrize("first", ["odd", "other"])
def test_a_framework_belongs_to_the_adapter_of_its_name_whichever_is_loaded_first(
    first: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", GOOD)
    make_distribution(tmp_path, "other", GOOD, dist="other-dist")
    code = f"""
import flowyml
try:
    print(flowyml.Model.from_{first}(1j).framework)
except flowyml.errors.AdapterNotFoundError:
    print("not found")
print({{i.name: i.state for i in flowyml.adapters.load()}})
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path))
    assert "'odd' (odd 1.2) and 'other' (other-dist 1.2) both claim" in printed
    assert "'odd': 'loaded'" in printed
    assert "'other': 'broken'" in printed


def test_two_distributions_with_one_name_are_named(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", GOOD, dist="one")
    make_distribution(tmp_path, "odd", GOOD, dist="two")
    code = "import flowyml; print([i.state for i in flowyml.adapters.load() if i.name == 'odd'])"
    printed = run_python(code, PYTHONPATH=str(tmp_path))
    assert "'odd' (one 1.2) and 'odd' (two 1.2) both claim the framework 'odd'" in printed
    assert "['loaded', 'broken']" in printed


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


@pytest.mark.parametrize(
    ("code", "frameworks"),
    [
        ("import derived; model = derived.Model()", "derived derived.model"),
        ("import base; model = base.Model()", "general general.model"),
        ("import derived\nclass Own(derived.Model): pass\nmodel = Own()", "derived derived.model"),
        ("import other; model = other.Model()", "general general.model"),
    ],
)
def test_of_two_claims_that_of_the_framework_which_defines_the_class_counts(
    code: str, frameworks: str, run_python: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "base.py").write_text("class Model: weight = 1")
    (tmp_path / "derived.py").write_text("import base\nclass Model(base.Model): pass")
    (tmp_path / "other.py").write_text("import base\nclass Model(base.Model): pass")
    for name, module in (("general", "base"), ("derived", "derived")):
        source = f"""
import flowyml, sys
from flowyml.interfaces import Extractor, Materializer, SaveResult
class Describes(Extractor):
    framework = "{name}"
    modules = ("{module}",)
    def detect(self, obj): return isinstance(obj, sys.modules["{module}"].Model)
    def extract(self, obj, options): return {{}}
class Saves(Materializer):
    key = "{name}.model"
    modules = ("{module}",)
    formats = ("nothing",)
    detect = Describes.detect
    def save(self, obj, folder, options): return SaveResult()
    def load(self, saved, options): ...
@flowyml.hookimpl
def flowyml_register_extractors(): return [Describes()]
@flowyml.hookimpl
def flowyml_register_materializers(): return [Saves()]
"""
        make_distribution(tmp_path, name, source)
    code = f"""
{code}
import flowyml
asset = flowyml.Model.create(model, "m")
stored = asset.save(flowyml.Store("store")).stored
print(asset.framework, stored.materializer)
chosen = flowyml.Model.from_general(model, "n").save(flowyml.Store("store"))
print(chosen.framework, chosen.stored.materializer)
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path))
    assert printed.splitlines() == [frameworks, "general general.model"]


def test_an_extractor_that_raises_costs_the_description_only() -> None:
    register(Greedy())
    with pytest.warns(AdapterWarning, match="ValueError: can't be described"):
        model = Model.from_greedy(5)
    assert model.data == 5
    assert model.metadata.properties == {"framework": "greedy"}


class Careless(Extractor):
    """Answers with whatever it is told to; an exception is raised."""

    framework = "careless"

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def detect(self, obj: object) -> bool:
        return type(obj) is complex

    def extract(self, obj: Any, options: Any) -> Any:
        return self.answer("extract", {"parameters": 2})

    def outline(self, obj: Any) -> Any:
        return self.answer("outline", None)

    def default_name(self, obj: Any) -> Any:
        return self.answer("default_name", "good")

    def answer(self, method: str, otherwise: Any) -> Any:
        answer = self.answers.get(method, otherwise)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answers", "warning"),
    [
        ({"extract": SystemExit(3)}, "complex is not described: .*'careless'.* SystemExit: 3"),
        ({"extract": RecursionError("deep")}, "not described: .* RecursionError: deep"),
        ({"extract": [1]}, "it returned a list; needed is a Mapping"),
        ({"extract": {1: 2}}, "it returned a int; needed is a str"),
        ({"default_name": 5}, "complex is not named: .* returned a int; needed is a str"),
        ({"default_name": SystemExit(3)}, "complex is not named: .* SystemExit: 3"),
        ({"outline": "tree"}, "layers of a complex are not shown: .* returned a str"),
        ({"outline": SystemExit(3)}, "layers of a complex are not shown: .* SystemExit: 3"),
        ({"extract": {"flops": "many"}}, "is shown without its layers.* is unfit"),
    ],
)
def test_a_careless_extractor_costs_what_it_was_asked_for(
    answers: Any, warning: str, store: Store
) -> None:
    def described() -> Model:
        model = Model.from_careless(1j)
        assert "careless" in model.summary()
        return model

    register(Careless(**answers))
    with pytest.warns(FlowymlWarning, match=warning):
        model = described()
    assert model.framework == "careless"
    assert model.name in ("good", "complex")


def test_a_warning_points_to_the_line_of_the_user() -> None:
    register(Careless(extract=ValueError("no")))
    with pytest.warns(AdapterWarning) as caught:
        Model.from_careless(1j)
    assert [warning.filename for warning in caught] == [__file__]


def test_an_unrecognised_object_is_said_so(toy: Any) -> None:
    with pytest.raises(UnknownFrameworkError, match="No adapter recognises a int.*a Toy") as caught:
        Model.create(3)
    assert isinstance(caught.value, TypeError)


def test_threads_load_an_adapter_once(run_python: Callable[..., str], tmp_path: Path) -> None:
    count = "import sys\nprint('LOADED', file=sys.stderr)\nimport time; time.sleep(0.2)\n"
    calls = GOOD.replace("(): return", "(): print('CALLED', file=sys.stderr); return")
    make_distribution(tmp_path, "odd", count + calls)
    code = """
import threading, flowyml
barrier = threading.Barrier(8)
states = []
def load(number):
    barrier.wait()
    if number % 2:
        states.append(flowyml.Model.from_odd(1j).framework)
    else:
        states.append(flowyml.Model.create(1j).framework)
threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
print("meanwhile")
for thread in threads: thread.join()
print(states == ["odd"] * 8)
"""
    printed = run_python(code, PYTHONPATH=str(tmp_path))
    assert printed.startswith("meanwhile\nTrue\n")
    assert printed.count("LOADED") == printed.count("CALLED") == 1


def test_an_interrupt_of_the_user_breaks_no_adapter(
    run_python: Callable[..., str], tmp_path: Path
) -> None:
    make_distribution(tmp_path, "odd", "import time; time.sleep(1)\n" + GOOD)
    code = """
import _thread, threading, flowyml
threading.Timer(0.3, _thread.interrupt_main).start()
try:
    flowyml.Model.from_odd
except KeyboardInterrupt:
    print("interrupted")
print(flowyml.Model.from_odd(1j).parameters)
"""
    assert run_python(code, PYTHONPATH=str(tmp_path)).splitlines() == ["interrupted", "2"]


def test_loading_without_the_adapter_that_saved(store: Store, toy: Any, monkeypatch: Any) -> None:
    store.save(toy([1.0]), "m")
    monkeypatch.setattr(adapters, "_registry", adapters.Registry(adapters._scan()))
    assert store.get("m").ref == "m@v1"
    with pytest.raises(AdapterNotFoundError, match="'toy.model' can't be had: no adapter 'toy'"):
        store.load("m")


def test_an_object_that_two_materializers_claim_is_refused(store: Store, toy: Any) -> None:
    materializer = adapters.materializer("toy.model")

    class Twin(type(materializer)):  # type: ignore[misc]  # made on the fly
        key = "twin.model"

    class Plugin:
        @flowyml.hookimpl
        def flowyml_register_materializers(self) -> list[Any]:
            return [Twin()]

    adapters.register(Plugin(), name="twin")
    with pytest.raises(MaterializationError, match="'toy.model' of .* and 'twin.model' of"):
        store.save(Asset(data=toy([1.0])), "m")
    assert store.save(Model.from_toy(toy([1.0])), "m").stored.materializer == "toy.model"
