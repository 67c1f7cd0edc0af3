"""The contracts between stages: one `check_*` each, called by whoever writes and by whoever reads.

A check raises `SchemaError` (the AOI's raises `AOIError`) that names the variable, what was found, what was
expected and what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geoelle.errors import AOIError, SchemaError
from geoelle.records import ChipBatch, ItemRecord

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr

NOT_DONE, DONE, SKIPPED_INVALID, SKIPPED_CLOUD, OUTSIDE_AOI, FAILED, SKIPPED_FLAT = range(7)
"""Values of `status` in an embedding store."""
STATUS_MEANINGS = "not_done done skipped_invalid skipped_cloud outside_aoi failed skipped_flat"
FRACTIONS = ("valid_fraction", "cloud_fraction", "shadow_fraction", "snow_fraction", "water_fraction")
"""Shares of a chip's pixels, in an embedding store. Snow and water are shares of what is valid ground or water."""

NO_LOOK, QUIET, FIRST, PROVISIONAL, CONFIRMED, ENDED = range(6)
"""Values of `state` in a delta store."""
STATE_MEANINGS = "no_look quiet first provisional confirmed ended"
STATE_NAMES = tuple(STATE_MEANINGS.split())

COARSE_FACTOR = 1.5
"""Imagery this much coarser than what an encoder was trained on is said to be resampled."""

LOSS_UNITS: Mapping[str, str] = {
    "own": "encoder loss",
    "own-partial": "encoder loss (own-partial)",
    "proxy": "proxy loss",
    "unavailable": "encoder loss",
}
"""Unit of loss, difficulty and delta, by the kind of the loss: a figure of a proxy is never seen without the word."""

LOSS_NAMES: Mapping[str, str] = {
    "own": "pretraining loss",
    "own-partial": "pretraining loss without one of its terms (own-partial)",
    "proxy": "proxy for the pretraining loss",
    "unavailable": "loss",
}
"""What is measured and predicted, in a label."""

MIN_INDEPENDENT_BLOCKS = 30
"""Blocks that a local fit asks for, and under which everything made from one says so."""

SUPPORT_OUTSIDE, SUPPORT_INSIDE, SUPPORT_NO_DATA = 0, 1, 255
"""Values of `support` in a difficulty store."""

# Azure, Amazon, Google and CloudFront put their signatures into the query.
_SIGNED = re.compile(r"[?&](sig|X-Amz-Signature|X-Goog-Signature|Signature)=", re.IGNORECASE)
_RASTER = ("time", "y", "x")
EMBEDDING_VARIABLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "embedding": ((*_RASTER, "feature"), "float32"),
    **dict.fromkeys(FRACTIONS, (_RASTER, "float32")),
    "contrast": (_RASTER, "float32"),
    "status": (_RASTER, "uint8"),
}
EMBEDDING_DTYPES = ("float32", "float16", "int8")
"""How an embedding store may keep its embeddings; int8 has one scale per chip beside it."""
EMBEDDING_SCALE = "embedding_scale"
_COMMON_ATTRS = (
    "geoelle:grid", "geoelle:encoder", "geoelle:aoi", "geoelle:simulated", "geoelle:attribution", "geoelle:scenes",
    "geoelle:software",
)  # fmt: skip
ENCODER_ATTRS = (
    "name", "card_digest", "weights_sha256", "bands", "chip_size_px", "gsd_m", "n_features", "mask_ratio", "loss_kind",
    "loss_definition",
)  # fmt: skip
DIFFICULTY_VARIABLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "difficulty": (_RASTER, "float32"),
    "difficulty_se": (_RASTER, "float32"),
    "support": (_RASTER, "uint8"),
}
DELTA_VARIABLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "delta": (_RASTER, "float32"),
    "z": (_RASTER, "float32"),
    "p": (_RASTER, "float32"),
    "state": (_RASTER, "uint8"),
    "reference_n": (_RASTER, "uint16"),
}
ALERT_COLUMNS = (
    "rank", "chip_id", "date", "direction", "delta", "z", "p", "p_kind", "state", "difficulty", "reference",
    "reference_kind", "reference_n", "before_item_ids", "after_item_ids", "loss_kind", "geometry",
)  # fmt: skip
PAIR_COLUMNS = (
    "chip_id", "time", "item_ids", "embedding", "loss", "loss_sd", "n_masks",
    "brightness", "contrast", "gradient", "jpeg_size", "block", "scene", "geometry",
)  # fmt: skip


def _refuse(what: str, found: str, expected: str, remedy: str) -> SchemaError:
    return SchemaError(f"{what}: found {found}. Expected {expected}. {remedy}")


