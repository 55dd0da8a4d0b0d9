"""Values on their way from one process to another, by the store's materializers alone.

A parcel is a form, which JSON holds, and objects in a store. Plain values are in the form itself;
objects that materializers handle are saved, all of one parcel together where that is possible, so
that what they have in common stays so. Who packs a parcel has these objects in its memory, with
their classes, so who unpacks it trusts what they need.
"""

from __future__ import annotations

import enum
import importlib
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from typing import Any

import attrs

from flowyml import adapters, encoding, rebuilding
from flowyml.arguments import holds_secrets, looks_secret
from flowyml.assets import Asset
from flowyml.errors import FlowymlError, quiet, told
from flowyml.outputs import is_spread
from flowyml.properties import type_name
from flowyml.store import Store

_DEEPEST = 100
_HEAP_TYPE = 1 << 9
"""A flag of classes that aren't built into Python or an extension."""
_WORDS: Mapping[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}


class NotPackedError(FlowymlError):
    """A value can't travel.

    Attributes:
        name: of the value that was to be packed.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@attrs.frozen
class Parcel:
    """Values by name, ready to travel.

    Attributes:
        forms: how each is made; see `_Packer`.
        objects: where each object is: ref, and the member of the dict that is stored there.
        trust: dotted names that loading the objects needs.
        private: texts under names that look secret, which the forms refer to by number. They
            aren't part of `to_data`: nothing secret is written down.
    """

    forms: dict[str, Any]
    objects: list[list[str | None]]
    trust: list[str]
    private: list[Any]

    def to_data(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {"forms": self.forms, "objects": self.objects, "trust": self.trust}

    def named(self) -> set[str]:
        """Return the dotted names of classes and functions that have to be there to unpack it."""
        return {*self.trust, *_named_in(self.forms)}


def pack(
    values: Mapping[str, Any], store: Store, known: Callable[[Any], str | None] = lambda _: None
) -> Parcel:
    """Pack values.

    Args:
        values: by name.
        store: takes the objects in them.
        known: returns the absolute path of a store and the ref of what holds an object there
            already, as ``"path|ref"``; None for any other object.

    Raises:
        NotPackedError: naming the value that can't travel, and why.
    """
    packer = _Packer(known)
    forms = {}
    for name, value in values.items():
        packer.name = name
        forms[name] = packer.form(value, secret=looks_secret(name))
    objects, trust = _saved(packer.leaves, store)
    return Parcel(forms, objects, sorted(trust), packer.private)


def _named_in(form: Any) -> Iterator[str]:
    if isinstance(form, dict):
        form = list(form.values())
    if not isinstance(form, list):
        return
    if len(form) > 2 and form[0] in ("name", "enum", "namedtuple", "object"):
        yield f"{form[1]}.{form[2]}"
    for item in form if not form or form[0] != "value" else ():
        yield from _named_in(item)


def unpack(
    data: Mapping[str, Any],
    store: Store,
    only: Iterable[str] | None = None,
    private: Sequence[Any] = (),
) -> dict[str, Any]:
    """Return the values of a parcel, by name.

    Args:
        data: `Parcel.to_data`.
        store: the one that its objects were saved in.
        only: names of those that are wanted; None for all.
        private: `Parcel.private`.
    """
    unpacker = _Unpacker(data, store, private)
    names = data["forms"] if only is None else only
    return {name: unpacker.value(data["forms"][name]) for name in names}


@attrs.frozen(eq=False)
class _Leaf:
    """An object of a parcel, the value that it is part of, and where it is stored already."""

    obj: Any
    name: str
    known: str | None


class _Packer:
    def __init__(self, known: Callable[[Any], str | None]) -> None:
        self.name = ""
        self.leaves: list[_Leaf] = []
        self.private: list[Any] = []
        self._known = known
        self._numbers: dict[int, int] = {}
        self._above: list[int] = []

    def form(self, value: Any, *, secret: bool = False) -> Any:
        """Return the form of a value: a scalar, or a list that begins with a word."""
        kind = type(value)
        if secret and kind in (str, int, float):
            self.private.append(value)
            return ["private", len(self.private) - 1]
        if value is None or kind in (bool, int, str):
            return value if encoding.is_encodable(value) else self._refuse(value, "it is too large")
        if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)):
            return self._named(value)
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, enum.Enum):
            return ["enum", *_place(kind), value.name]
        if isinstance(value, os.PathLike) and kind.__module__.partition(".")[0] == "pathlib":
            return ["path", os.fspath(value)]
        if kind in (datetime, date, time):
            return [kind.__name__, value.isoformat()]
        if isinstance(value, Asset):
            return self._asset(value)
        if kind is bytes:
            return ["bytes", value.hex()]
        plain = encoding.is_encodable(value)
        if plain and not _holds_secrets(value):
            return ["value", encoding.encode(value)]
        return self._container(value, plain)

    def _container(self, value: Any, plain: bool) -> Any:
        if id(value) in self._above or len(self._above) > _DEEPEST:
            return self._refuse(value, "it contains itself or is nested too deeply")
        if not plain and self._has_materializer(value) and not self._comes_apart(value):
            return self._leaf(value)
        self._above.append(id(value))
        try:
            return self._parts(value)
        finally:
            self._above.pop()

    def _comes_apart(self, value: Any) -> bool:
        """Tell whether a container's items are better sent one by one.

        They are where one of them is stored already, and the others have nothing in common with
        it; or where it is spread over processes, so that the whole can't be saved here.
        """
        if type(value) not in (*_WORDS, dict):
            return False
        items = list(value.values() if type(value) is dict else value)
        others = [item for item in items if self._known(item) is None]
        if len(others) < len(items) and is_spread(value):
            return True
        return len(items) - len(others) == 1 and all(map(encoding.is_encodable, others))

    def _parts(self, value: Any) -> Any:
        kind = type(value)
        if kind in _WORDS:
            return [_WORDS[kind], [self.form(item) for item in value]]
        if kind is dict:
            return ["dict", [self._pair(key, item) for key, item in value.items()]]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return ["namedtuple", *_place(kind), [self.form(item) for item in value]]
        fields = _fields_of(value)
        if fields is not None:
            return ["object", *_place(kind), [self._pair(key, item) for key, item in fields]]
        return self._refuse(value, "no materializer handles it")

    def _pair(self, key: Any, item: Any) -> list[Any]:
        secret = isinstance(key, str) and looks_secret(key)
        return [self.form(key), self.form(item, secret=secret)]

    def _has_materializer(self, value: Any) -> bool:
        try:
            return adapters.materializer_of(value) is not None
        except FlowymlError as error:
            raise self._refusal(value, str(error)) from error

    def _leaf(self, value: Any, known: str | None = None) -> Any:
        number = self._numbers.get(id(value))
        if number is None:
            if known is None and self._known(value) is None and is_spread(value):
                self._refuse(value, "other processes hold parts of it, and it isn't stored")
            number = self._numbers[id(value)] = len(self.leaves)
            self.leaves.append(_Leaf(value, self.name, known or self._known(value)))
        return ["stored", number]

    def _asset(self, asset: Asset) -> Any:
        known = self._known(asset)
        number = self._leaf(asset, known)[1]
        return ["asset", number, None if known is not None else asset.name]

    def _named(self, value: Any) -> Any:
        module, name = _place(value)
        if "<" in name:
            return self._refuse(value, "it is defined inside of a function, or has no name")
        return ["name", module, name]

    def _refuse(self, value: Any, reason: str) -> Any:
        raise self._refusal(value, reason)

    def _refusal(self, value: Any, reason: str) -> NotPackedError:
        return NotPackedError(self.name, f"a {type_name(value)} can't be sent: {reason}")


def _holds_secrets(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict)) and holds_secrets(value)


def _place(kind: Any) -> tuple[str, str]:
    return str(kind.__module__), str(kind.__qualname__)


def _fields_of(value: Any) -> list[tuple[str, Any]] | None:
    """Return what an instance of a plain class consists of; None where that can't be known."""
    from dataclasses import is_dataclass

    kind = type(value)
    if attrs.has(kind):
        return [(field.name, getattr(value, field.name)) for field in attrs.fields(kind)]
    hooks = ("__reduce_ex__", "__reduce__")
    simple = all(getattr(kind, name) is getattr(object, name) for name in hooks)
    own_state = "__getstate__" in vars(kind) or hasattr(kind, "__setstate__")
    plain = (is_dataclass(kind) or kind.__module__ != "builtins") and hasattr(value, "__dict__")
    if plain and simple and not own_state and _is_of_python(kind):
        return list(vars(value).items())
    return None


