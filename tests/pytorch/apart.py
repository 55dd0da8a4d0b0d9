"""Takes any object apart and puts it together again, the way the store does it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from flowyml.interfaces import LoadOptions, Saved, SaveOptions
from flowyml.trust import Trust
from flowyml_pytorch.storing import files, structure


def round_trip(obj: Any) -> Any:
    """Write an object's files, and return what is read back from them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = files.write(files.Plan(structure.encode(root=obj)), folder, SaveOptions("torch"))
        paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.*")}
        saved = Saved("it@v1", "torch", paths, result)
        options = LoadOptions(trust=Trust.of(result.required_trust))
        return files.read(saved, options, "root")[0]
