"""Where the objects of this process come from: which asset they were saved as or loaded from.

An object is recognised by its content, and one that has changed since by its identity: then it
is derived from what it was. Nothing here keeps an object alive that could be collected, except
for a few small values, which Python can't refer to weakly.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import attrs

from flowyml.assets import Asset, Parent


@attrs.define(eq=False)
class Scope:
    """The step that this code runs in, for what its function saves by itself.

    Attributes:
        run: id of the run.
        step: name of the step.
        inputs: what the step was given, where that is known in the store.
        saved: refs of what was saved.
        store: the store that takes it all, in place of any other, while a run is repeated.
    """

    run: str
    step: str
    inputs: tuple[Parent, ...] = ()
    saved: list[str] = attrs.field(factory=list)
    store: Any = None


current_scope: ContextVar[Scope | None] = ContextVar("flowyml_scope", default=None)


@attrs.frozen
class Origin:
    """What is known of an object: the ref that holds its content, or else what it was before."""

    ref: str | None = None
    derived_from: str | None = None


@attrs.frozen
class _Known:
    store: Path
    ref: str
    digest: str | None


_MOST_DIGESTS = 10_000
_MOST_VALUES = 1_000
_MOST_PARTS = 1_000
_PART = "a part of what is stored"
"""Stands for the digest of what is in the store within something else: it equals none."""
_LONG = 100
_HUGE = 100_000
"""Characters."""

_lock = threading.RLock()
_refs: OrderedDict[tuple[Path, str], str] = OrderedDict()
_objects: dict[int, tuple[Any, _Known]] = {}
"""By identity: a weak reference to the object, and what it is."""
_values: OrderedDict[int, tuple[Any, _Known]] = OrderedDict()
"""The same for numbers and texts, which can't be referred to weakly; the last ones only."""


def note(obj: Any, store: Path, ref: str, digest: str | None) -> None:
    """Note that an object is what a store holds.

    Args:
        obj: the object; of an asset, its data.
        store: the store's directory.
        ref: ``"name@version"``.
        digest: the object's content digest, when it is known.
    """
    known = _Known(store, ref, digest)
    with _lock:
        if digest is not None:
            _refs[store, digest] = ref
            _refs.move_to_end((store, digest))
            if len(_refs) > _MOST_DIGESTS:
                _refs.popitem(last=False)
        if isinstance(obj, Asset):
            obj = obj.data
        if _tells_nothing(obj):
            return
        try:
            _objects[id(obj)] = weakref.ref(obj, _forgetter(id(obj))), known
        except TypeError:
            if not isinstance(obj, (int, float, complex, str, bytes)) or _is_huge(obj):
                return  # it is recognised by its content alone, rather than kept alive
            _values[id(obj)] = obj, known
            _values.move_to_end(id(obj))
            if len(_values) > _MOST_VALUES:
                _values.popitem(last=False)


def note_parts(obj: Any, store: Path, ref: str) -> None:
    """Note of the parts of a container that is stored as a whole that they come from it."""
    if type(obj) not in (list, tuple, dict) or len(obj) > _MOST_PARTS:
        return
    for part in obj.values() if isinstance(obj, dict) else obj:
        with suppress(TypeError), _lock:  # not everything can be referred to weakly
            if _known(part) is None and not _tells_nothing(part):
                known = _Known(store, ref, _PART)
                _objects[id(part)] = weakref.ref(part, _forgetter(id(part))), known


def find(obj: Any, store: Path, digest: str | None) -> Origin:
    """Return where an object with a content digest comes from."""
    asset = obj if isinstance(obj, Asset) else None
    obj = obj.data if isinstance(obj, Asset) else obj
    if asset is not None and asset.stored is not None and asset.ref is not None:
        if asset.data is None or asset.stored.digest == digest:
            return Origin(asset.ref)
        known = _known(obj)
        if known is None:
            return Origin(None, asset.ref)
    known = _known(obj)
    if known is not None and known.store != store:
        known = None
    if known is not None and known.digest in (digest, None):
        return Origin(known.ref)
    if digest is not None and _is_telling(obj):
        with _lock:
            ref = _refs.get((store, digest))
        if ref is not None:
            return Origin(ref)
    return Origin(None, None if known is None else known.ref)


def may_be_known(obj: Any) -> bool:
    """Tell whether a plain value may be recognised: as itself, or as a container of equal items."""
    with _lock:
        if not _refs:
            return False
    return _known(obj) is not None or _is_telling(obj)


def before(obj: Any, store: Path) -> str | None:
    """Return the ref of what an object was when it was last saved or loaded, if it was."""
    if obj is None or isinstance(obj, (bool, int, float, complex, str, bytes)):
        return None  # values don't change
    known = _known(obj)
    return known.ref if known is not None and known.store == store else None


def forget() -> None:
    """Forget everything, as in a new process."""
    with _lock:
        _refs.clear()
        _objects.clear()
        _values.clear()


def _known(obj: Any) -> _Known | None:
    with _lock:
        found = _objects.get(id(obj))
        if found is not None and found[0]() is obj:
            return found[1]
        kept = _values.get(id(obj))
        return kept[1] if kept is not None and kept[0] is obj else None


def _forgetter(key: int) -> Any:
    def forget_one(reference: Any) -> None:
        found = _objects.get(key)
        if found is not None and found[0] is reference:
            del _objects[key]

    return forget_one


def _tells_nothing(obj: Any) -> bool:
    """Tell whether Python has one such object for all: being it says nothing of where from."""
    if obj is None or isinstance(obj, (bool, type)):
        return True
    if type(obj) is int:
        return -6 < obj < 257
    if type(obj) in (str, bytes):
        return len(obj) < _LONG  # names and the like are shared by all that mention them
    return type(obj) in (tuple, frozenset) and len(obj) == 0


def _is_huge(obj: Any) -> bool:
    return isinstance(obj, (str, bytes)) and len(obj) > _HUGE


def _is_telling(obj: Any) -> bool:
    """Tell whether equal content means the same thing: two equal numbers mostly don't."""
    if obj is None or isinstance(obj, (bool, int, float, complex, str, bytes)):
        return False
    if getattr(obj, "shape", None) == ():  # a number of a library
        return False
    return not (isinstance(obj, (list, tuple, dict, set, frozenset)) and len(obj) == 0)
