"""Probes on disk: a folder with `probe.safetensors` and `probe.json`. Never pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from geoelle.errors import AlreadyExistsError, NotFoundError, ProbeError
from geoelle.store.atomic import replacing

_ARRAYS, _META = "probe.safetensors", "probe.json"


def write_probe(path: str | Path, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Write a probe's two files; takes the place of a probe that is there only once both are whole.

    Raises:
        AlreadyExistsError: If something else than a probe is there.
    """
    check_probe_place(path)
    with replacing(Path(path)) as partial:
        partial.mkdir()
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in sorted(arrays.items())}, partial / _ARRAYS)
        (partial / _META).write_text(json.dumps(meta, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_probe_place(path: str | Path) -> None:
    """Refuse a place where writing a probe would lose something else.

    Raises:
        AlreadyExistsError: If a file is there, or a folder that holds more than a probe.
    """
    folder = Path(path)
    if folder.exists() and not (folder.is_dir() and {f.name for f in folder.iterdir()} <= {_ARRAYS, _META}):
        raise AlreadyExistsError(f"{folder} holds something else than a probe. Give another folder for the probe.")


def read_probe(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and metadata of a probe.

    Raises:
        NotFoundError: If there is no probe.
        ProbeError: If its files cannot be read.
    """
    folder = Path(path)
    if not (folder / _ARRAYS).is_file() or not (folder / _META).is_file():
        raise NotFoundError(f"There is no probe in {folder}. Make one with `geoelle calibrate`, or give no --probe.")
    try:
        arrays = safetensors.numpy.load_file(folder / _ARRAYS)
        meta = json.loads((folder / _META).read_text(encoding="utf-8"))
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise ProbeError(f"The probe in {folder} cannot be read ({error}). Calibrate again.") from None
    if not isinstance(meta, dict):
        raise ProbeError(f"{folder / _META} holds no JSON object. Calibrate again.")
    return arrays, meta
