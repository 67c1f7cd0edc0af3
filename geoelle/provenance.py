"""Digests: where anything came from, as a hash of what it was made of.

sha256 of canonical JSON throughout; never `hash()`, whose salt changes between processes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.datetime64 | np.str_):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    return value


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, NaN refused.

    Raises:
        ValueError: If `value` holds NaN or infinity.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)


def digest(value: Any) -> str:
    """sha256 of `value`'s canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def seed_from(*parts: object) -> int:
    """A 64-bit seed derived from content, so that the same input gives the same draw in any process and order."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def content_order(keys: Iterable[str], *, salt: str = "") -> list[int]:
    """Indices that sort `keys` by the sha256 of salt and key: a shuffle that depends on content alone."""
    hashes = [hashlib.sha256(f"{salt}\x1f{key}".encode()).digest() for key in keys]
    return sorted(range(len(hashes)), key=hashes.__getitem__)


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def software() -> dict[str, str]:
    """Versions of the packages that decide what bytes come out."""
    names = ("geoelle", "numpy", "onnxruntime", "rasterio", "odc-stac", "odc-loader", "zarr")
    return {name: version(name) for name in names}