def check_aoi(aoi: gpd.GeoDataFrame) -> None:
    """Refuse an AOI that is not valid, non-empty polygons in EPSG:4326 with `aoi_id` and `name`.

    Raises:
        AOIError: With the first polygon that does not fit.
    """
    import shapely
    from shapely.validation import explain_validity

    missing = {"aoi_id", "name", "geometry"} - set(aoi.columns)
    if missing:
        raise AOIError(f"The AOI lacks the columns {sorted(missing)}. Read it with geoelle.read_aoi.")
    if len(aoi) == 0:
        raise AOIError("The AOI is empty. Expected at least one polygon.")
    if aoi.crs is None or aoi.crs.to_epsg() != 4326:
        raise AOIError(f"The AOI is in {aoi.crs}. Expected EPSG:4326; use GeoDataFrame.to_crs(4326).")
    for name, geometry in zip(aoi["name"], aoi.geometry, strict=True):
        if geometry is None or geometry.is_empty:
            raise AOIError(f"AOI {name!r} has an empty geometry. Expected a polygon.")
        if geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise AOIError(f"AOI {name!r} is a {geometry.geom_type}. Expected a Polygon or MultiPolygon.")
        west, south, east, north = geometry.bounds
        if not np.isfinite([west, south, east, north]).all():
            raise AOIError(f"AOI {name!r} has coordinates that are not numbers. Expected degrees.")
        if west < -180 or east > 180 or south < -90 or north > 90:
            raise AOIError(
                f"AOI {name!r} reaches from ({west:g}, {south:g}) to ({east:g}, {north:g}), which is not longitude "
                "and latitude. Expected degrees in EPSG:4326, longitude first."
            )
        if not geometry.is_valid:
            raise AOIError(
                f"AOI {name!r} is not a valid polygon ({explain_validity(geometry)}). "
                "Mend it, for example with QGIS's Fix geometries."
            )
        if shapely.area(geometry) == 0:
            raise AOIError(f"AOI {name!r} has no area. Expected a polygon.")


def check_items(items: Iterable[ItemRecord], bands: Iterable[str] = ()) -> None:
    """Refuse items without assets, with signed hrefs, or without one of `bands`.

    Raises:
        SchemaError: With the item's id.
    """
    for item in items:
        if not item.assets:
            raise _refuse(f"Item {item.id}", "no band assets", "at least one", "Check the sensor of the search.")
        for band in bands:
            if band not in item.assets:
                raise _refuse(
                    f"Item {item.id}", f"bands {sorted(item.assets)}", f"band {band!r}",
                    "Pick a collection that has it, or an encoder that does without.",
                )  # fmt: skip
        for band, asset in item.assets.items():
            if _SIGNED.search(asset.href):
                raise _refuse(
                    f"Item {item.id}, band {band}", "a signed href", "an unsigned one",
                    "Signatures expire; they are added when pixels are read. Search again with geoelle search.",
                )  # fmt: skip


def check_chip_batch(batch: ChipBatch) -> None:
    """Refuse a batch whose arrays do not fit together.

    Raises:
        SchemaError: With the array, its shape or type and the one expected.
    """
    if batch.pixels.ndim != 5:
        raise _refuse(
            "ChipBatch.pixels",
            f"shape {batch.pixels.shape}",
            "(chip, step, band, y, x)",
            "Add the missing axes.",
        )
    n, steps, bands, height, width = batch.pixels.shape
    expected: dict[str, tuple[tuple[int, ...], str]] = {
        "pixels": ((n, steps, bands, height, width), "float32"),
        "valid": ((n, steps, height, width), "bool"),
        "time": ((n, steps), "datetime64[ns]"),
        "lonlat": ((n, 2), "float64"),
        "chip_id": ((n,), "<U"),
    }
    for name, (shape, dtype) in expected.items():
        array = getattr(batch, name)
        right_type = array.dtype.kind == "U" if dtype == "<U" else str(array.dtype) == dtype
        if array.shape != shape or not right_type:
            raise _refuse(
                f"ChipBatch.{name}", f"{array.dtype} of shape {array.shape}", f"{dtype} of shape {shape}",
                "Build batches with geoelle.chips.cut_chips.",
            )  # fmt: skip
    if bands != len(batch.bands):
        raise _refuse(
            "ChipBatch.bands",
            f"{len(batch.bands)} names",
            f"{bands}, one per band of pixels",
            "Name every band.",
        )
    if not batch.gsd_m > 0:
        raise _refuse("ChipBatch.gsd_m", f"{batch.gsd_m}", "a positive number of metres", "Set it.")


