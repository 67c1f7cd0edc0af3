"""geoelle: how hard a place is for an Earth-observation foundation model, and whether that changed.

The verbs of the command line are the functions of the same name here. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

__version__ = _version("geoelle")

_HOME = {
    "GeoelleError": "geoelle.errors",
    "calibrate": "geoelle.calibration",
    "delta": "geoelle.change",
    "demo": "geoelle.workflow",
    "difficulty": "geoelle.mapping",
    "embed": "geoelle.embedding",
    "inspect": "geoelle.inspecting",
    "list_encoders": "geoelle.encoders",
    "load_config": "geoelle.config",
    "load_encoder": "geoelle.encoders",
    "map": "geoelle.webmap",
    "open_store": "geoelle.store",
    "read_aoi": "geoelle.aoi",
    "run": "geoelle.workflow",
    "search": "geoelle.searching",
}

__all__ = (
    "GeoelleError",
    "__version__",
    "calibrate",
    "delta",
    "demo",
    "difficulty",
    "embed",
    "inspect",
    "list_encoders",
    "load_config",
    "load_encoder",
    "map",
    "open_store",
    "read_aoi",
    "run",
    "search",
)

if TYPE_CHECKING:
    from geoelle.aoi import read_aoi
    from geoelle.calibration import calibrate
    from geoelle.change import delta
    from geoelle.config import load_config
    from geoelle.embedding import embed
    from geoelle.encoders import list_encoders, load_encoder
    from geoelle.errors import GeoelleError
    from geoelle.inspecting import inspect
    from geoelle.mapping import difficulty
    from geoelle.searching import search
    from geoelle.store import open_store
    from geoelle.webmap import map
    from geoelle.workflow import demo, run


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"geoelle has no attribute {name!r}. It has {', '.join(sorted(_HOME))}.")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