def _is_of_python(kind: type) -> bool:
    """Tell whether attributes are all that instances of a class hold: it is written in Python."""
    return all(
        base is object or (base.__flags__ & _HEAP_TYPE and not getattr(base, "__slots__", ()))
        for base in kind.__mro__
    )


def _saved(leaves: list[_Leaf], store: Store) -> tuple[list[list[str | None]], set[str]]:
    """Save objects; return where each is, and what loading them needs."""
    objects: list[list[str | None]] = [[leaf.known, None] for leaf in leaves]
    todo = {
        str(number): leaf.obj
        for number, leaf in enumerate(leaves)
        if leaf.known is None and not isinstance(leaf.obj, Asset)
    }
    trust: set[str] = set()
    if len(todo) > 1 and adapters.materializer_of(todo) is not None:
        for ref in _try_together(todo, store, trust):
            for member in todo:
                objects[int(member)] = [ref, member]
    for number, leaf in enumerate(leaves):
        if objects[number][0] is None:
            objects[number][0] = _save(leaf, store, trust)
        elif leaf.known is not None:
            path, _, ref = leaf.known.rpartition("|")
            trust.update(_needed(Store(path).get(ref)))
    return objects, trust


def _try_together(todo: dict[str, Any], store: Store, trust: set[str]) -> Iterator[str]:
    """Save several objects as one; none is saved when one of them can't be."""
    try:
        with quiet():
            saved = store.save(todo, "together")
    except FlowymlError:
        return
    if saved.stored is not None and saved.stored.restore == "exact":
        trust.update(_needed(saved))
        yield str(saved.ref)


