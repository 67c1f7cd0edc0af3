"""Probes: a folder, on disk or in a bucket, with `probe.safetensors` and `probe.json`. Never pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from geoelle.errors import AlreadyExistsError, NotFoundError, ProbeError, StoreError
from geoelle.store.atomic import replacing
from geoelle.store.location import Location, StorePath, reporting

_ARRAYS, _META = "probe.safetensors", "probe.json"


def write_probe(path: StorePath, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write a probe's two files; takes the place of a probe that is there only once both are whole.

    Raises:
        AlreadyExistsError: If something else than a probe is there.
        StoreError: If it cannot be written.
    """
    check_probe_place(path)
    place = Location.of(path)
    content = {
        _ARRAYS: safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in sorted(arrays.items())}),
        _META: (json.dumps(meta, indent=2, sort_keys=True) + "\n").encode(),
    }
    if place.is_remote:
        # No folder can be renamed there: without its metadata, which goes first and comes last, there is no probe.
        (place / _META).delete()
        for name, data in content.items():
            (place / name).write_bytes(data)
        return
    with reporting(place, "written"), replacing(place.path) as partial:
        partial.mkdir()
        for name, data in content.items():
            (partial / name).write_bytes(data)


def check_probe_place(path: StorePath) -> None:
    """Refuse a place where writing a probe would lose something else.

    Raises:
        AlreadyExistsError: If a file is there, or a folder that holds more than a probe.
    """
    folder = Location.of(path)
    if folder.is_file() or not _names(folder) <= {_ARRAYS, _META}:
        raise AlreadyExistsError(f"{folder} holds something else than a probe. Give another folder for the probe.")


def read_probe(path: StorePath) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and metadata of a probe.

    Raises:
        NotFoundError: If there is no probe.
        ProbeError: If its files cannot be read.
    """
    folder = Location.of(path)
    if not (folder / _ARRAYS).is_file() or not (folder / _META).is_file():
        raise NotFoundError(f"There is no probe in {folder}. Make one with `geoelle calibrate`, or give no --probe.")
    try:
        arrays = safetensors.numpy.load((folder / _ARRAYS).read_bytes())
        meta = json.loads((folder / _META).read_bytes())
    except (safetensors.SafetensorError, StoreError, ValueError, TypeError, KeyError, OSError) as error:
        raise ProbeError(f"The probe in {folder} cannot be read ({error}). Calibrate again.") from None
    if not isinstance(meta, dict):
        raise ProbeError(f"{folder / _META} holds no JSON object. Calibrate again.")
    return arrays, meta


def _names(folder: Location) -> set[str]:
    if folder.is_remote:
        return set(folder.files())
    return {f.name for f in folder.path.iterdir()} if folder.path.is_dir() else set()
