"""Where checks of files take place: a folder, quiet processes, and what was saved there again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flowyml.assets import Asset
from flowyml.errors import told
from flowyml.store import Store
from flowyml.testing.subject import Subject

__tracebackhide__ = True

NAME = "model"
"""The name of what checks save."""

QUIET: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""Environment of processes that are forked or watched: no threads, no files but the adapter's."""


@contextmanager
def work_folder() -> Iterator[Path]:
    """Make a folder for a check: its links resolved, so that paths in it can be compared."""
    with TemporaryDirectory(prefix="flowyml-testing-", ignore_cleanup_errors=True) as name:
        yield Path(name).resolve()


def load_again(subject: Subject, store: Store, asset: Asset) -> Any:
    """Load what was saved: with the trust that it needs, and into a model when it is weights."""
    into = subject.make_model() if is_weights(asset) else None
    return store.load(str(asset.ref), trust=asset.required_trust, into=into)


def is_weights(asset: Asset) -> bool:
    """Tell whether loading needs a model to fill."""
    return asset.stored is not None and asset.stored.restore == "weights"


def shortly(error: BaseException) -> str:
    """Return an error with its type, short enough for a message that lists several."""
    text = told(error)
    return text if len(text) <= 300 else f"{text[:300]} [...]"
