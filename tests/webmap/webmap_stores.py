"""Small stores of the kinds that `map` takes, made from a seed, and what tests do where a tool is absent."""

from __future__ import annotations

import os
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr
from pyproj import CRS, Transformer

EPSG = 32631
STRIDE_M = 320.0
SHAPE = (36, 48)
WEST, NORTH = 484_480.0, 4_697_600.0
DAYS = ("2020-01-13", "2020-01-28", "2020-03-03", "2022-03-08")
EVIL = "<img src=x onerror=alert(1)>{{ 7*7 }}{% for %}`${1}`</script>"


def coordinates(days: tuple[str, ...]) -> dict[str, Any]:
    """Chip centres around Boadella, north first."""
    y = NORTH - STRIDE_M * (0.5 + np.arange(SHAPE[0]))
    x = WEST + STRIDE_M * (0.5 + np.arange(SHAPE[1]))
    wkt = CRS.from_epsg(EPSG).to_wkt()
    return {
        "time": np.array(days, dtype="datetime64[ns]"),
        "y": y,
        "x": x,
        "spatial_ref": ((), np.int64(0), {"crs_wkt": wkt, "spatial_ref": wkt}),
    }


def attributes(**changes: Any) -> dict[str, Any]:
    """What difficulty and delta stores have in common."""
    to_lonlat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    area = shapely.transform(
        shapely.box(WEST + 900, NORTH - 10_700, WEST + 14_400, NORTH - 700),
        lambda xy: np.stack(to_lonlat(xy[:, 0], xy[:, 1]), axis=-1),
    )
    attrs: dict[str, Any] = {
        "geoelle:kind": "difficulty",
        "geoelle:grid": {"epsg": EPSG, "chip_size_m": 640.0, "stride_m": STRIDE_M, "tile_chips": 12},
        "geoelle:encoder": {
            "name": "compact-rgb",
            "card_digest": "ab" * 32,
            "weights_sha256": "5f" * 32,
            "bands": ["red", "green", "blue"],
            "chip_size_px": 64,
            "gsd_m": 10.0,
            "loss_kind": "own",
            "loss_definition": "Mean squared error of the masked patches in standardised reflectance.",
        },
        "geoelle:probe": {
            "digest": "cd" * 32, "origin": "local", "trained_on": "Boadella, ten quiet dates", "n_train": 4812,
            "n_blocks": 41,
        },
        "geoelle:probe_digest": "cd" * 32,
        "geoelle:probe_origin": "local",
        "geoelle:aoi": {
            "type": "FeatureCollection",
            "features": [{
                "type": "Feature",
                "properties": {"aoi_id": "boadella", "name": "Boadella reservoir"},
                "geometry": shapely.geometry.mapping(area),
            }],
        },
        "geoelle:simulated": False,
        "geoelle:attribution": "Contains modified Copernicus Sentinel data [2020-2022]",
        "geoelle:scenes": {day: [f"S2A_T31TDG_{day.replace('-', '')}_0_L2A"] for day in DAYS},
    }  # fmt: skip
    return attrs | changes


def make_difficulty(**changes: Any) -> xr.Dataset:
    """Difficulty with a lake that is easy, a town that is hard, clouds, and a corner outside the probe's support."""
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    ground = 0.35 + 0.12 * np.sin(columns / 6) * np.cos(rows / 5) + 0.02 * rng.standard_normal(SHAPE)
    lake = np.hypot(rows - 16, (columns - 22) / 1.8) < 6
    town = np.hypot(rows - 27, columns - 37) < 4
    values = np.stack([
        np.where(lake & (k < 3), 0.05, ground + 0.3 * town) + 0.01 * rng.standard_normal(SHAPE)
        for k in range(len(DAYS))
    ]).astype(np.float32)  # fmt: skip
    values[2, :9, 30:] = np.nan
    support = np.ones(values.shape, np.uint8)
    support[:, 24:31, 33:42] = 0
    support[np.isnan(values)] = 255
    return xr.Dataset(
        {
            "difficulty": (("time", "y", "x"), values, {"units": "1"}),
            "difficulty_se": (("time", "y", "x"), np.full_like(values, 0.02)),
            "support": (("time", "y", "x"), support),
        },
        coordinates(DAYS),
        attributes(**changes),
    )


def make_delta(difficulty: xr.Dataset, **changes: Any) -> xr.Dataset:
    """Delta against the median over the dates."""
    values = difficulty["difficulty"].values
    delta = (values - np.nanmedian(values, axis=0)).astype(np.float32)
    z = (delta / 0.03).astype(np.float32)
    own = {
        "geoelle:kind": "delta",
        "geoelle:reference": {
            "kind": "surrounding", "window_days": 30, "reference_dates": [["2020-01-01", "2022-12-31"]],
            "excluded_dates": ["2020-02-12"], "min_looks": 4,
        },
        "geoelle:p_kind": "pooled-quiet-looks",
        "geoelle:method": "difficulty minus the median of the reference looks; z by 1.4826 MAD, moderated towards the "
        "5 x 5 neighbourhood",
    }  # fmt: skip
    return xr.Dataset(
        {
            "delta": (("time", "y", "x"), delta),
            "z": (("time", "y", "x"), z),
            "p": (("time", "y", "x"), np.full_like(delta, np.nan)),
            "state": (("time", "y", "x"), np.where(np.abs(z) > 4, 2, 1).astype(np.uint8)),
            "reference_n": (("time", "y", "x"), np.full(delta.shape, 3, np.uint16)),
        },
        coordinates(DAYS),
        difficulty.attrs | own | changes,
    )


def make_alerts(delta: xr.Dataset, difficulty: xr.Dataset, n: int = 30) -> gpd.GeoDataFrame:
    """The n cells with the largest |z|, as polygons, ranked."""
    z = np.nan_to_num(delta["z"].values)
    order = np.argsort(-np.abs(z), axis=None)[:n]
    to_lonlat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    records, cells = [], []
    for rank, flat in enumerate(order, start=1):
        t, i, j = np.unravel_index(flat, z.shape)
        x, y, half = float(delta["x"][j]), float(delta["y"][i]), STRIDE_M / 2
        cells.append(
            shapely.transform(
                shapely.box(x - half, y - half, x + half, y + half),
                lambda xy: np.stack(to_lonlat(xy[:, 0], xy[:, 1]), axis=-1),
            )
        )
        change = float(delta["delta"][t, i, j])
        level = float(difficulty["difficulty"][t, i, j])
        records.append({
            "rank": rank, "chip_id": f"{EPSG}_640_320_r{i}_c{j}", "date": DAYS[t],
            "direction": "up" if change > 0 else "down", "delta": change, "z": float(z[t, i, j]),
            "p": np.nan if rank % 2 else 0.012, "p_kind": "pooled-quiet-looks", "state": "first", "difficulty": level,
            "reference": level - change, "reference_kind": "surrounding", "reference_n": 3, "loss_kind": "own",
            "before_item_ids": [f"S2A_{DAYS[0]}", f"S2B_{DAYS[2]}"], "after_item_ids": [f"S2A_{DAYS[t]}"],
        })  # fmt: skip
    return gpd.GeoDataFrame(records, geometry=cells, crs=4326)


def absent(what: str) -> None:
    """Skip for want of `what`; in CI it has to be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, which CI has to have")
    pytest.skip(what)
