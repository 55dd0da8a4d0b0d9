"""What a stored structure may name, and how a name becomes the class or function.

Three kinds of names are resolved: what is torch's own and harmless (classes of ``torch.nn``,
functions on tensors), ``nn.Module`` subclasses that the process has imported already, and what
the caller lists in ``trust=``. Only the last may cause an import. Everything else is refused.
"""

from __future__ import annotations

import enum
import importlib
import sys
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from flowyml.errors import MaterializationError, MaterializationWarning, UntrustedDataError, warn
from flowyml.trust import Trust
from flowyml_pytorch.describing.functional import path_of
from flowyml_pytorch.storing.every_kind import SAFE

FRAMEWORK = (
    nn.Module,
    torch.utils.data.Dataset,
    torch.utils.data.Sampler,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
)
"""Bases of classes that need no trust once imported: objects are built of their attributes."""

_TORCHS_LAYERS = (
    "torch.nn.modules.",
    "torch.nn.utils.parametri",
    "torch.ao.nn.",
    "torch.ao.quantization.",
)
"""Where the classes live whose restoring runs at most harmless code of torch's own."""

_OTHER_MODULES = (torch.optim.swa_utils.AveragedModel,)
_TORCHS_PACKAGES = ("torch", "torchdata", "functorch")
_STREAMS = (torch.utils.data.IterDataPipe, torch.utils.data.MapDataPipe)

_HOOKS = ("__setstate__", "__del__", "__hash__", "__eq__", "__getattribute__")
"""Methods that Python calls on an object that is being restored, or given up."""


_TORCHS_HOOKS = (
    ("torch.nn.modules.lazy", "LazyModuleMixin._infer_parameters"),
    ("torch.nn.modules.lazy", "LazyModuleMixin._lazy_load_hook"),
    ("torch.ao.quantization.quantize", "_observer_forward_hook"),
    ("torch.ao.quantization.quantize", "_observer_forward_pre_hook"),
)
"""What lazy modules, and those that are prepared for quantization, have among their hooks."""


class Use(enum.Enum):
    """What a file wants of a name."""

    CLASS = "an object of it"
    VALUE = "itself, as a value"
    CALL = "to be called while loading"


@attrs.frozen
class Name:
    """A class or function by module and qualified name, written ``module:qualname``."""

    module: str
    qualname: str

    @classmethod
    def of(cls, item: Any) -> Name:
        """Return the name of a class or function."""
        return cls(item.__module__, item.__qualname__)

    @classmethod
    def parse(cls, text: Any) -> Name:
        """Read ``module:qualname``. Raises ValueError for anything else."""
        module, colon, qualname = text.partition(":") if isinstance(text, str) else ("", "", "")
        parts = [*module.split("."), *qualname.split(".")]
        if not colon or not all(part.isidentifier() for part in parts):
            raise ValueError(f"{text!r} names no class or function")
        return cls(module, qualname)

    def __str__(self) -> str:
        return f"{self.module}:{self.qualname}"

    @property
    def dotted(self) -> str:
        """The name as ``trust=`` takes it."""
        return f"{self.module}.{self.qualname}"


def main_module_name() -> str | None:
    """Return the name under which the script that runs now could be imported."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    name = Path(getattr(main, "__file__", None) or "").stem
    return name if name.isidentifier() else None


def importable_name(item: Any) -> Name | None:
    """Return the name that leads back to a class or function, or None when none does."""
    path = path_of(item)  # builtins don't know the module they are found in
    if path is not None:
        return Name.parse(path)
    module, qualname = getattr(item, "__module__", None), getattr(item, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str):
        return None
    if not all(part.isidentifier() for part in (*module.split("."), *qualname.split("."))):
        return None  # a lambda, or something local to a function
    name = Name(module, qualname)
    return name if _imported(name) is item else None


def is_safe(item: Any) -> bool:
    """Tell whether a name may be used by every file, because it is torch's own and harmless."""
    if isinstance(item, type):
        return issubclass(item, (nn.Module, enum.Enum)) and f"{item.__module__}.".startswith(
            _TORCHS_LAYERS
        )
    return path_of(item) is not None or _own_name(item) in _TORCHS_HOOKS


