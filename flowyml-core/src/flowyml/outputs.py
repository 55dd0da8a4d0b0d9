"""What a step returned: which parts of it are stored, under which names, and how it goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flowyml import adapters, groups, names
from flowyml.assets import Asset
from flowyml.errors import FlowymlError, MaterializationWarning, told, warn
from flowyml.inputs import Inputs
from flowyml.models import is_model
from flowyml.properties import type_name
from flowyml.records import NotStored, Output, StepRecord
from flowyml.store import Store


def parts_of(result: object) -> list[tuple[str, Any]]:
    """Return what to store, by key: the whole result, or its parts when no materializer has it."""
    try:
        return list(_parts(result))
    except KeyboardInterrupt:
        raise
    except BaseException:  # a container's own methods may raise, and materializers may quarrel
        return [("", result)]


def _parts(result: object) -> Iterator[tuple[str, Any]]:
    if result is None:
        return
    if isinstance(result, Asset) or (
        not _holds_models(result) and adapters.materializer_of(result) is not None
    ):
        yield "", result
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        yield from zip(result._fields, result, strict=True)
    elif isinstance(result, (list, tuple)):
        yield from ((str(index), item) for index, item in enumerate(result))
    elif isinstance(result, Mapping):
        yield from ((str(key), item) for key, item in result.items())
    else:
        yield "", result


def _holds_models(result: object) -> bool:
    """Tell whether a container holds models: each becomes an asset with a description."""
    if isinstance(result, Mapping):
        result = [*result.values()]
    return isinstance(result, (list, tuple)) and any(
        isinstance(item, Asset) or adapters.extractor_or_none(item) is not None for item in result
    )


def store_outputs(
    parts: Iterable[tuple[str, Any]],
    record: StepRecord,
    inputs: Inputs,
    store: Store,
    run: str,
    preferred: tuple[str, ...],
) -> None:
    """Store parts of a result, noting in the record what is stored and what isn't.

    Nothing may take the result from the user now, so what fails is told and noted. Of several
    processes, rank 0 stores what isn't spread over them; what is, all of them store together.
    """
    group = groups.joined.get()
    elsewhere = group is not None and group.rank > 0
    for key, value in parts:
        if elsewhere and not is_spread(value):
            continue
        try:
            name = value.name if isinstance(value, Asset) else None
            asset = store.save_for_run(
                value,
                name or names.from_text(f"{record.name}.{key}" if key else record.name),
                preferred=preferred,
                run=run,
                step=record.name,
                inputs=inputs.parents(is_model(value)),
            )
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            record.not_stored.append(NotStored(key, type_name(value), told(error)))
            _warn_not_stored(record.name, key, value, error)
        else:
            assert asset.stored is not None
            stored = asset.stored
            record.outputs.append(Output(key, str(asset.ref), stored.digest, stored.type))


def is_spread(value: object) -> bool:
    """Tell whether several processes hold parts of a value, or of an asset's data."""
    data = value.data if isinstance(value, Asset) else value
    try:
        materializer = adapters.materializer_of(data)
        return materializer is not None and materializer.is_spread(data)
    except KeyboardInterrupt:
        raise
    except BaseException:  # then nothing can be stored of it, either
        return False


def _warn_not_stored(step: str, key: str, value: object, error: BaseException) -> None:
    which = f"The output {key!r}" if key else "The output"
    reason = str(error) if isinstance(error, FlowymlError) else told(error)
    warn(
        f"{which} of the step {step!r}, a {type_name(value)}, was not stored: {reason}",
        MaterializationWarning,
    )
