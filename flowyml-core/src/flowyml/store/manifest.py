"""The manifest: everything about one version of one asset except its bytes, as one JSON file.

It is written last, so that its appearance is the commit. It carries a digest of itself, and what
is read is checked field by field: a manifest may come from a stranger.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, TypeVar, get_args

import attrs

from flowyml import encoding, names
from flowyml.assets import Asset, Parent, Relation
from flowyml.digests import digest_of_bytes, is_digest
from flowyml.errors import IntegrityError, StoreError
from flowyml.history import TrainingHistory
from flowyml.interfaces import SaveResult
from flowyml.models import Model
from flowyml.properties import Metadata
from flowyml.stored import Restore, Stored, StoredFile

SCHEMA = 1
"""Version of the manifest's layout. A reader refuses those it doesn't know."""

_KINDS: dict[str, type[Asset]] = {"asset": Asset, "model": Model}
_Value = TypeVar("_Value")


@attrs.frozen
class Manifest:
    """One version of one asset; `details` is what its materializer noted for loading."""

    asset: Asset
    details: dict[str, Any] = attrs.field(factory=dict)

    @property
    def stored(self) -> Stored:
        """What the store knows of the asset, which a manifest always has."""
        assert self.asset.stored is not None
        return self.asset.stored

    @property
    def result(self) -> SaveResult:
        """What the materializer returned when it saved."""
        stored = self.stored
        return SaveResult(
            stored.restore,
            stored.restore_reason,
            stored.required_trust,
            self.details,
        )


def content_digest(
    materializer: str, format: str, files: tuple[StoredFile, ...], content: str | None
) -> str:
    """Return the digest of an asset's content, and of how it was written.

    Args:
        materializer: its key.
        format: its format.
        files: the files, which are the content unless the materializer says what it is.
        content: the materializer's own digest of the content, or None.
    """
    listed = [[file.path, file.digest] for file in sorted(files, key=lambda file: file.path)]
    return digest_of_bytes(encoding.dumps([materializer, format, content or listed]))


def write(manifest: Manifest) -> bytes:
    """Return the manifest as JSON text."""
    asset, stored = manifest.asset, manifest.stored
    model = asset if isinstance(asset, Model) else None
    data = encoding.encode(
        {
            "schema": SCHEMA,
            "kind": asset.kind,
            "name": asset.name,
            "version": asset.version,
            "created_at": stored.created_at.isoformat(),
            "type": stored.type,
            "digest": stored.digest,
            "content": stored.content,
            "adapter": stored.adapter,
            "materializer": stored.materializer,
            "format": stored.format,
            "restore": stored.restore,
            "restore_reason": stored.restore_reason,
            "required_trust": list(stored.required_trust),
            "files": [attrs.asdict(file) for file in stored.files],
            "details": manifest.details,
            "properties": asset.metadata.properties,
            "framework": model and model.framework,
            "training_history": None
            if not model or model.training_history is None
            else dict(model.training_history),
            "tags": asset.tags,
            "parents": [attrs.asdict(parent) for parent in asset.parents],
            "run": stored.run,
            "step": stored.step,
        }
    )
    body = encoding.render(data)
    return _sealed(body, digest_of_bytes(body))


def _sealed(body: bytes, digest: str) -> bytes:
    """Return the text with the digest of itself as its last member."""
    return body.removesuffix(_END) + f',\n "manifest_digest": "{digest}"'.encode() + _END


_END = b"\n}\n"


def ref_in(text: bytes) -> str:
    """Return the ref that a manifest says it is of, unchecked: `read` checks it.

    Raises:
        IntegrityError: when there is none.
    """
    try:
        data = encoding.parse(text)
    except encoding.EncodingError as error:
        raise IntegrityError(f"The manifest is damaged: {error}.") from error
    if not isinstance(data, dict):
        raise IntegrityError("The manifest is damaged: it isn't a JSON object.")
    return f"{data.get('name')}@{data.get('version')}"


def read(text: bytes, ref: str) -> Manifest:
    """Parse and check a manifest.

    Raises:
        StoreError: when a newer flowyml wrote it.
        IntegrityError: when it isn't what was written for that ref.
    """
    try:
        data = encoding.parse(text)
        if not isinstance(data, dict):
            raise ValueError("it isn't a JSON object")
        _check_schema(data.get("schema"), ref)
        claimed = str(data.pop("manifest_digest", None))
        body = text.removesuffix(_sealed(b"", claimed)) + _END
        if claimed != digest_of_bytes(body) or text != _sealed(body, claimed):
            raise ValueError("its digest doesn't match its content")
        decoded = encoding.decode(data)
        encoding.encode(decoded)  # what couldn't be written again is refused
        manifest = _manifest(decoded)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise IntegrityError(f"The manifest of {ref} is damaged: {error}.") from error
    if manifest.asset.ref != ref:
        raise IntegrityError(f"The manifest of {ref} is that of {manifest.asset.ref}.")
    return manifest


def _check_schema(schema: object, ref: str) -> None:
    if schema == SCHEMA and type(schema) is int:
        return
    if type(schema) is int and schema > SCHEMA:
        raise StoreError(
            f"{ref} was saved in layout {schema}; this flowyml reads layout {SCHEMA}. "
            f"Upgrade flowyml-core."
        )
    raise ValueError(f"its schema is {schema!r}")


def _manifest(data: dict[str, Any]) -> Manifest:
    kind = _KINDS.get(_take(data, "kind", str))
    if kind is None:
        raise ValueError("its kind is unknown")
    stored = _stored(data)
    model: dict[str, Any] = {}
    if kind is Model:
        history = _optional(data, "training_history", dict)
        model = {
            "framework": _optional(data, "framework", str),
            "training_history": None if history is None else TrainingHistory.of(history),
        }
    asset = kind(
        name=names.check_name(data.get("name")),
        version=names.check_version(data.get("version")),
        metadata=Metadata(_take(data, "properties", dict)),
        tags={_text(key): _text(text) for key, text in _take(data, "tags", dict).items()},
        stored=stored,
        made_from=tuple(
            (parent, parent.relation) for parent in map(_parent, _take(data, "parents", list))
        ),
        **model,
    )
    return Manifest(asset, _take(data, "details", dict))


def _stored(data: dict[str, Any]) -> Stored:
    stored = Stored(
        digest=_take(data, "digest", str),
        created_at=datetime.fromisoformat(_take(data, "created_at", str)).astimezone(UTC),
        type=_take(data, "type", str),
        adapter=_take(data, "adapter", str),
        materializer=_take(data, "materializer", str),
        format=_take(data, "format", str),
        files=tuple(_file(item) for item in _take(data, "files", list)),
        restore=_one_of(data, "restore", Restore),
        restore_reason=_optional(data, "restore_reason", str),
        required_trust=tuple(_text(item) for item in _take(data, "required_trust", list)),
        content=_optional(data, "content", str),
        run=_optional(data, "run", str),
        step=_optional(data, "step", str),
    )
    if len({file.path for file in stored.files}) != len(stored.files):
        raise ValueError("two files have one path")
    if stored.content is not None and not is_digest(stored.content):
        raise ValueError("its content has an unfit digest")
    if stored.digest != content_digest(
        stored.materializer, stored.format, stored.files, stored.content
    ):
        raise ValueError("its digest isn't that of its files")
    return stored


def _file(item: Any) -> StoredFile:
    if not isinstance(item, dict):
        raise ValueError("a file isn't an object")
    path = _take(item, "path", str)
    if not re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", path) or ".." in path:
        raise ValueError(f"a file has the path {path!r}")
    size = _take(item, "size", int)
    if (
        not is_digest(item.get("digest"))
        or not 0 <= size < 2**63
        or PurePosixPath(path).is_absolute()
    ):
        raise ValueError(f"the file {path!r} has an unfit digest or size")
    return StoredFile(path, item["digest"], size)


def _parent(item: Any) -> Parent:
    if not isinstance(item, dict):
        raise ValueError("a parent isn't an object")
    return Parent(
        _take(item, "ref", str),
        _optional(item, "digest", str),
        _one_of(item, "relation", Relation),
    )


def _take(data: dict[str, Any], key: str, kind: type[_Value]) -> _Value:
    value = data.get(key)
    if type(value) is not kind:
        raise ValueError(f"{key!r} isn't a {kind.__name__}")
    return value


def _optional(data: dict[str, Any], key: str, kind: type[_Value]) -> _Value | None:
    return None if data.get(key) is None else _take(data, key, kind)


def _one_of(data: dict[str, Any], key: str, choice: Any) -> Any:
    """Take a value that has to be one of a Literal's."""
    value = data.get(key)
    if value not in get_args(choice):
        raise ValueError(f"{key!r} is {value!r}")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("a string is needed where something else stands")
    return value