def _own_name(item: Any) -> tuple[str, str]:
    return str(getattr(item, "__module__", "")), str(getattr(item, "__qualname__", ""))


def is_quantized_layer(cls: type) -> bool:
    """Tell whether torch's code for a quantized layer pickles it; its attributes are enough."""
    return any(
        str(getattr(getattr(cls, how, None), "__module__", "")).startswith("torch.ao.nn.")
        for how in ("__getstate__", "__setstate__")
    )


def is_built_from_parts(cls: type) -> bool:
    """Tell whether a class is torch's own, and its objects are only built by their kind."""
    return f"{cls.__module__}.{cls.__qualname__}".startswith(SAFE)


def runs_code_on_load(cls: type) -> bool:
    """Tell whether code of a class may run while an object of it is restored or given up."""
    hooks: tuple[str, ...] = _HOOKS
    if issubclass(cls, (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)):
        # torch's own code restores these, and reads what it has set
        names = ("state", "param_groups", "defaults", "_patch_step_function", "profile_hook_step")
        hooks = (*hooks, "__getattr__", "__setattr__", *names)
    return any(
        base not in (object, nn.Module) and not (is_safe(base) or is_built_from_parts(base))
        for hook in hooks
        for base in [next((base for base in cls.__mro__ if hook in vars(base)), object)]
    )


def takes_parametrizations(cls: type) -> bool:
    """Tell whether torch may parametrize an object of a class without running code of the class."""
    makes_subclasses = any("__init_subclass__" in vars(base) for base in cls.__mro__[:-1])
    return (
        issubclass(cls, nn.Module)
        and type(cls) is type
        and not makes_subclasses
        and has_plain_access(cls)
    )


def replaces_method(name: str, value: Any) -> bool:
    """Tell whether an attribute would be called in place of a module's method.

    A module's ``forward`` may be one: it is what a user calls.
    """
    if name == "forward" or type(value) in (str, int, float, bool, type(None), list, tuple):
        return False
    return callable(getattr(nn.Module, name, None))


def takes_place_in_tensor(name: str, value: Any) -> bool:
    """Tell whether an attribute would be taken for one of a tensor's own."""
    if name in ("_is_param", "_is_buffer"):
        return value is not True
    return hasattr(torch.Tensor, name)


def has_plain_access(cls: type) -> bool:
    """Tell whether getting and setting attributes of a module runs no code of its class."""
    return all(
        getattr(cls, access) is getattr(nn.Module, access)
        for access in ("__getattr__", "__setattr__", "__getattribute__")
    )


