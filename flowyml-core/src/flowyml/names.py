"""Names, versions and refs: what may stand in ``name@version``, and in what order versions come.

Names become folders and versions become files, on any operating system, so both are plain ASCII.
"""

from __future__ import annotations

import re

# Compiled when they are first used, since flowyml's import is timed.
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_VERSION = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"


def check_name(name: object) -> str:
    """Return a valid asset name.

    Raises:
        TypeError: when it isn't a string.
        ValueError: when it has other characters than letters, digits, ``_``, ``-`` and ``.``,
            starts with ``-`` or ``.``, or is longer than 128.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name has to be a string; got {name!r}")
    if not is_name(name):
        raise ValueError(
            f"{name!r} can't be a name: up to 128 letters, digits, '_', '-' and '.' can, "
            f"'-' and '.' not in front. {from_text(name)!r} would do."
        )
    return name


def check_version(version: object) -> str:
    """Return a valid version.

    Raises:
        TypeError: when it isn't a string.
        ValueError: when it isn't one, such as ``"v3"`` or ``"1.0.2"``.
    """
    if not isinstance(version, str):
        raise TypeError(f"a version has to be a string such as 'v3'; got {version!r}")
    if not is_version(version):
        raise ValueError(
            f"{version!r} can't be a version: up to 64 letters, digits, '_', '-', '+' and '.' can, "
            f"a letter or digit in front."
        )
    return version


def is_name(text: str) -> bool:
    """Tell whether a file's name may be an asset's: other programs leave files of theirs."""
    return re.fullmatch(_NAME, text) is not None


def is_version(text: str) -> bool:
    """Tell whether a file's name may be a version."""
    return re.fullmatch(_VERSION, text) is not None


def parse_ref(ref: object) -> tuple[str, str | None]:
    """Split ``"name"`` or ``"name@version"``; the version is None when it isn't given.

    Raises:
        TypeError: when it isn't a string.
        ValueError: when one of the parts is unfit.
    """
    if not isinstance(ref, str):
        raise TypeError(f"a ref is a string such as 'digits' or 'digits@v3'; got {ref!r}")
    name, at, version = ref.partition("@")
    return check_name(name), check_version(version) if at else None


def from_text(text: str) -> str:
    """Return the valid name nearest to a text."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip(".-")[:128]
    return cleaned or "unnamed"


def version_order(version: str) -> tuple[tuple[bool, int | str], ...]:
    """Return a sort key: numbers within versions count as numbers, so v10 comes after v9."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((not part.isdigit(), int(part) if part.isdigit() else part) for part in parts)


def last_number(versions: list[str]) -> int:
    """Return the highest number of a version of the form ``v<number>``; 0 if there is none."""
    numbers = (int(match[1]) for version in versions if (match := re.fullmatch(r"v(\d+)", version)))
    return max(numbers, default=0)