def _check_dataset(ds: xr.Dataset, what: str, variables: Mapping[str, tuple[tuple[str, ...], str]]) -> None:
    for name, (dims, dtype) in variables.items():
        if name not in ds.data_vars:
            raise _refuse(
                what,
                f"variables {sorted(map(str, ds.data_vars))}",
                f"{name!r}",
                "Write it with geoelle's own verb.",
            )
        array = ds[name]
        if array.dims != dims or str(array.dtype) != dtype:
            raise _refuse(
                f"{what}, variable {name!r}", f"{array.dtype} over {array.dims}", f"{dtype} over {dims}",
                "Make the store again.",
            )  # fmt: skip
    y = np.asarray(ds["y"].values)
    if y.size > 1 and not (np.diff(y) < 0).all():
        raise _refuse(f"{what}, coordinate 'y'", "values that do not fall", "y descending", "Sort it north first.")
    if str(ds["time"].dtype) != "datetime64[ns]":
        raise _refuse(f"{what}, coordinate 'time'", str(ds["time"].dtype), "datetime64[ns]", "Cast it at the boundary.")
    if "spatial_ref" not in ds.coords:
        raise _refuse(what, "no 'spatial_ref'", "the CRS as CF grid mapping", "Write it with rio.write_crs.")


def _check_attrs(attrs: Any, what: str, names: Iterable[str]) -> None:
    if not isinstance(attrs, Mapping):
        raise _refuse(what, type(attrs).__name__, "keys and values", "Make the store again.")
    for name in names:
        if name not in attrs:
            raise _refuse(what, f"attributes {sorted(attrs)}", f"{name!r}", "Make the store again.")


def _embedding_variables(ds: xr.Dataset) -> dict[str, tuple[tuple[str, ...], str]]:
    """What a store has to hold, by the dtype of its embeddings."""
    expected = dict(EMBEDDING_VARIABLES)
    dtype = str(ds["embedding"].dtype) if "embedding" in ds.data_vars else "float32"
    if dtype in EMBEDDING_DTYPES:
        expected["embedding"] = (expected["embedding"][0], dtype)
    if dtype == "int8":
        expected[EMBEDDING_SCALE] = (_RASTER, "float32")
    return expected


def check_embeddings(ds: xr.Dataset) -> None:
    """Refuse a dataset that is not an embedding store.

    Raises:
        SchemaError: With the variable, what was found and what was expected.
    """
    _check_dataset(ds, "Embeddings", _embedding_variables(ds))
    _check_attrs(ds.attrs, "Embeddings", ("geoelle:kind", *_COMMON_ATTRS))
    _check_attrs(ds.attrs["geoelle:encoder"], "Embeddings, attribute 'geoelle:encoder'", ENCODER_ATTRS)


def check_difficulty(ds: xr.Dataset) -> None:
    """Refuse a dataset that is not a difficulty store.

    Raises:
        SchemaError: With the variable, what was found and what was expected.
    """
    _check_dataset(ds, "Difficulty", DIFFICULTY_VARIABLES)
    _check_attrs(
        ds.attrs, "Difficulty",
        ("geoelle:kind", "geoelle:grid", "geoelle:encoder", "geoelle:probe_digest", "geoelle:probe_origin"),
    )  # fmt: skip


def check_delta(ds: xr.Dataset) -> None:
    """Refuse a dataset that is not a delta store.

    Raises:
        SchemaError: With the variable, what was found and what was expected.
    """
    _check_dataset(ds, "Delta", DELTA_VARIABLES)
    _check_attrs(ds.attrs, "Delta", ("geoelle:kind", "geoelle:reference", "geoelle:p_kind", "geoelle:method"))


def _check_columns(frame: gpd.GeoDataFrame, what: str, columns: Iterable[str]) -> None:
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise _refuse(what, f"columns {sorted(map(str, frame.columns))}", f"also {missing}", "Write it with geoelle.")


def check_alerts(alerts: gpd.GeoDataFrame) -> None:
    """Refuse a table that is not alerts, ranked 1, 2, 3, … in EPSG:4326.

    Raises:
        SchemaError: With the column, what was found and what was expected.
    """
    _check_columns(alerts, "Alerts", ALERT_COLUMNS)
    if list(alerts["rank"]) != list(range(1, len(alerts) + 1)):
        raise _refuse("Alerts, column 'rank'", f"{list(alerts['rank'])[:5]} …", "1, 2, 3, …", "Sort them by rank.")
    if alerts.crs is None or alerts.crs.to_epsg() != 4326:
        raise _refuse("Alerts", f"CRS {alerts.crs}", "EPSG:4326", "Use to_crs(4326).")


def check_pairs(pairs: gpd.GeoDataFrame) -> None:
    """Refuse a table that is not (embedding, loss) pairs.

    Raises:
        SchemaError: With the column, what was found and what was expected.
    """
    _check_columns(pairs, "Pairs", PAIR_COLUMNS)
    if len(pairs) == 0:
        raise _refuse("Pairs", "no row", "at least one", "Calibrate on more dates or a larger area.")
    widths = {len(e) for e in pairs["embedding"]}
    if len(widths) != 1:
        raise _refuse("Pairs, column 'embedding'", f"lengths {sorted(widths)}", "one length", "Do not mix encoders.")
    if not np.isfinite(pairs["loss"].to_numpy()).all():
        raise _refuse("Pairs, column 'loss'", "values that are not finite", "numbers", "Drop those rows.")