def _save(leaf: _Leaf, store: Store, trust: set[str]) -> str:
    what = f"a {type_name(leaf.obj)} can't be sent"
    obj = leaf.obj
    if isinstance(obj, Asset):  # saving changes an asset
        obj = attrs.evolve(obj, version=None, stored=None)
    try:
        with quiet():
            saved = store.save(obj, "object")
    except FlowymlError as error:
        raise NotPackedError(leaf.name, f"{what}: {error}") from error
    except Exception as error:  # of the object's own code
        raise NotPackedError(leaf.name, f"{what}: {told(error)}") from error
    assert saved.stored is not None
    if saved.stored.restore != "exact":
        raise NotPackedError(leaf.name, f"{what} exactly: {saved.stored.restore_reason}")
    trust.update(_needed(saved))
    return str(saved.ref)


def _needed(asset: Asset) -> tuple[str, ...]:
    return () if asset.stored is None else asset.stored.required_trust


class _Unpacker(rebuilding.Rebuilder):
    """Makes values of their forms."""

    def __init__(self, data: Mapping[str, Any], store: Store, private: Sequence[Any]) -> None:
        super().__init__(lambda name: name, {})
        self._private = private
        self._objects = data["objects"]
        self._trust = tuple(data["trust"])
        self._stores = store
        self._loaded: dict[str, Any] = {}

    def forms(self) -> Mapping[str, Callable[..., Any]]:
        """Return how each word's rest is made a value."""
        return {
            **super().forms(),
            "value": encoding.decode,
            "bytes": bytes.fromhex,
            "module": _module,
            "dict": lambda pairs: {self.value(key): self.value(item) for key, item in pairs},
            "stored": self._stored,
            "private": lambda number: self._private[number],
            "asset": self._asset,
        }

    def named(self, module: str, name: str) -> Any:
        """Return what whoever packed it had under a name, importing its module."""
        if module not in sys.modules:
            importlib.import_module(module)
        return super().named(module, name)

    def _stored(self, number: int) -> Any:
        where, member = self._objects[number]
        if where not in self._loaded:
            store, ref = self._place(where)
            with quiet():
                self._loaded[where] = store.load(ref, trust=self._trust)
        found = self._loaded[where]
        return found if member is None else found[member]

    def _asset(self, number: int, name: str | None) -> Asset:
        store, ref = self._place(self._objects[number][0])
        asset = store.get(ref)
        asset.data = self._stored(number)
        if name is None:
            return asset
        return attrs.evolve(asset, name=name, version=None, stored=None)

    def _place(self, where: str) -> tuple[Store, str]:
        path, _, ref = where.rpartition("|")
        return (Store(path) if path else self._stores), ref


def _module(name: str) -> Any:
    return importlib.import_module(name)
