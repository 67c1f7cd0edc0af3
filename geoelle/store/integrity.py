"""Whether a store's files are whole: every chunk read, and what the flags promise looked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray
from obstore.exceptions import BaseError

from geoelle import schema
from geoelle.store.embeddings import JOB_DIGEST
from geoelle.store.layout import open_group
from geoelle.store.location import Location, StorePath, said
from geoelle.store.quantised import SCALE


@dataclass(frozen=True, slots=True)
class DamagedChunk:
    """A file of a store that cannot be trusted."""

    array: str
    file: str
    """Its path in the store."""
    error: str
    """What is wrong with it."""


def damaged_chunks(path: StorePath, kind: str) -> tuple[DamagedChunk, ...]:
    """Every chunk that cannot be read, and every one that is not there though the flags say that it has values.

    Reads the whole store, one chunk at a time.

    Args:
        path: One flat store.
        kind: `embeddings`, `difficulty` or `delta`.

    Raises:
        StoreError: If the store cannot be opened.
    """
    place = Location.of(path)
    root = open_group(place)
    files = set(place.files())
    found = [
        DamagedChunk(name, file, error)
        for name, array in sorted(root.arrays())
        for file, error in _unreadable(name, array, files)
    ]
    unreadable = {chunk.file for chunk in found}
    found += [chunk for chunk in _lost(root, kind, files) if chunk.file not in unreadable]
    return tuple(found)


def _unreadable(name: str, array: Any, files: set[str]) -> Iterator[tuple[str, str]]:
    for file, region in _chunks(name, array):
        if file not in files:  # holds nothing but the fill value
            continue
        try:
            _ = array[region]
        except (BaseError, OSError, ValueError, RuntimeError, zarr.errors.BaseZarrError) as error:
            yield file, said(error)


def _chunks(name: str, array: Any) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Each file that an array may have, and the part of the array that it holds."""
    edges = array.shards or array.chunks
    counts = [-(-n // edge) for n, edge in zip(array.shape, edges, strict=True)]
    for index in np.ndindex(*counts):
        region = tuple(slice(i * e, min((i + 1) * e, n)) for i, e, n in zip(index, edges, array.shape, strict=True))
        yield "/".join((name, "c", *map(str, index))), region


def _lost(root: zarr.Group, kind: str, files: set[str]) -> Iterator[DamagedChunk]:
    """Files that are not there, where the flags beside them say that there are values."""
    flag, valued, values = {
        "embeddings": ("status", (schema.DONE,), SCALE if SCALE in root else "embedding"),
        "difficulty": ("support", (schema.SUPPORT_INSIDE, schema.SUPPORT_OUTSIDE), "difficulty"),
        "delta": ("state", (), "delta"),
    }[kind]
    checked = [n for n in (values, "embedding") if n in root] if kind == "embeddings" else [values]
    flags: Any = root[flag]
    for file, region in _chunks(flag, flags):
        try:
            here: NDArray[np.uint8] = np.asarray(flags[region])
        except (BaseError, OSError, ValueError, RuntimeError, zarr.errors.BaseZarrError):
            continue  # listed already
        index = file.removeprefix(f"{flag}/c/")
        if np.isin(here, valued).any():
            for name in sorted(set(checked)):
                trailing = "/0" * (root[name].ndim - 3)  # type: ignore[union-attr]
                if (lost := f"{name}/c/{index}{trailing}") not in files:
                    yield DamagedChunk(name, lost, "the file is missing")
        elif kind == "embeddings" and f"{JOB_DIGEST}/c/{index}/0" in files and not here.any():
            yield DamagedChunk(flag, file, "the file is missing")
