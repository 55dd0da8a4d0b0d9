"""Registration: the adapter is found, loads cleanly, and costs those who don't use it nothing."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable

from flowyml import Model, adapters
from flowyml.interfaces import API_VERSION, Materializer
from flowyml.registry import AdapterInfo
from flowyml.testing.checks import check, contents, in_words
from flowyml.testing.processes import in_new_process
from flowyml.testing.subject import (
    Bare,
    ConformanceError,
    Subject,
    load_adapter,
    modules_of,
    plugin_of,
)
from flowyml.testing.surroundings import printed

__tracebackhide__ = True

_FORMAT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ARGUMENTS = frozenset({"into", "device", "class_map"})


@check
def check_the_adapter_is_registered(subject: Subject) -> None:
    """The adapter is discovered and loads, and what it brings is well-formed."""
    found = contents(subject)
    info = _info(subject)
    if info.error is not None:
        raise ConformanceError(
            f"The adapter {info} can't be used: {in_words(info.error)}. Mend the plugin "
            f"{info.plugin}; `python -m flowyml adapters --load --verbose` shows the traceback."
        ) from info.error
    if info.notes:
        raise ConformanceError(f"The adapter {info} loads with a warning: {'; '.join(info.notes)}.")
    if subject.framework not in [item.framework for item in found.extractors]:
        raise ConformanceError(
            f"The adapter {info} brings no extractor of the framework {subject.framework!r}. "
            f"Return one from flowyml_register_extractors(), with "
            f"framework = {subject.framework!r}: the same as the entry point's name."
        )
    if not found.materializers:
        raise ConformanceError(
            f"The adapter {info} brings no materializer, so its models can't be saved. Return one "
            f"from flowyml_register_materializers()."
        )
    for materializer in found.materializers:
        _check_materializer(subject, materializer)
    _check_version(subject.plugin or info.plugin)
    constructor = f"from_{subject.framework}"
    if constructor not in dir(Model):
        raise ConformanceError(
            f"Model.{constructor} isn't listed by dir(Model), so no editor completes it."
        )


@check
def check_importing_is_free_of_the_framework(subject: Subject) -> None:
    """Neither importing flowyml nor loading the adapter imports the framework or prints."""
    modules = modules_of(subject) or _modules_of_class(subject, type(subject.make_model()))
    child = Bare(subject.framework, None, modules)
    imported, text = in_new_process(child, _load_cold, subject.plugin, with_subject=False)
    if imported:
        raise ConformanceError(
            f"Loading the adapter {subject.framework!r} imports {', '.join(imported)}, for which "
            f"everybody waits who has it installed. Import the framework inside the methods that "
            f"need it, and look for its types with sys.modules.get() in detect()."
        )
    if text.strip():
        raise ConformanceError(
            f"Loading the adapter {subject.framework!r} prints {text.strip()!r}. Take the "
            f"print away, or use the logging module."
        )


def _modules_of_class(subject: Subject, cls: type) -> tuple[str, ...]:
    """Return the top-level modules that define a class, without Python's and the plugin's own."""
    own = (subject.plugin or _info(subject).plugin).partition(":")[0]
    modules = _top_levels(each.__module__ for each in type.mro(cls))
    return tuple(sorted(modules - sys.stdlib_module_names - _top_levels([own])))


def _top_levels(modules: Iterable[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def _info(subject: Subject) -> AdapterInfo:
    info = next((i for i in adapters.list() if i.name == subject.framework), None)
    if info is None:
        names = ", ".join(i.name for i in adapters.list())
        raise ConformanceError(
            f"No adapter {subject.framework!r} is installed; there are: {names}. Name its plugin "
            f'in pyproject.toml under [project.entry-points."{adapters.GROUP}"], as in '
            f'{subject.framework} = "package.plugin", and install the distribution again; or '
            f"set `plugin` in {type(subject).__name__}."
        )
    if info.state == "disabled":
        raise ConformanceError(
            f"The adapter {info} is switched off by FLOWYML_DISABLE_ADAPTERS. Unset it."
        )
    return info


def _check_materializer(subject: Subject, materializer: Materializer) -> None:
    key = materializer.key
    if key.partition(".")[0] != subject.framework:
        raise ConformanceError(
            f"The materializer {key!r} has to have a key that starts with "
            f"'{subject.framework}.': by its first part the adapter is found when a stored "
            f"object is loaded."
        )
    formats, types = [*materializer.formats], [*materializer.types]
    unfit = [text for text in formats if not _FORMAT.fullmatch(text)]
    if unfit:
        raise ConformanceError(
            f"The materializer {key!r} has a format {unfit[0]!r}. Use letters, digits and '_.-'."
        )
    unknown = set(materializer.conversions).difference(formats)
    if unknown:
        raise ConformanceError(
            f"The materializer {key!r} has conversions of {sorted(unknown)[0]!r}, which isn't one "
            f"of its formats: {', '.join(map(repr, formats))}."
        )
    if not types or not all(map(str.strip, types)):
        raise ConformanceError(
            f"The materializer {key!r} has to name the `types` that it handles, such as "
            f"('package.Model',): error messages list them."
        )
    wrong = set(materializer.accepts) - _ARGUMENTS
    if wrong:
        raise ConformanceError(
            f"The materializer {key!r} accepts {sorted(wrong)[0]!r}, which is no argument of "
            f"Store.load; there are {', '.join(map(repr, sorted(_ARGUMENTS)))}."
        )


def _check_version(plugin: str) -> None:
    if not hasattr(plugin_of(plugin), "api_version"):
        raise ConformanceError(
            f"The plugin {plugin} doesn't say which version of flowyml's interfaces it is "
            f"written for. Put api_version = {API_VERSION} into it."
        )


def _load_cold(subject: Bare, plugin: str | None) -> tuple[list[str], str]:
    """Load the adapter, and return which of the framework's modules that imported or printed."""
    with printed(1, 2) as lines:
        importlib.import_module("flowyml")
        load_adapter(Bare(subject.framework, plugin, subject.modules))
        adapters._registry.load(subject.framework)
    return sorted({*subject.modules} & {*sys.modules}), lines[0]