@attrs.define
class Resolver:
    """Resolves the names of one file; refusals are collected, so that one error lists them all."""

    ref: str
    trust: Trust
    main: str | None
    class_map: Mapping[str, type] = attrs.field(factory=dict)
    found: dict[tuple[Name, Use], Any] = attrs.field(factory=dict)
    refused: list[str] = attrs.field(factory=list)
    missing: list[str] = attrs.field(factory=list)

    def resolve_all(self, names: Iterable[tuple[Name, Use]]) -> None:
        """Resolve every name of the file, for all its uses, before anything is built.

        Raises:
            UntrustedDataError: listing all names that are refused.
            MaterializationError: listing all names that lead nowhere.
        """
        for name, use in dict.fromkeys(names):
            self._resolve(name, use)
        self.refused = [*dict.fromkeys(self.refused)]
        self.missing = [*dict.fromkeys(self.missing)]
        if self.refused:
            listed = ", ".join(self.refused)
            raise UntrustedDataError(
                f"{self.ref} can't be loaded yet: it names what is neither torch's own, nor an "
                f"nn.Module class that this process has imported, nor trusted: {listed}. If you "
                f"trust it, import the module that defines it (for an nn.Module class), or pass "
                f"trust={self.refused!r}. If it has moved, pass class_map={{{self.refused[0]!r}: "
                f"NewClass}}. To load the weights only, pass into= a module you built, or "
                f"format='state_dict'.",
                self.refused,
            )
        if self.missing:
            raise MaterializationError(
                f"{self.ref} needs {', '.join(self.missing)}, which no longer exists under that "
                f"name. If it has moved, say where to: class_map={{{self.missing[0]!r}: "
                f"NewClass}}. Without it, load the weights: into a module you built with into=, or "
                f"as a dict with format='state_dict'."
            )

    def _resolve(self, name: Name, use: Use) -> None:
        here = self._importable(name)
        mapped = self.class_map.get(name.dotted) or self.class_map.get(here.dotted)
        if mapped is not None:
            self.found[name, use] = mapped
            return
        if any(self.trust.allows(known) for known in self._known_as(name, here)):
            item = _imported(name, self.main) or _import(here)
            self.found[name, use] = item
            if item is None:
                self.missing.append(here.dotted)
            return
        item = _imported(name, self.main)
        if item is None:
            imported = here.module == "__main__" or _module(here.module, None) is not None
            (self.missing if imported else self.refused).append(here.dotted)
        elif needs_no_trust(item, use):
            self.found[name, use] = item
        else:
            self.refused.append(here.dotted)

    def _importable(self, name: Name) -> Name:
        """Return the name under which a class of the script that saved it could be imported."""
        if name.module != "__main__" or self.main is None or self.main == main_module_name():
            return name
        if self.main in sys.modules or _imported(name) is None:
            return Name(self.main, name.qualname)
        warn(
            f"{self.ref} was saved by the script {self.main!r}; its class {name.qualname} is taken "
            f"from the script that runs now, which has one of that name. Import {self.main} to use "
            f"the original.",
            MaterializationWarning,
        )
        return name

    def _known_as(self, name: Name, here: Name) -> set[str]:
        """Return the dotted names that mean an item in this process."""
        if name.module == "__main__" and self.main is not None and self.main == main_module_name():
            return {name.dotted, f"{self.main}.{name.qualname}"}
        return {here.dotted}


def needs_no_trust(item: Any, use: Use) -> bool:
    """Tell whether any file may use a class or function in a way."""
    if use is Use.CALL:
        return False
    if is_safe(item):
        return True
    if use is not Use.CLASS or not isinstance(item, type):
        return False
    if is_built_from_parts(item) or item in _OTHER_MODULES:
        return True
    if item.__module__.partition(".")[0] in _TORCHS_PACKAGES or issubclass(item, _STREAMS):
        return False  # torch has classes that unpickle, compile or download when they are used
    return issubclass(item, FRAMEWORK) and not runs_code_on_load(item)


def _import(name: Name) -> Any:
    try:
        importlib.import_module(name.module)
    except ImportError:
        return None
    return _imported(name)


def _imported(name: Name, main: str | None = None) -> Any:
    """Return the class or function of a name in the modules imported so far; runs no code.

    What a module merely imports from elsewhere isn't found: the item has to be defined there.
    """
    module = _module(name.module, main)
    item: Any = module
    for part in name.qualname.split("."):
        if item is None or (item is not module and not isinstance(item, type)):
            return None
        item = vars(item).get(part)
    if path_of(item) == str(name):
        return item
    if not isinstance(item, (type, types.FunctionType, types.BuiltinFunctionType)):
        return None
    own = item.__module__, item.__qualname__
    return item if own == (getattr(module, "__name__", None), name.qualname) else None


def _module(name: str, main: str | None) -> types.ModuleType | None:
    """Find a module, knowing that one file is ``__main__`` as a script and has a name imported.

    Args:
        name: the module's name when it was saved.
        main: the importable name of what was ``__main__`` when it was saved.
    """
    if name == "__main__" and main is not None and main != main_module_name():
        found = sys.modules.get(main)
        if found is not None:
            return found
    found = sys.modules.get(name)
    if found is None and name == main_module_name():
        return sys.modules.get("__main__")
    return found
