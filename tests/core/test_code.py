"""What a function's code is: when its digest changes, and when it doesn't."""

from __future__ import annotations

import argparse
import functools
import importlib
import io
import itertools
import linecache
import logging
import operator
import random
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attr
import attr._make
import pytest

import flowyml
from flowyml.code import code_in, describe, differences, modules, source_of
from flowyml.records import Code


class Project:
    """Modules in a folder, imported anew for every description."""

    def __init__(self, folder: Path) -> None:
        self._folders = (folder / f"project{index}" for index in itertools.count())
        self._names: set[str] = set()

    def load(self, train: str, **others: str) -> types.ModuleType:
        self.forget()
        folder = next(self._folders)
        for name, text in {"train": train, **others}.items():
            file = folder / (name.replace(".", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            self._names.add(name.partition(".")[0])
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
        return importlib.import_module("train")

    def describe(self, train: str, **others: str) -> Code:
        return describe(self.load(train, **others).step)

    def forget(self) -> None:
        sys.path[:] = [entry for entry in sys.path if "/project" not in entry]
        for name in [*sys.modules]:
            if name.partition(".")[0] in self._names:
                del sys.modules[name]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    project = Project(tmp_path)
    yield project
    project.forget()


USES_HELPER = "from helpers import helper\ndef step(x):\n    return helper(x)\n"
HELPER = "def helper(x):\n    return x * 2\n"
METHOD = """
class Base:
    def run(self, x):
        return self.scale(x) + 1

class Net(Base):
    width = 3
    def scale(self, x):
        return x * self.width

def step(x):
    return Net().run(x)
"""
FACTORY = """
def make(k):
    def scaled(x):
        return x * k
    return scaled

step = make(2)
"""
DECORATED = """
import functools

def timed(times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            return [function(*args) for _ in range(times)]
        return wrapper
    return decorate

@timed(2)
def helper(x):
    return x * 2

def step(x):
    return helper(x)
"""
TABLE = """
def one(x):
    return x * 2

HANDLERS = {"one": [one], "other": (lambda x: x + 5,)}

def step(x):
    return HANDLERS["one"][0](x)
"""
OBJECT = """
class Scaler:
    def __init__(self, factor):
        self.factor = {"of": [factor]}
    def __call__(self, x):
        return x * 2

SCALER = Scaler(4)

def step(x):
    return SCALER(x)
"""
SLOTS = """
class Scaler:
    __slots__ = ("factor",)
    def __init__(self, factor):
        self.factor = factor

SCALER = Scaler(4)

def step(x):
    return x * SCALER.factor
"""
DISPATCHED = """
import functools

@functools.singledispatch
def area(x):
    return x * 2

@area.register
def _(x: int):
    return x * 3

def step(x):
    return area(x)
"""
CONFIG = """
from dataclasses import dataclass, field

def layers():
    return [8, 8]

@dataclass
class Config:
    rate: float = 0.1
    layers: list = field(default_factory=layers)
    def twice(self):
        return 2 * self.rate

def step(x):
    return Config().rate
"""
ATTRS = (
    CONFIG.replace("from dataclasses import dataclass, field", "import attrs")
    .replace("@dataclass", "@attrs.define")
    .replace("field(default_factory=", "attrs.field(factory=")
)
ENUM = """
import enum

class Mode(enum.Enum):
    FAST = 2
    SLOW = 3
    def cost(self):
        return self.value * 7

MODE = Mode.FAST

def step(x):
    return MODE
"""
META = """
class Meta(type):
    def build(cls):
        return 2

class Net(metaclass=Meta):
    pass

def step(x):
    return Net.build()
"""
CACHED_PROPERTY = """
import functools

class Net:
    @functools.cached_property
    def big(self):
        return 2
    @property
    def small(self):
        return 3
    @staticmethod
    def still():
        return 4
    @classmethod
    def made(cls):
        return 5
    @functools.singledispatchmethod
    def of(self, x):
        return 6
    part = functools.partialmethod(of, 7)

def step(x):
    return Net().big
"""
DESCRIPTOR = """
class Clamp:
    def __init__(self, low):
        self.low = low
    def __get__(self, instance, owner):
        return self.low * 2

class Net:
    width = Clamp(3)

def step(x):
    return Net.width
"""
BODY_CLASS = """
def step(x):
    class Local:
        width = 3
        def get(self):
            return self.width * x
    return Local().get()
"""

CHANGES = {
    "its own constant": ("def step(x): return x + 1", "x + 1", "x + 2"),
    "1 to True": ("def step(x): return x + 1", "x + 1", "x + True"),
    "1 to 1.0": ("def step(x): return x + 1", "x + 1", "x + 1.0"),
    "the sign of zero": ("def step(x): return x * 0.0", "0.0", "-0.0"),
    "a constant in a tuple": ("def step(x): return x in (1, 'a')", "'a'", "b'a'"),
    "a constant in a frozenset": ("def step(x): return x in {1, 'a'}", "'a'", "'b'"),
    "an operator": ("def step(x): return x + 1", "x + 1", "x - 1"),
    "the name of an attribute": ("def step(x): return x.a", "x.a", "x.b"),
    "the name of a builtin": ("def step(x): return min(x)", "min", "max"),
    "a nested function": ("def step(x):\n    def f(): return 1\n    return f()", "1", "2"),
    "a lambda": ("step = lambda x: x + 1", "x + 1", "x + 2"),
    "an exception that it catches": (
        "def step(x):\n    try: return x()\n    except ValueError: return 0",
        "ValueError",
        "TypeError",
    ),
    "a default": ("def step(x, k=1): return k", "k=1", "k=2"),
    "a keyword's default": ("def step(x, *, k=1): return k", "k=1", "k=2"),
    "an argument's kind": ("def step(x, k=1): return k", "k=1", "*, k=1"),
    "a default that is a function": ("def f(): return 1\ndef step(x, k=f): return k", "1", "2"),
    "a global": ("RATE = 1\ndef step(x): return RATE", "1", "1.0"),
    "a global in a nested function": (
        "RATE = 1\ndef step(x): return [lambda: RATE]",
        "RATE = 1",
        "RATE = 2",
    ),
    "a dict's order": ("R = {'a': 1, 'b': 1}\ndef step(x): return R", "'a': 1, 'b'", "'b': 1, 'a'"),
    "a global path": (
        "from pathlib import Path\nP = Path('a')\ndef step(x): return P",
        "'a'",
        "'b'",
    ),
    "a pattern": ("import re\nP = re.compile('a')\ndef step(x): return P.match(x)", "'a'", "'b'"),
    "a pattern's flags": ("import re\nP = re.compile('a', 0)\ndef step(x): return P", "0", "2"),
    "a decimal": (
        "from decimal import Decimal\nD = Decimal('1.0')\ndef step(x): return D",
        "1.0",
        "1.00",
    ),
    "a type": ("T = int\ndef step(x): return T(x)", "int", "float"),
    "a generic type": ("T = list[int]\ndef step(x): return T", "int", "float"),
    "a library's class": (
        "from attrs import Factory as F\ndef step(x): return F",
        "Factory",
        "Attribute",
    ),
    "which builtin a global is": ("f = min\ndef step(x): return f(x)", "min", "max"),
    "which module it uses": ("import bisect as m\ndef step(x): return m.x", "bisect", "heapq"),
    "a partial": (
        "import functools\ndef f(a, b): return a\nG = functools.partial(f, 1)\n"
        "def step(x): return G(x)",
        "f, 1",
        "f, 2",
    ),
    "a partial's function": (
        "import functools\ndef f(a, b): return a\nG = functools.partial(f, 1)\n"
        "def step(x): return G(x)",
        "return a",
        "return b",
    ),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'a b')(1, 2)\n"
        "def step(x): return P",
        "(1, 2)",
        "(2, 1)",
    ),
    "a function's attribute": (
        "def f(x): return 1\nf.table = [1]\ndef step(x): return f.table",
        "[1]",
        "[2]",
    ),
    "two helpers that swap": (
        "def f(x): return 1\ndef g(x): return 2\nswap = (f, g)\na, b = swap\n"
        "def step(x): return a(x) - b(x)",
        "(f, g)",
        "(g, f)",
    ),
    "a closure value": (FACTORY, "make(2)", "make(3)"),
    "a closure that is a function": (FACTORY, "make(2)", "make(lambda: 3)"),
    "a method": (METHOD, "x * self.width", "x / self.width"),
    "a method of a base": (METHOD, "+ 1", "+ 2"),
    "a constant in a class": (METHOD, "width = 3", "width = 4"),
    "the base": (METHOD, "Net(Base)", "Net"),
    "a metaclass": (META, "return 2", "return 3"),
    "a decorated helper": (DECORATED, "x * 2", "x * 3"),
    "a decorator": (DECORATED, "function(*args) for", "0 for"),
    "a decorator's setting": (DECORATED, "timed(2)", "timed(3)"),
    "a handler in a table": (TABLE, "x * 2", "x * 3"),
    "another handler in a table": (TABLE, "x + 5", "x + 6"),
    "the keys of a table": (TABLE, '"other"', '"others"'),
    "an object's state": (OBJECT, "Scaler(4)", "Scaler(5)"),
    "an object's method": (OBJECT, "x * 2", "x * 3"),
    "an object's slot": (SLOTS, "Scaler(4)", "Scaler(5)"),
    "a dispatched function": (DISPATCHED, "x * 2", "x * 3" + " + 1"),
    "a registered function": (DISPATCHED, "x * 3", "x * 4"),
    "the type that it is registered for": (DISPATCHED, "x: int", "x: str"),
    "a dataclass's default": (CONFIG, "0.1", "0.2"),
    "a dataclass's factory": (CONFIG, "[8, 8]", "[8, 9]"),
    "a dataclass's method": (CONFIG, "2 * self", "3 * self"),
    "an attrs class's default": (ATTRS, "0.1", "0.2"),
    "an attrs class's factory": (ATTRS, "[8, 8]", "[8, 9]"),
    "an enum's member": (ENUM, "Mode.FAST", "Mode.SLOW"),
    "an enum's value": (ENUM, "FAST = 2", "FAST = 4"),
    "an enum's method": (ENUM, "* 7", "* 8"),
    "a cached property": (CACHED_PROPERTY, "return 2", "return 9"),
    "a property": (CACHED_PROPERTY, "return 3", "return 9"),
    "a static method": (CACHED_PROPERTY, "return 4", "return 9"),
    "a class method": (CACHED_PROPERTY, "return 5", "return 9"),
    "a method by type": (CACHED_PROPERTY, "return 6", "return 9"),
    "a partial method": (CACHED_PROPERTY, "of, 7", "of, 8"),
    "a descriptor": (DESCRIPTOR, "self.low * 2", "self.low * 3"),
    "a descriptor's state": (DESCRIPTOR, "Clamp(3)", "Clamp(4)"),
    "a class in the body": (BODY_CLASS, "width = 3", "width = 4"),
    "a cached helper": (
        "import functools\n@functools.lru_cache\ndef f(x): return 1\ndef step(x): return f(x)",
        "return 1",
        "return 2",
    ),
    "a helper that a library decorates": (
        "import contextlib\n@contextlib.contextmanager\ndef f(x): yield 1\n"
        "def step(x):\n    with f(x) as y: return y",
        "yield 1",
        "yield 2",
    ),
    "what a wrapper only refers to": (
        "import functools\ndef wrap(f):\n    def w(x): return w.__wrapped__(x)\n"
        "    return functools.update_wrapper(w, f)\ndef f(x): return 1\nf = wrap(f)\n"
        "def step(x): return f(x)",
        "return 1",
        "return 2",
    ),
    "one of many constants": (
        f"def step(x): return [{', '.join(f'x + {item}' for item in range(400))}]",
        "x + 399]",
        "x + 143]",
    ),
    "what an exception handler covers": (
        "def step(x):\n    try:\n        x()\n        x()\n    finally:\n        x.y\n",
        "    try:\n        x()\n",
        "    x()\n    try:\n",
    ),
    "a module of a module that it imports": (
        "import helpers\nhelpers = __import__('helpers')\nhelpers.RATE = 1\n"
        "def step(x):\n    import train as t\n    return t.helpers.RATE",
        "RATE = 1",
        "RATE = 2",
    ),
    "a bound method": (
        "class A:\n    def __init__(self, k): self.k = k\n    def get(self, x): return x * self.k\n"
        "f = A(1).get\ndef step(x): return f(x)",
        "A(1)",
        "A(2)",
    ),
    "a bound method of a builtin": ("f = {'a': 1}.get\ndef step(x): return f(x)", "1}", "2}"),
    "the class of a method": (
        "class A:\n    def go(self, x): return self.one(x)\n    def one(self, x): return 1\n"
        "step = A.go",
        "return 1",
        "return 2",
    ),
    "another step": (
        "import flowyml\n@flowyml.step\ndef f(x): return 1\ndef step(x): return f(x)",
        "return 1",
        "return 2",
    ),
    "another step's seed": (
        "import flowyml\n@flowyml.step(seed=1)\ndef f(x): return 1\ndef step(x): return f(x)",
        "seed=1",
        "seed=2",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of(name: str, project: Project) -> None:
    text, old, new = CHANGES[name]
    assert old in text
    others = {"helpers": ""}
    before = project.describe(text, **others)
    after = project.describe(text.replace(old, new), **others)
    assert before.digest != after.digest
    assert differences(before, after)
    assert before.unknown == after.unknown == ()
    again = project.describe(text, **others)
    assert (again.digest, again.parts) == (before.digest, before.parts)


NO_CHANGES = {
    "a comment": ("def step(x):\n    return x\n", "def step(x):\n    # why\n    return x\n"),
    "a blank line": ("def step(x):\n    return x\n", "\n\n\ndef step(x):\n\n    return x\n"),
    "a docstring": (
        'def step(x):\n    "One."\n    return x\n',
        'def step(x):\n    """Two."""\n    return x\n',
    ),
    "a new docstring": (
        "def step(x):\n    x()\n    return None\n",
        'def step(x):\n    """Two."""\n    x()\n    return None\n',
    ),
    "a docstring in a class in the body": (
        "def step(x):\n    class A:\n        y = 1\n        z = y\n    return A\n",
        "def step(x):\n    class A:\n        'Two.'\n        y = 1\n        z = y\n    return A\n",
    ),
    "a class's docstring": (
        "class A:\n    y = 1\ndef step(x):\n    return A\n",
        "\nclass A:\n    'Two.'\n    y = 1\n\n\ndef step(x):\n    return A\n",
    ),
    "the order of assignments in a class": (
        "def step(x):\n    class A:\n        def f(self):\n            self.a = self.b = x\n"
        "    return A\n",
        "def step(x):\n\n    class A:\n        def f(self):\n            self.a = self.b = x\n"
        "    return A\n",
    ),
    "an unrelated function": (
        "def step(x):\n    return x\n",
        "def other(x):\n    return 1\nOTHER = 5\ndef step(x):\n    return x\n",
    ),
    "a logger": (
        "import logging\nLOG = logging.getLogger('a')\ndef step(x):\n    LOG.info(x)\n",
        "import logging\nLOG = logging.getLogger('b')\ndef step(x):\n    LOG.info(x)\n",
    ),
    "where the module is": (
        "from pathlib import Path\ndef step(x): return Path(__file__), __name__",
        "from pathlib import Path\n\ndef step(x): return Path(__file__), __name__",
    ),
    "the order in which variables are set": (
        "class A: pass\na = A()\na.x, a.y = 1, 2\ndef step(x): return a",
        "class A: pass\na = A()\na.y, a.x = 2, 1\ndef step(x): return a",
    ),
    "a property that has been computed": (
        "import functools\nclass A:\n    @functools.cached_property\n    def x(self): return 1\n"
        "a = A()\ndef step(x): return a",
        "import functools\nclass A:\n    @functools.cached_property\n    def x(self): return 1\n"
        "a = A()\na.x\ndef step(x): return a",
    ),
    "line breaks": (
        "def step(x):\n    return x + 1\n",
        "def step(\n    x\n):\n    return (x +\n 1)",
    ),
}


@pytest.mark.parametrize("name", NO_CHANGES)
def test_no_change_by(name: str, project: Project) -> None:
    before, after = map(project.describe, NO_CHANGES[name])
    assert before.digest == after.digest
    assert differences(before, after) == []
    assert before.unknown == ()


IMPORTS = {
    "a function": ("from helpers import helper\n", "", "helper(x)"),
    "a module": ("import helpers\n", "", "helpers.helper(x)"),
    "a module by another name": ("import helpers as h\n", "", "h.helper(x)"),
    "a function in the body": ("import helpers\n", "    from helpers import helper\n", "helper(x)"),
    "a module in the body": ("import helpers\n", "    import helpers\n", "helpers.helper(x)"),
    "a module in the body, not imported yet": ("", "    import helpers\n", "helpers.helper(x)"),
    "a function in the body, not imported yet": (
        "",
        "    from helpers import helper as h\n",
        "h(x)",
    ),
    "a module in the body by another name": (
        "import helpers\n",
        "    import helpers as h\n    local = h\n",
        "(lambda: local.helper)()(x)",
    ),
    "a module in a variable": ("import helpers\n", "    h = helpers\n", "h.helper(x)"),
    "a module that is passed on": ("import helpers\n", "", "getattr(helpers, 'hel' + 'per')(x)"),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_changed_helper_is_seen_through_the_import_of(name: str, project: Project) -> None:
    top, body, call = IMPORTS[name]
    train = f"{top}def step(x):\n{body}    return {call}\n"
    helpers = "import more\nfrom more import deep\ndef helper(x):\n    return deep(x) * more.RATE\n"
    more = "RATE = 1\ndef deep(x):\n    return 2\ndef unused(x):\n    return 3\n"
    before = project.describe(train, helpers=helpers, more=more)
    again = project.describe(f"\n{train}", helpers=f"# again\n{helpers}", more=f"# again\n{more}")
    of_helper = project.describe(train, helpers=helpers.replace("*", "+"), more=more)
    of_deep = project.describe(train, helpers=helpers, more=more.replace("2", "4"))
    of_rate = project.describe(train, helpers=helpers, more=more.replace("= 1", "= 5"))
    assert before.digest == again.digest
    assert len({code.digest for code in (before, of_helper, of_deep, of_rate)}) == 4
    assert before.unknown == ()


def test_a_helper_in_a_package_is_seen_through_relative_imports(project: Project) -> None:
    others = {
        "kit.__init__": "from . import deep\n",
        "kit.deep": "def helper(x):\n    return 2\n",
        "kit.work": "from .deep import helper\ndef work(x):\n"
        "    from . import deep\n    from .late import late\n    return deep.helper(x), late(x)\n",
        "kit.late": "def late(x):\n    from kit import later\n    return 5\n",
        "kit.later": "VALUE = 7\n",
    }
    train = "import kit.work\ndef step(x):\n    return kit.work.work(x)\n"
    before = project.describe(train, **others)
    assert {"kit.work.work", "kit.deep.helper", "kit.late", "kit.later"} <= before.parts.keys()
    for module in ("kit.deep", "kit.late", "kit.later"):
        changed = re.sub(r"\d", "9", others[module])
        assert project.describe(train, **{**others, module: changed}).digest != before.digest


def test_an_unused_function_of_a_module_does_not_matter(project: Project) -> None:
    train = "import helpers\ndef step(x):\n    return helpers.helper(x)\n"
    before = project.describe(train, helpers=HELPER)
    after = project.describe(train, helpers=f"{HELPER}def other(x):\n    return 7\n")
    assert before.digest == after.digest


def test_a_helper_that_is_replaced_in_memory_is_seen(project: Project) -> None:
    train = project.load(USES_HELPER, helpers=HELPER)
    before = describe(train.step)
    train.helper = lambda x: x * 7
    assert describe(train.step).digest != before.digest


def test_the_code_in_memory_counts_and_not_the_file(project: Project) -> None:
    train = project.load(USES_HELPER, helpers=HELPER)
    before = describe(train.step)
    for name in ("train", "helpers"):
        Path(str(sys.modules[name].__file__)).write_text("def step(x):\n    return 'other'\n")
    linecache.clearcache()
    assert describe(train.step) == before


def test_recursion_ends(project: Project) -> None:
    code = project.describe(
        "def step(x):\n    return other(x)\ndef other(x):\n    return step(x) or other(x) or A\n"
        "class A:\n    def f(self):\n        return super().f() or A\nTABLE = []\n"
        "TABLE.append(TABLE)\ndef cycle():\n    return TABLE\nA.cycle = cycle\n"
    )
    assert {"train.step", "train.other", "train.A", "train.A.f", "train.TABLE"} <= code.parts.keys()
    assert code.unknown == ()


def test_parts_are_named_after_what_they_are(project: Project) -> None:
    code = project.describe(
        DECORATED + "\nRATE = 2\ndef twice(x): return step(x) * RATE\nstep=twice"
    )
    assert list(code.parts) == [
        "<bytecode>",
        "train.RATE",
        "train.twice",
    ]
    code = project.describe("RATE = 2\n" + DECORATED.replace("x * 2", "x * RATE"))
    assert set(code.parts) == {
        "<bytecode>",
        "train.RATE",
        "train.step",
        "train.timed.<locals>.decorate.<locals>.wrapper(train.helper)",
        "train.timed.<locals>.decorate.<locals>.wrapper(train.helper).<closure>.times",
        "train.helper",
    }


def test_different_things_of_one_name_are_all_parts(project: Project) -> None:
    text = FACTORY.replace("step = make(2)", "two, three = make(2), make(3)") + (
        "def step(x):\n    return two(three(x))\n"
    )
    before = project.describe(text)
    name = "train.make.<locals>.scaled"
    assert {name, f"{name}#2", f"{name}.<closure>.k", f"{name}#2.<closure>.k"} <= set(before.parts)
    assert project.describe(text.replace("make(3)", "make(4)")).digest != before.digest


def test_a_warm_function_has_the_digest_of_a_cold_one(project: Project) -> None:
    text = "def step(x):\n    return [item + 1.5 for item in range(x) if str(item).split()]\n"
    cold = project.describe(text)
    train = project.load(text)
    for _ in range(1000):
        train.step(50)
    assert describe(train.step).digest == cold.digest


def test_a_traced_function_has_the_digest_of_an_untraced_one(project: Project) -> None:
    text = "def step(x):\n    return [item + 1.5 for item in range(x)]\n"
    train = project.load(text)
    before = sys.gettrace()
    sys.settrace(lambda *_: lambda *_: None)
    try:
        train.step(50)
        traced = describe(train.step)
    finally:
        sys.settrace(before)
    assert traced.digest == project.describe(text).digest


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
def test_a_monitored_function_has_the_digest_of_an_unmonitored_one(project: Project) -> None:
    text = "def step(x):\n    return [item + 1.5 for item in range(x) if str(item)]\n"
    train = project.load(text)
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
    monitoring.use_tool_id(4, "test")
    try:
        events = monitoring.events
        monitoring.set_local_events(4, train.step.__code__, events.LINE | events.INSTRUCTION)
        train.step(50)
        monitored = describe(train.step)
    finally:
        monitoring.free_tool_id(4)
    assert monitored.digest == project.describe(text).digest


def test_a_program_in_a_package_is_known_by_its_whole_name(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "train.py").write_text(
        "def step():\n    return 1\n"
        "from flowyml.code import describe\nprint(describe(step).function, describe(step).digest)\n"
    )
    imported = run_python("import kit.train")
    started = run_python("import runpy; runpy.run_module('kit.train', {}, '__main__', True)")
    assert imported == started
    assert imported.startswith("kit.train.step ")


def test_the_table_of_handlers_is_part_of_the_code() -> None:
    def step(x: Any) -> Any:
        try:
            return x()
        except ValueError:
            return 0

    other = types.FunctionType(step.__code__.replace(co_exceptiontable=b""), globals())
    parts = [describe(function).parts for function in (step, other)]
    assert parts[0] != parts[1]


def test_two_processes_agree_whatever_their_hash_seed_and_however_it_is_started(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    (tmp_path / "train.py").write_text(
        f"{ATTRS}{ENUM}{TABLE}SET = {{'a', 'b', ('c', 1), frozenset('xyz')}}\n"
        "step_of_table = step\n"
        "class Net:\n    def f(self):\n        self.a = self.b = self.c = 1\n"
        "def step(x):\n"
        "    class Local:\n        def f(self):\n            self.a = self.b = self.c = x\n"
        "    return Config(), MODE, SET, step_of_table(x), x in {'p', 'q', 'r'}, Net, Local\n"
        "if __name__ == '__main__':\n    from flowyml.code import describe\n"
        "    code = describe(step)\n    print(code.function, code.digest, code.unknown)\n"
    )
    imported = "from flowyml.code import describe\nimport train\ncode = describe(train.step)\n"
    imported += "print(code.function, code.digest, code.unknown)"
    said = {run_python(imported, PYTHONHASHSEED=str(seed)) for seed in (1, 2, 3)}
    as_program = (
        "import subprocess, sys; "
        "print(subprocess.run([sys.executable, *ARGUMENTS], capture_output=True, text=True,"
        " check=True).stdout, end='')"
    )
    said |= {
        run_python(as_program.replace("ARGUMENTS", arguments))
        for arguments in ("['train.py']", "['-m', 'train']")
    }
    assert len(said) == 1
    assert said.pop().startswith("train.step ")


class Broken:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __bool__(self) -> bool:
        raise RuntimeError("bool")

    def __len__(self) -> int:
        raise SystemExit("len")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise KeyboardInterrupt

    def __iter__(self) -> Any:
        raise RuntimeError("iter")

    def __call__(self) -> None: ...


class BrokenMeta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(cls) -> int:
        raise RuntimeError("hash")

    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("instance")


class BrokenClass(metaclass=BrokenMeta):
    pass


def with_global(value: Any) -> Callable[..., Any]:
    """Return a function of the project that reads a global."""
    namespace: dict[str, Any] = {"VALUE": value, "__name__": "train"}
    exec("def step(x):\n    return VALUE", namespace)  # noqa: S102
    function: Callable[..., Any] = namespace["step"]
    return function


def with_closure(value: Any) -> Callable[..., Any]:
    return lambda: value


BROKEN: dict[str, Callable[[], Any]] = {
    "object": Broken,
    "class": lambda: Broken,
    "list": lambda: [Broken()],
    "deep": lambda: {1: {"a": (Broken(),)}},
    "metaclass": lambda: BrokenClass,
    "objects of a broken metaclass": lambda: [BrokenClass(), BrokenClass()],
    "broken class in a dict": lambda: {"a": BrokenClass},
    "partial": lambda: functools.partial(Broken(), Broken()),
    "method": lambda: types.MethodType(Broken(), Broken()),
}


@pytest.mark.parametrize("make", [with_global, with_closure])
@pytest.mark.parametrize("name", BROKEN)
def test_broken_objects_are_described(make: Callable[..., Any], name: str) -> None:
    first, second = describe(make(BROKEN[name]())), describe(make(BROKEN[name]()))
    assert first.digest == second.digest


def test_nothing_callable_makes_it_raise() -> None:
    for function in (Broken(), BrokenClass, BrokenClass(), len, [].append, str.upper, print, 7):
        assert describe(function).digest  # type: ignore[arg-type]


def test_deep_values_and_large_ones_are_said_to_have_no_digest() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    code = describe(with_global(deep))
    assert code.unknown == (
        "the global 'train.VALUE', a list, has no digest: it is nested too deeply",
    )
    while deep:  # Python's own destructor is recursive
        deep = deep.pop()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((item for item in ()), "a generator, has no digest"),
        ({"a": [(item for item in ())]}, "a dict, has no digest: it holds a generator"),
        (itertools.count(), "a itertools.count, has no digest"),
        (io.StringIO(), "a _io.StringIO, has no digest"),
    ],
)
def test_what_has_no_digest_is_named(value: Any, reason: str) -> None:
    code = describe(with_global(value))
    assert len(code.unknown) == 1
    assert code.unknown[0].startswith(f"the global 'train.VALUE', {reason}")


class Sampler(random.Random):
    pass


def test_closures_and_defaults_without_a_digest_are_named() -> None:
    def step(x: Any = Sampler(1)) -> Any:  # noqa: B008  (it is what this is about)
        return value, x

    value = Sampler(1)
    name = f"{__name__}.test_closures_and_defaults_without_a_digest_are_named.<locals>.step"
    assert describe(step).unknown == (
        f"the default of 'x' in {name}, a {__name__}.Sampler, has no digest",
        f"the closure variable '{name}.<closure>.value', a {__name__}.Sampler, has no digest",
    )


@pytest.mark.parametrize(
    "value",
    [
        logging.getLogger("a"),
        threading.Lock(),
        threading.RLock(),
        threading.Event(),
        operator.itemgetter(1),
        types.SimpleNamespace(a=1),
        types.MappingProxyType({"a": [1]}),
        slice(1, 2),
        range(3),
        bytearray(b"a"),
        {1, "a", (2, frozenset({3}))},
        [10**5000],
        "\ud800",
        ...,
        complex(0.0, -0.0),
        re.compile("a"),
    ],
)
def test_ordinary_values_have_digests(value: Any) -> None:
    code = describe(with_global(value))
    assert code.unknown == ()
    assert code.digest == describe(with_global(value)).digest


def test_values_of_different_types_have_different_digests() -> None:
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        1j,
        None,
        (1,),
        [1],
        {1},
        frozenset({1}),
        {1: 1},
        bytearray(b"1"),
    ]
    values += [0.0, -0.0, complex(0.0, -0.0), complex(-0.0, 0.0), "None", [[1]], [(1,)], ...]
    values += [float("inf"), float("nan"), "nan", {"1": 1}, {1: "1"}, ["1"], range(1), slice(1)]
    assert len({describe(with_global(value)).digest for value in values}) == len(values)


def test_what_only_an_adapter_can_read_is_read_by_the_function_given() -> None:
    seen = []

    def digest_of(value: Any) -> str:
        seen.append(value)
        return "aa"

    sampler = Sampler(1)
    code = describe(with_global([sampler]), digest_of)
    assert code.unknown == ()
    assert seen == [sampler]
    assert code.digest != describe(with_global([sampler]), lambda _: "bb").digest
    assert f"{__name__}.Sampler" in code.parts


class Layer:
    def __init__(self, inner: Any = None) -> None:
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return x


def test_the_classes_in_an_object_that_an_adapter_reads_are_followed() -> None:
    library = argparse.Namespace(layers={"a": [Layer()]})
    adapted = attr._make.Factory(library)  # an object of a library's class
    code = describe(with_global(adapted), lambda _: "aa")
    assert f"{__name__}.Layer.forward" in code.parts


def hook(x: Any) -> Any:
    return x


def test_the_code_in_arguments_is_found_wherever_it_is_held() -> None:
    assert code_in([1, "a", [2.0], len, int, attr.Factory, random.Random(1)]) == ()
    assert code_in([Layer()]) == (Layer,)
    assert code_in([{"a": (Layer,)}]) == (Layer,)
    assert code_in([argparse.Namespace(a=[hook])]) == (hook,)
    assert code_in([Layer(Sampler(1))]) == (Layer, Sampler)
    assert code_in([Layer(types.MappingProxyType({"a": hook}))]) == (Layer, hook)
    cycle = Layer()
    cycle.inner = [cycle]
    assert code_in([cycle]) == (Layer,)
    assert code_in([Broken(), BrokenClass(), BrokenClass, [Broken()]]) == (Broken, BrokenClass)


def test_numpy_s_values_have_digests() -> None:
    numpy = pytest.importorskip("numpy", reason="a library whose objects are written in C")
    values = [
        *(numpy.exp, numpy.log, numpy.mean, numpy.float32, numpy.dtype("f4"), numpy.float64(1)),
        *(numpy.arange(3), numpy.arange(4), numpy.arange(3.0), numpy.random.default_rng(0)),
        numpy.random.default_rng(1),
    ]
    codes = [describe(with_global(value)) for value in values]
    assert [code.unknown for code in codes] == [()] * len(values)
    assert [code.libraries.get("numpy") for code in codes] == [numpy.__version__] * len(values)
    assert len({code.digest for code in codes}) == len(values)
    assert [describe(with_global(value)).digest for value in values] == [
        code.digest for code in codes
    ]


def test_what_python_code_gives_to_pickle_is_no_digest() -> None:
    numpy = pytest.importorskip("numpy", reason="a library whose objects are written in C")
    assert describe(with_global(numpy.ma.arange(3))).unknown == (
        "the global 'train.VALUE', a numpy.ma.MaskedArray, has no digest",
    )


def test_a_module_that_is_built_in_needs_no_file() -> None:
    name = next(name for name in sys.builtin_module_names if name not in sys.modules)
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(f"def step():\n    import {name}\n    return {name}", namespace)  # noqa: S102
    code = describe(namespace["step"])
    assert code.unknown == ()
    assert set(code.parts) == {"<bytecode>", "train.step"}


def test_whether_a_library_is_imported_already_does_not_matter(
    run_python: Callable[..., str],
) -> None:
    said = run_python(
        "from flowyml.code import describe\n"
        "def step():\n"
        "    import colorsys, blake3, wave as w, no.such, no_such\n"
        "    from colorsys import rgb_to_hsv\n"
        "    from blake3 import blake3 as hash\n"
        "    from xml.etree import ElementTree\n"
        "    return colorsys.rgb_to_hsv, w.Error, ElementTree.parse, no.such\n"
        "import sys\n"
        "sys.modules.pop('blake3')\n"
        "before = describe(step)\n"
        "assert not {'colorsys', 'wave', 'xml'} & set(sys.modules), 'describing has imported it'\n"
        "import colorsys, blake3, wave, xml.etree.ElementTree\n"
        "print(describe(step) == before, sorted(before.libraries), before.unknown)\n"
    )
    assert said == "True ['blake3'] ()\n"


def test_a_library_is_noted_and_not_followed(project: Project) -> None:
    text = "import pytest, attrs\nfrom attrs import evolve\ndef step(x):\n"
    text += "    return pytest.approx(x), evolve(x), attrs.has(x), pytest.Module\n"
    code = project.describe(text)
    assert code.libraries["pytest"] == pytest.__version__
    assert code.parts.keys() & {"attr._make.evolve", "attr._funcs.evolve"}
    assert not [name for name in code.parts if name.startswith("_pytest.") and "approx" not in name]
    assert code.unknown == ()


def test_flowyml_is_a_library_though_it_is_installed_for_editing(project: Project) -> None:
    code = project.describe(
        "from flowyml import Model, seed_everything\n"
        "def step(x):\n    seed_everything(1)\n    return Model\n"
    )
    assert code.libraries == {"flowyml": flowyml.__version__}
    assert set(code.parts) == {"<bytecode>", "train.step", "flowyml.seeds.seed_everything"}


def test_an_installed_package_is_followed_if_it_is_named(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "venv" / "site-packages" / "company"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("def step(x):\n    return helper(x)\n\n" + HELPER)
    monkeypatch.syspath_prepend(folder.parent)
    company = importlib.import_module("company")
    try:
        assert "company.helper" not in describe(company.step).parts
        assert "company.helper" in describe(company.step, project=["company"]).parts
    finally:
        del sys.modules["company"]


@pytest.mark.parametrize(
    ("module", "origin"),
    [
        ("os", modules.Origin.STANDARD),
        ("os.path", modules.Origin.STANDARD),
        ("sys", modules.Origin.STANDARD),
        ("json.decoder", modules.Origin.STANDARD),
        ("builtins", modules.Origin.STANDARD),
        ("pytest", modules.Origin.LIBRARY),
        ("attr._make", modules.Origin.LIBRARY),
        ("flowyml", modules.Origin.LIBRARY),
        ("flowyml_of_somebody", modules.Origin.PROJECT),
        ("__main__notebook", modules.Origin.PROJECT),
        (__name__, modules.Origin.PROJECT),
    ],
)
def test_the_origin_of_a_module(module: str, origin: modules.Origin) -> None:
    assert modules.origin_of(module) is origin


def test_code_that_was_typed_in_belongs_to_the_project(run_python: Callable[..., str]) -> None:
    said = run_python(
        "from flowyml.code import describe\ndef helper(): return 1\ndef step(): return helper()\n"
        "code = describe(step)\nprint(code.function, code.file, sorted(code.parts), code.source)"
    )
    # From 3.13 on Python keeps the text that it was given with -c.
    text = "def step(): return helper()\n" if sys.version_info >= (3, 13) else None
    assert said == f"__main__.step None ['<bytecode>', '__main__.helper', '__main__.step'] {text}\n"


def test_a_notebook_s_cell_is_the_source(run_python: Callable[..., str]) -> None:
    pytest.importorskip("IPython", reason="a notebook's shell")
    said = run_python(
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\n"
        "shell.run_cell('from flowyml.code import describe\\ndef helper(): return 1')\n"
        "shell.run_cell('def step(): # one\\n    return helper()')\n"
        "shell.run_cell('code = describe(step)')\n"
        "code = shell.user_ns['code']\nprint(repr(code.source), sorted(code.parts), code.file)",
        HOME="/nonexistent",
        IPYTHONDIR="ipython",
    )
    assert r"'def step(): # one\n    return helper()" in said
    assert "'__main__.helper', '__main__.step'" in said
    assert "] None" in said


def test_the_source_is_the_text_with_its_decorators(project: Project) -> None:
    train = project.load(
        "import flowyml\n\n\n"
        "@flowyml.step(\n    seed=1,\n)\ndef step(x):\n    # why\n    return x\n\n\n"
        "class A:\n    def f(self):\n        '''One\n        two.'''\n"
        "        return super().__x, self\n"
        "g = lambda x: x + 1\n"
        "def make(k):\n    def inner(x):\n        return k\n    return inner\n"
    )
    assert source_of(train.step) == (
        "@flowyml.step(\n    seed=1,\n)\ndef step(x):\n    # why\n    return x\n"
    )
    assert source_of(train.A.f) == (
        "def f(self):\n    '''One\n    two.'''\n    return super().__x, self\n"
    )
    assert source_of(train.g) == "g = lambda x: x + 1\n"
    assert source_of(train.make(1)) == "def inner(x):\n    return k\n"
    assert describe(train.step).source == source_of(train.step)
    assert describe(train.step).file == train.__file__


@pytest.mark.parametrize("new", ["    return x + 2\n", "    return 'a'\n    return 5\n", ""])
def test_the_source_of_an_edited_file_is_none_rather_than_wrong(project: Project, new: str) -> None:
    train = project.load("def step(x):\n    return x + 1\n")
    assert train.__file__ is not None
    Path(train.__file__).write_text(f"def step(x):\n{new}")
    linecache.clearcache()
    assert source_of(train.step) is None


def test_the_source_that_was_read_early_outlives_the_file(project: Project) -> None:
    train = project.load("def step(x):\n    return x + 1\n")
    early = source_of(train.step)
    assert train.__file__ is not None
    Path(train.__file__).write_text("")
    linecache.clearcache()
    assert describe(train.step).source == early == "def step(x):\n    return x + 1\n"


def test_a_reloaded_module_has_its_new_source(project: Project) -> None:
    train = project.load("def step(x):\n    return x + 1\n")
    assert source_of(train.step)
    assert train.__file__ is not None
    Path(train.__file__).write_text("def step(x):\n    return x + 1000\n")
    importlib.reload(train)
    assert source_of(train.step) == "def step(x):\n    return x + 1000\n"


def test_differences_are_told_by_what_changed(project: Project) -> None:
    train = (
        "import helpers\nRATE = 1\ndef make(k):\n    def f(x):\n        return k\n    return f\n"
        "inner = make(1)\ndef old(x): return 1\n"
        "def step(x):\n    return helpers.helper(x), RATE, inner(x), old(x)\n"
    )
    before = project.describe(train, helpers=HELPER)
    after = project.describe(
        train.replace("RATE = 1", "RATE = 2").replace("make(1)", "make(2)").replace("old", "new"),
        helpers=HELPER.replace("* 2", "* 3"),
    )
    assert differences(before, after) == [
        "train.step changed",
        "helpers.helper changed",
        "the global train.RATE changed",
        "the closure variable train.make.<locals>.f.<closure>.k changed",
        "train.new is new",
        "train.old is no longer used",
    ]


def test_versions_of_libraries_are_compared() -> None:
    before = Code("train.step", "a", libraries={"torch": "2.12", "numpy": "2.0", "old": "1"})
    after = Code("train.step", "a", libraries={"torch": "2.13", "numpy": "2.0", "new": "3"})
    assert differences(before, after) == [
        "new 3 is new",
        "old 1 is no longer used",
        "torch 2.12 → 2.13",
    ]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a", "the same text of train.step was compiled by another Python (3.11 → 3.12)"),
        ("b", "train.step changed, and was compiled by another Python (3.11 → 3.12)"),
        (None, "train.step was compiled by another Python (3.11 → 3.12)"),
    ],
)
def test_digests_of_code_by_another_python_are_not_compared(source: str | None, said: str) -> None:
    before = Code(
        "train.step",
        "a",
        source="a",
        parts={"<bytecode>": "3.11", "train.step": "a", "f": "a", "train.R": "global:a"},
    )
    after = Code(
        "train.step",
        "b",
        source=source,
        parts={"<bytecode>": "3.12", "train.step": "b", "f": "b", "train.R": "global:b"},
    )
    assert differences(before, after) == [said, "the global train.R changed"]
