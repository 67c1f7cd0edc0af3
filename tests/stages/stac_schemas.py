"""JSON schemas to validate a STAC catalog without a network: the core's from pystac, the extensions' written here.

The extensions' own schemas cannot be fetched. These are written after the tables of their documentation, and are
stricter: every key with the extension's prefix must be known, and what geoelle promises must be there.
`docs/unverified.md` has the command that takes the published ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pystac.validation.local_validator import get_local_schema_cache

NUMBER, TEXT = {"type": "number"}, {"type": "string"}
_AT = "https://stac-extensions.github.io"


def _fields(prefix: str, known: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": known,
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": False,
    }


def _numbers(*lengths: int) -> dict[str, Any]:
    return {"type": "array", "items": NUMBER, "anyOf": [{"minItems": n, "maxItems": n} for n in lengths]}


_PROJECTION = _fields(
    "proj",
    {
        "proj:code": {"type": ["string", "null"], "pattern": "^[A-Z]+:[0-9A-Z]+$"},
        "proj:bbox": _numbers(4, 6),
        "proj:shape": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
        "proj:transform": _numbers(6, 9),
    },
)
_PROCESSING = _fields(
    "processing",
    {
        "processing:lineage": TEXT,
        "processing:software": {"type": "object", "minProperties": 1, "additionalProperties": TEXT},
    },
)
_RASTER = _fields(
    "raster",
    {"raster:sampling": {"enum": ["area", "point"]}, "raster:spatial_resolution": {"type": "number", "minimum": 0}},
)


def _item_or_collection(url: str, item: dict[str, Any], collection: dict[str, Any]) -> dict[str, Any]:
    listed = {"properties": {"stac_extensions": {"type": "array", "contains": {"const": url}}}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": url,
        "required": ["type", "stac_extensions"],
        **listed,
        "if": {"properties": {"type": {"const": "Feature"}}},
        "then": {"properties": item},
        "else": {"properties": collection},
    }


EXTENSIONS: dict[str, dict[str, Any]] = {
    f"{_AT}/projection/v2.0.0/schema.json": {
        "properties": {"allOf": [_PROJECTION, {"required": ["proj:code", "proj:shape", "proj:transform"]}]},
        "assets": {"additionalProperties": _PROJECTION},
    },
    f"{_AT}/processing/v1.2.0/schema.json": {
        "properties": {"allOf": [_PROCESSING, {"required": ["processing:lineage", "processing:software"]}]},
        "assets": {"additionalProperties": _PROCESSING},
    },
    f"{_AT}/raster/v2.0.0/schema.json": {"assets": {"additionalProperties": _RASTER}},
}
_COLLECTION = {"providers": {"contains": {"allOf": [_PROCESSING, {"required": ["processing:software"]}]}}}


def write_schemas(folder: Path) -> dict[str, str]:
    """Write all schemas to a folder; the map from address to file that stac-validator takes as `schema_map`."""
    documents = dict(get_local_schema_cache())
    for url, item in EXTENSIONS.items():
        documents[url] = _item_or_collection(url, item, _COLLECTION if "processing" in url else {})
    mapped = {}
    for n, (url, document) in enumerate(sorted(documents.items())):
        path = folder / f"{n:02}.json"
        path.write_text(json.dumps(document))
        mapped[url] = str(path)
    # What `$ref`s lead to once they are resolved against ids that end in a typing slip ("commonjson").
    mapped["http://json-schema.org/draft-07/schema"] = str(_draft_07(folder))
    return mapped


def _draft_07(folder: Path) -> Path:
    from jsonschema import Draft7Validator

    path = folder / "draft-07.json"
    path.write_text(json.dumps(Draft7Validator.META_SCHEMA))
    return path
