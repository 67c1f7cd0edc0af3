"""What an item says, as one type, or None where it is of another. Nothing of an item is trusted to be there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

_LARGEST_INTEGER = 2**53  # beyond it numbers of JSON are no longer exact


def name(value: Any) -> str:
    """An id; empty where there is none."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def number(value: Any) -> float | None:
    """A finite number, also where it is written as text."""
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def integer(value: Any) -> int | None:
    """A finite number, without its decimals."""
    found = number(value)
    return None if found is None or abs(found) > _LARGEST_INTEGER else int(found)


def text(value: Any) -> str | None:
    """Text, also where it is written as a number."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None


def flag(value: Any) -> bool | None:
    """Yes or no."""
    return value if isinstance(value, bool) else None


def time(value: Any) -> np.datetime64 | None:
    """A moment, UTC, datetime64[ns]."""
    if not isinstance(value, str | datetime):
        return None
    try:
        parsed = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        if parsed.tzinfo is not None:
            parsed = parsed.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None
    # datetime64[ns] reaches from 1678 to 2262 and wraps round silently beyond; no satellite flew outside of this.
    return np.datetime64(parsed, "ns") if 1900 <= parsed.year < 2200 else None


def stamp(value: Any) -> str | None:
    """A moment as STAC writes it."""
    found = time(value)
    return None if found is None else f"{found.astype('datetime64[us]').item().isoformat()}Z"


def numbers(value: Any) -> list[float] | None:
    """A list of nothing but numbers."""
    found = [number(v) for v in value] if isinstance(value, list | tuple) else [None]
    return None if None in found else [n for n in found if n is not None]


def integers(value: Any) -> list[int] | None:
    """A list of nothing but numbers, without their decimals."""
    found = numbers(value)
    return None if found is None else [int(n) for n in found]


def texts(value: Any) -> list[str] | None:
    """The texts of a list."""
    return [v for v in value if isinstance(v, str)] if isinstance(value, list | tuple) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; empty where it is something else."""
    return value if isinstance(value, Mapping) else {}


def band_list(asset: Mapping[str, Any], *keys: str) -> list[Mapping[str, Any]]:
    """The first list of bands under one of `keys`. Not one is dropped: the place in the list is the file's band."""
    for key in keys:
        found = asset.get(key)
        if found:
            return [mapping(band) for band in found] if isinstance(found, list | tuple) else []
    return []


def said(properties: Mapping[str, Any], names: Sequence[str]) -> Iterator[Any]:
    """What is said under `names`, in their order, whatever its type."""
    return (properties[n] for n in names if properties.get(n) is not None)
