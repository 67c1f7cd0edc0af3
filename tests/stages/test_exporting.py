"""COG, GeoParquet and the STAC catalog: values and places equal to the stores', and others' tools read them."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import requests
import shapely
import zarr
from pyproj import Transformer
from stac_schemas import write_schemas

import geoelle
from geoelle import schema
from geoelle.catalog import read_items
from geoelle.errors import AlreadyExistsError, ConfigError, GeoelleError, NotFoundError, SchemaError, StoreError
from geoelle.exporting import ExportSummary
from geoelle.exporting.footprints import bounds_of, centre_longitude, chip_polygons, extent_footprint
from geoelle.exporting.lineage import lineage_of
from geoelle.exporting.parquet import embedding_of
from geoelle.grid import ChipGrid, GridExtent
from geoelle.store.layout import Variable, extent_of, grid_attrs, write_store
from geoelle.store.zones import create_zones

if TYPE_CHECKING:
    from conftest import Chain

NAN = float("nan")
DAY = "2021-05-10"
GRID = {
    "epsg": 32631, "chip_size_m": 320.0, "stride_m": 160.0, "tile_chips": 8, "tile_rows": [500, 501],
    "tile_columns": [60, 61],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores of all three kinds. Tests leave them as they are."""
    folder = tmp_path_factory.mktemp("stores")
    geoelle.difficulty(chain.embeddings, out=folder / "difficulty.zarr")
    geoelle.delta(folder / "difficulty.zarr", out=folder / "delta.zarr", min_looks=2)
    return {
        "embeddings": chain.embeddings,
        "difficulty": folder / "difficulty.zarr",
        "delta": folder / "delta.zarr",
    }


@pytest.fixture(scope="module")
def exported(chain: Chain, made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ExportSummary:
    """Everything in every format. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("exports") / "out"
    return geoelle.export(list(made.values()), out=out, items=chain.items)


@pytest.fixture(scope="module")
def validate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[dict[str, Any]]]:
    """stac-validator over a catalog and all below it, schemas from disk; its messages."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from stac_validator.validate import StacValidate
    schemas = write_schemas(tmp_path_factory.mktemp("schemas"))

    def run(catalog: Path) -> list[dict[str, Any]]:
        validator = StacValidate(str(catalog), recursive=True, schema_map=dict(schemas), verbose=True)
        validator.run()
        return list(validator.message)

    return run


def tree(path: Path) -> dict[str, str]:
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


def place(summary: ExportSummary, kind: str, day: str = DAY, epsg: int = 32631) -> Path:
    return summary.folder / kind / f"{kind}-{epsg}-{day}"


# ---- COG


@pytest.mark.parametrize("kind", ["difficulty", "delta"])
def test_cogs_hold_the_stores_values_where_gdal_sees_them(
    made: dict[str, Path], exported: ExportSummary, kind: str
) -> None:
    """Against the store as xarray reads it, and as GDAL's Zarr driver does: the same numbers at the same place."""
    ds = geoelle.open_store(made[kind])
    days = [str(d)[:10] for d in ds["time"].values]
    index, compared = days.index("2021-07-10"), []
    for path in sorted(place(exported, kind, "2021-07-10").glob("*.tif")):
        with rasterio.open(path) as cog:
            for band, name in enumerate(cog.descriptions, start=1):
                with rasterio.open(f'ZARR:"{made[kind]}":/{name}') as store:
                    assert (cog.crs, cog.transform, cog.shape) == (store.crs, store.transform, store.shape)
                    by_gdal = store.read(index + 1)
                np.testing.assert_array_equal(cog.read(band), by_gdal.astype(cog.dtypes[0]))
                np.testing.assert_array_equal(cog.read(band), ds[name].values[index].astype(cog.dtypes[0]))
                assert cog.units[band - 1] == (ds[name].attrs.get("units") or None)
                compared.append(name)
            assert cog.tags()["AREA_OR_POINT"] == "Area"
    expected = schema.DIFFICULTY_VARIABLES if kind == "difficulty" else schema.DELTA_VARIABLES
    assert sorted(compared) == sorted(expected)
    assert np.isfinite(ds[kind].values[index]).any()


def test_cogs_are_cogs_with_provenance(made: dict[str, Path], exported: ExportSummary) -> None:
    attrs = geoelle.open_store(made["difficulty"]).attrs
    with rasterio.open(place(exported, "difficulty") / "difficulty.tif") as cog:
        structure, tags = cog.tags(ns="IMAGE_STRUCTURE"), cog.tags()
        assert structure["LAYOUT"] == "COG"
        assert (structure["COMPRESSION"], structure["PREDICTOR"]) == ("DEFLATE", "3")
        assert np.isnan(cog.nodata)
        assert cog.tags(1)["long_name"] == "predicted pretraining loss"
    assert tags["GEOELLE_ENCODER"] == "compact-rgb"
    assert tags["GEOELLE_PROBE_DIGEST"] == attrs["geoelle:probe_digest"]
    assert json.loads(tags["GEOELLE_ITEM_IDS"]) == attrs["geoelle:scenes"][DAY]
    assert tags["GEOELLE_SIMULATED"] == "true"
    assert "Simulated" in tags["TIFFTAG_COPYRIGHT"]
    assert json.loads(tags["GEOELLE_PROVENANCE"])["geoelle:encoder"] == attrs["geoelle:encoder"]
    with rasterio.open(place(exported, "difficulty") / "support.tif") as cog:
        assert (cog.dtypes, cog.nodata, cog.colorinterp[0].name) == (("uint8",), 255, "palette")
        assert cog.colormap(1)[schema.SUPPORT_OUTSIDE] == (202, 0, 32, 255)
        assert cog.tags(1)["flag_meanings"] == "outside inside no_data"
    with rasterio.open(place(exported, "delta") / "state.tif") as cog:
        assert (cog.nodata, cog.tags(1)["flag_meanings"]) == (schema.NO_LOOK, schema.STATE_MEANINGS)


def large_difficulty(path: Path, extent: GridExtent, day: str = "2020-01-05", seed: int = 0) -> Path:
    """A difficulty store of made-up values; the north-west corner holds nothing."""
    rng = np.random.default_rng(seed)
    values = rng.random(extent.shape).astype(np.float32)
    values[:3, :3] = np.nan
    support = np.where(np.isfinite(values), rng.integers(0, 2, extent.shape), 255).astype(np.uint8)
    variables = [
        Variable("difficulty", "float32", NAN, {}, {"units": "1"}),
        Variable("difficulty_se", "float32", NAN, {}, {}),
        Variable("support", "uint8", 255, {}, {}),
    ]
    attrs = {
        "geoelle:kind": "difficulty",
        "geoelle:grid": grid_attrs(extent),
        "geoelle:encoder": {"name": "compact-rgb"},
        "geoelle:probe_digest": "ab",
        "geoelle:probe_origin": "local",
        "geoelle:scenes": {day: ["b", "a"]},
        "geoelle:software": {"geoelle": "0"},
        "geoelle:made_of": "cd",
    }
    data = [{"difficulty": values, "difficulty_se": values * 0 + 1, "support": support}]
    write_store(path, extent, [np.datetime64(day, "ns")], variables, data, attrs)
    return path


def test_large_rasters_have_overviews_of_their_kind(tmp_path: Path) -> None:
    extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 64, range(500, 509), range(60, 70))
    ds = geoelle.open_store(large_difficulty(tmp_path / "d.zarr", extent))
    geoelle.export(tmp_path / "d.zarr", out=tmp_path / "out", formats=["cog"])
    folder = tmp_path / "out" / "difficulty" / "difficulty-32631-2020-01-05"
    with rasterio.open(folder / "difficulty.tif") as cog:
        assert cog.block_shapes[0] == (256, 256)
        assert cog.overviews(1) == [2, 4]
        np.testing.assert_array_equal(cog.read(1), ds["difficulty"].values[0])
        height, width = cog.shape
        half = cog.read(1, out_shape=(height // 2, width // 2))
    whole = ds["difficulty"].values[0]
    blocks = whole.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
    inside = np.isfinite(blocks)
    np.testing.assert_allclose(half[inside], blocks[inside], rtol=1e-5)
    with rasterio.open(folder / "support.tif") as cog:
        small = cog.read(1, out_shape=(height // 2, width // 2))
    assert set(np.unique(small)) <= {0, 1, 255}, "classes are never averaged"


# ---- GeoParquet


def test_tables_hold_every_embedded_chip(made: dict[str, Path], exported: ExportSummary) -> None:
    ds = geoelle.open_store(made["embeddings"]).sel(time=DAY)
    difficulty = geoelle.open_store(made["difficulty"]).sel(time=DAY)
    extent = extent_of(ds.attrs)
    frame = gpd.read_parquet(place(exported, "embeddings") / "embeddings.parquet")
    rows, columns = np.nonzero(ds["status"].values == schema.DONE)
    assert 0 < len(frame) == len(rows) < ds["status"].size
    assert frame["chip_id"].tolist() == extent.grid.chip_ids(extent.rows[rows], extent.columns[columns]).tolist()
    np.testing.assert_array_equal(np.stack(list(frame["embedding"])), ds["embedding"].values[rows, columns])
    for name in (*schema.FRACTIONS, "contrast"):
        np.testing.assert_array_equal(frame[name], ds[name].values[rows, columns])
    for name in schema.DIFFICULTY_VARIABLES:
        np.testing.assert_array_equal(frame[name], difficulty[name].values[rows, columns])
    assert (frame["time"] == np.datetime64(DAY)).all()
    assert frame["item_ids"].map(list).tolist() == [ds.attrs["geoelle:scenes"][DAY]] * len(frame)


def test_tables_know_where_chips_lie(made: dict[str, Path], exported: ExportSummary) -> None:
    frame = gpd.read_parquet(place(exported, "embeddings") / "embeddings.parquet")
    assert frame.crs.to_epsg() == 4326
    grid, row, column = ChipGrid.parse_chip_id(frame["chip_id"].iloc[7])
    corner = column * grid.stride_m, row * grid.stride_m
    expected = shapely.box(*corner, corner[0] + grid.chip_size_m, corner[1] + grid.chip_size_m)
    outline = frame.geometry.iloc[7:8].to_crs(grid.epsg).iloc[0]
    assert shapely.hausdorff_distance(outline, expected) < 1e-3
    assert shapely.is_ccw(frame.geometry.iloc[7].exterior)
    path = place(exported, "embeddings") / "embeddings.parquet"
    bbox = pq.read_table(path, columns=["bbox"])["bbox"][7].as_py()
    assert tuple(bbox[side] for side in ("xmin", "ymin", "xmax", "ymax")) == frame.geometry.iloc[7].bounds
    west, south, east, north = frame.geometry.iloc[7].bounds
    near = gpd.read_parquet(path, bbox=(west, south, east, north))  # uses the covering column
    assert 1 <= len(near) < len(frame)
    assert frame["chip_id"].iloc[7] in set(near["chip_id"])


def test_tables_say_what_they_are(made: dict[str, Path], exported: ExportSummary) -> None:
    path = place(exported, "embeddings") / "embeddings.parquet"
    metadata = pq.read_metadata(path).metadata
    geo = json.loads(metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert tuple(geo["columns"]["geometry"]["bbox"]) == tuple(gpd.read_parquet(path).total_bounds)
    provenance = json.loads(metadata[b"geoelle:provenance"])
    assert provenance["geoelle:encoder"]["name"] == "compact-rgb"
    assert provenance["geoelle:grid"]["epsg"] == 32631
    assert provenance["geoelle:probe_digest"] == geoelle.open_store(made["difficulty"]).attrs["geoelle:probe_digest"]
    together = pads.dataset(sorted((exported.folder / "embeddings").rglob("*.parquet")))
    assert together.count_rows() == exported.n_rows
    assert str(together.schema.field("embedding").type) == "fixed_size_list<element: float>[192]"


def test_rows_of_tiles_pass_one_by_one(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows of tiles, written as they come, hold the same as the store does."""
    frame = geoelle.search(chain.scenes.aoi, catalog=chain.scenes.catalog, collections=[], start=DAY, end=DAY)
    geoelle.embed(frame, aoi=chain.scenes.aoi, out=tmp_path / "e.zarr", chip_size_m=320, stride_m=320, tile_chips=2)
    ds = geoelle.open_store(tmp_path / "e.zarr").isel(time=0)
    monkeypatch.setattr("geoelle.exporting.parquet._MIN_ROWS", 1)
    seen: list[int] = []

    def watched(ds: Any, time_index: int, rows: slice) -> Any:
        found = embedding_of(ds, time_index, rows)
        seen.append(found.shape[0])
        return found

    monkeypatch.setattr("geoelle.exporting.parquet.embedding_of", watched)
    (path,) = geoelle.export(tmp_path / "e.zarr", out=tmp_path / "out", formats=["geoparquet"]).files
    assert pq.read_metadata(path).num_row_groups == len(seen) > 2
    assert set(seen) == {2}, "no more than a row of tiles in memory"
    table = gpd.read_parquet(path)
    rows, columns = np.nonzero(ds["status"].values == schema.DONE)
    np.testing.assert_array_equal(np.stack(list(table["embedding"])), ds["embedding"].values[rows, columns])
    extent = extent_of(ds.attrs)
    assert table["chip_id"].tolist() == extent.grid.chip_ids(extent.rows[rows], extent.columns[columns]).tolist()


def test_without_difficulty_nothing_is_joined(made: dict[str, Path], tmp_path: Path) -> None:
    summary = geoelle.export(made["embeddings"], out=tmp_path, formats=["geoparquet"], dates=[(DAY, DAY)])
    (path,) = summary.files
    assert not {"difficulty", "support"} & set(pq.read_schema(path).names)
    assert summary.catalog is None
    assert not list(tmp_path.rglob("*.json"))
    assert summary.n_rows == pq.read_metadata(path).num_rows > 0


def test_difficulty_of_another_grid_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 64, range(500, 501), range(60, 61))
    other = large_difficulty(tmp_path / "d.zarr", extent, day=DAY)
    with pytest.raises(SchemaError, match="different grids"):
        geoelle.export([made["embeddings"], other], out=tmp_path / "out", formats=["geoparquet"])


# ---- STAC


def test_stac_validator_passes_it(
    exported: ExportSummary, validate: Callable[[Path], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a schema was to be fetched")

    monkeypatch.setattr(requests, "get", no_network)
    assert exported.catalog is not None
    messages = validate(exported.catalog)
    assert [m for m in messages if not m["valid_stac"]] == []
    kinds = [m["asset_type"] for m in messages]
    assert (kinds.count("CATALOG"), kinds.count("COLLECTION"), kinds.count("ITEM")) == (1, 3, exported.n_items)
    assert exported.n_items == 6 + 6 + 4
    assert exported.n_empty == 2, "the first two looks have no reference"


def test_pystac_walks_it_and_its_schemas_hold(exported: ExportSummary) -> None:
    assert exported.catalog is not None
    catalog = pystac.Catalog.from_file(str(exported.catalog))
    seen = 0
    for item in catalog.get_items(recursive=True):
        seen += 1
        for asset in item.get_assets().values():
            assert not asset.href.startswith("/")
            assert Path(asset.get_absolute_href() or "").exists()
        collection = item.get_collection()
        assert collection is not None
        assert collection.id == item.properties["geoelle:kind"] == item.collection_id
    assert seen == exported.n_items


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda i: i["properties"].update({"proj:code": 32631}), "32631"),
        (lambda i: i["properties"].update({"proj:epsg": 32631}), "proj:epsg"),
        (lambda i: i["properties"].pop("processing:software"), "processing:software"),
        (lambda i: i["assets"]["difficulty"].update({"raster:bands": []}), "raster:bands"),
        (lambda i: i["properties"].pop("datetime"), "datetime"),
        (lambda i: i.pop("bbox"), "bbox"),
        (lambda i: i["assets"]["difficulty"]["bands"][0].update({"data_type": "real"}), "real"),
    ],
)
def test_the_validation_can_fail(
    exported: ExportSummary,
    validate: Callable[[Path], list[dict[str, Any]]],
    tmp_path: Path,
    breaks: Callable[[dict[str, Any]], object],
    said: str,
) -> None:
    shutil.copytree(exported.folder, tmp_path / "out", ignore=shutil.ignore_patterns("*.tif", "*.parquet"))
    name = f"difficulty-32631-{DAY}"
    path = tmp_path / "out" / "difficulty" / name / f"{name}.json"
    item = json.loads(path.read_text())
    breaks(item)
    path.write_text(json.dumps(item))
    (bad,) = [m for m in validate(tmp_path / "out" / "catalog.json") if not m["valid_stac"]]
    assert said in json.dumps(bad)


def test_items_say_where_and_when_and_of_what(chain: Chain, made: dict[str, Path], exported: ExportSummary) -> None:
    item = pystac.Item.from_file(str(next(place(exported, "difficulty").glob("*.json"))))
    attrs = geoelle.open_store(made["difficulty"]).attrs
    with rasterio.open(place(exported, "difficulty") / "difficulty.tif") as cog:
        assert item.properties["proj:code"] == cog.crs.to_string()
        assert tuple(item.properties["proj:shape"]) == cog.shape
        assert item.properties["proj:transform"] == list(cog.transform)[:6]
        assert item.properties["proj:bbox"] == list(cog.bounds)
        lonlat = rasterio.warp.transform_bounds(cog.crs, 4326, *cog.bounds)
    np.testing.assert_allclose(item.bbox, lonlat, atol=1e-5)
    assert shapely.geometry.shape(item.geometry).bounds == tuple(item.bbox)
    # The solar day begins at midnight of the place: 4.3 degrees east is 17 minutes before UTC.
    start = item.common_metadata.start_datetime
    assert start is not None
    assert abs((start - datetime(2021, 5, 9, 23, 42, 47, tzinfo=UTC)).total_seconds()) < 5
    for name in ("geoelle:encoder", "geoelle:probe_digest", "geoelle:attribution", "geoelle:simulated"):
        assert item.properties[name] == attrs[name]
    assert item.properties["processing:software"] == attrs["geoelle:software"]
    assert item.properties["geoelle:item_ids"] == attrs["geoelle:scenes"][DAY]
    (source,) = item.properties["geoelle:items"].values()
    assert source["processing_baseline"] == "03.01"
    (record,) = [r for r in read_items(chain.items)[0] if r.id in item.properties["geoelle:item_ids"]]
    assert source["relative_orbit"] == record.relative_orbit
    assert source["mgrs_tile"] == record.mgrs_tile
    assert source["scale"] == record.assets["red"].scale
    assert item.assets["difficulty"].to_dict()["bands"][0]["nodata"] == "nan"
    embeddings = json.loads(next(place(exported, "embeddings").glob("*.json")).read_text())
    assert len(embeddings["properties"]["geoelle:config_digest"]) == 64
    assert embeddings["assets"]["zarr"]["type"] == "application/vnd+zarr"


def test_what_the_store_says_of_items_wins_and_sources_are_linked(
    chain: Chain, made: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(made["difficulty"], tmp_path / "d.zarr")
    attrs = zarr.open_group(tmp_path / "d.zarr", mode="r+").attrs
    (known,) = geoelle.open_store(made["difficulty"]).attrs["geoelle:scenes"][DAY]
    address = f"https://example.com/items/{known}"
    attrs["geoelle:items"] = {known: {"relative_orbit": 7, "offset_applied": True, "self": address}}
    geoelle.export(
        tmp_path / "d.zarr", out=tmp_path / "out", formats=["stac"], dates=[(DAY, DAY)], items=chain.items
    )  # fmt: skip
    item = json.loads(next((tmp_path / "out" / "difficulty").glob("*/*.json")).read_text())
    source = item["properties"]["geoelle:items"][known]
    assert (source["relative_orbit"], source["offset_applied"], source["platform"]) == (7, True, "sentinel-2a")
    (link,) = [link for link in item["links"] if link["rel"] == "derived_from"]
    assert link["href"] == address
    assert set(item["assets"]) == {"zarr"}


@pytest.mark.parametrize(
    ("href", "linked"),
    [
        ("https://example.com/items/a", True),
        ("https://example.com/items/a?sig=secret", False),
        ("file:///etc/passwd", False),
        (7, False),
    ],
)
def test_sources_are_linked_by_their_own_address(chain: Chain, href: object, linked: bool) -> None:
    record = read_items(chain.items)[0][0]
    record = replace(
        record, raw={**record.raw, "links": [{"rel": "parent", "href": "no"}, {"rel": "self", "href": href}]}
    )
    attrs = {"geoelle:scenes": {DAY: [record.id]}}
    found = lineage_of(attrs, "embeddings", DAY, {record.id: record})
    assert found.self_hrefs == ({record.id: href} if linked else {})


# ---- again, other dates, other zones


def test_again_gives_the_same_bytes(chain: Chain, made: dict[str, Path], exported: ExportSummary) -> None:
    before = tree(exported.folder)
    geoelle.export(list(made.values()), out=exported.folder, items=chain.items)
    assert tree(exported.folder) == before


def test_other_dates_join_the_catalog(
    made: dict[str, Path], tmp_path: Path, validate: Callable[[Path], list[dict[str, Any]]]
) -> None:
    first = geoelle.export(made["difficulty"], out=tmp_path, dates=[("2021-03-01", "2021-03-31")])
    second = geoelle.export(made["difficulty"], out=tmp_path, dates=[(DAY, DAY)])
    assert first.n_items == second.n_items == 1
    collection = json.loads((tmp_path / "difficulty" / "collection.json").read_text())
    assert len([link for link in collection["links"] if link["rel"] == "item"]) == 2
    (interval,) = collection["extent"]["temporal"]["interval"]
    assert (interval[0][:10], interval[1][:10]) == ("2021-03-09", DAY)
    assert all(m["valid_stac"] for m in validate(tmp_path / "catalog.json"))


def test_a_date_that_became_empty_leaves_the_catalog(tmp_path: Path) -> None:
    extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 8, range(500, 501), range(60, 61))
    large_difficulty(tmp_path / "d.zarr", extent)
    geoelle.export(tmp_path / "d.zarr", out=tmp_path / "out")
    assert (tmp_path / "out" / "difficulty" / "difficulty-32631-2020-01-05").is_dir()
    root = zarr.open_group(tmp_path / "d.zarr", mode="r+")
    for name, empty in (("difficulty", NAN), ("difficulty_se", NAN), ("support", 255)):
        root[name][...] = empty  # type: ignore[index, union-attr]
    summary = geoelle.export(tmp_path / "d.zarr", out=tmp_path / "out")
    assert (summary.n_empty, summary.n_items, summary.files) == (1, 0, ())
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["catalog.json"]


def test_zones_are_items_of_their_own(tmp_path: Path, validate: Callable[[Path], list[dict[str, Any]]]) -> None:
    """Two zones at the antimeridian: number 60 and number 1, north of Fiji's latitude but at sea."""
    store = tmp_path / "d.zarr"
    paths = create_zones(store, "difficulty", ["32660", "32601"], {})
    # Zone 60 ends at 180 degrees, about 833.9 km east at the equator; zone 1 begins there, about 166.0 km east.
    extents = {
        "32660": GridExtent(ChipGrid(32660, 640.0, 640.0), 8, range(10, 12), range(161, 164)),
        "32601": GridExtent(ChipGrid(32601, 640.0, 640.0), 8, range(10, 12), range(31, 34)),
    }
    for n, (zone, path) in enumerate(paths.items()):
        large_difficulty(path, extents[zone], seed=n)
    summary = geoelle.export(store, out=tmp_path / "out")
    assert (summary.n_items, len(summary.files)) == (2, 4)
    boxes = {}
    for zone in paths:
        item = json.loads(next((tmp_path / "out").glob(f"difficulty/*{zone}*/*.json")).read_text())
        assert item["geometry"]["type"] == "MultiPolygon"
        west, _, east, _ = boxes[zone] = item["bbox"]
        assert 179 < west < 180
        assert -180 < east < -179
        shape = shapely.geometry.shape(item["geometry"])
        assert shape.is_valid
        assert shape.bounds[0] == -180
        assert shape.bounds[2] == 180
        # Both parts together are as wide as the raster.
        assert sum(p.bounds[2] - p.bounds[0] for p in shape.geoms) < 0.2
        with rasterio.open(next((tmp_path / "out").glob(f"difficulty/*{zone}*/difficulty.tif"))) as cog:
            assert cog.crs.to_epsg() == int(zone)
            np.testing.assert_array_equal(cog.read(1), geoelle.open_store(paths[zone])["difficulty"].values[0])
    collection = json.loads((tmp_path / "out" / "difficulty" / "collection.json").read_text())
    (box,) = collection["extent"]["spatial"]["bbox"]
    assert box[0] == min(b[0] for b in boxes.values()) > 179
    assert all(m["valid_stac"] for m in validate(tmp_path / "out" / "catalog.json"))


def test_chips_on_the_antimeridian_are_cut_there() -> None:
    extent = GridExtent(ChipGrid(32660, 640.0, 320.0), 8, range(10, 11), range(322, 330))
    rows, columns = np.meshgrid(np.arange(2), np.arange(extent.shape[1]), indexing="ij")
    polygons = chip_polygons(extent, rows.ravel(), columns.ravel())
    kinds = {p.geom_type for p in polygons}
    assert kinds == {"Polygon", "MultiPolygon"}
    back = Transformer.from_crs(4326, 32660, always_xy=True).transform
    for polygon in polygons:
        metres = shapely.transform(polygon, lambda xy: np.stack(back(xy[:, 0], xy[:, 1]), axis=-1))
        assert metres.area == pytest.approx(640**2, rel=1e-4)
    west, south, east, north = bounds_of(extent_footprint(extent))
    assert west > east
    assert south < north
    assert 179 < abs(centre_longitude(extent)) <= 180


# ---- what cannot be exported


def test_nothing_to_export(made: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no store"):
        geoelle.export(tmp_path / "nowhere", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="left to export"):
        geoelle.export(made["difficulty"], out=tmp_path / "out", dates=[("1999-01-01", "1999-12-31")])
    for formats in ([], ["shapefile"], "cog"):
        with pytest.raises(ConfigError, match="formats"):
            geoelle.export(made["difficulty"], out=tmp_path / "out", formats=formats)  # type: ignore[arg-type]
    shutil.copytree(made["difficulty"], tmp_path / "d.zarr")
    with pytest.raises(ConfigError, match="both hold difficulty"):
        geoelle.export([made["difficulty"], tmp_path / "d.zarr"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exports_of_another_area_are_not_replaced(tmp_path: Path) -> None:
    for n, first in enumerate((500, 600)):
        extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 8, range(first, first + 1), range(60, 61))
        large_difficulty(tmp_path / f"{n}.zarr", extent)
    geoelle.export(tmp_path / "0.zarr", out=tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(AlreadyExistsError, match="another area or grid"):
        geoelle.export(tmp_path / "1.zarr", out=tmp_path / "out")
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("text", ['{"id": "mine", "type": "Catalog"}', "[]", "not JSON"])
def test_somebody_elses_catalog_is_left_alone(tmp_path: Path, text: str) -> None:
    extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 8, range(500, 501), range(60, 61))
    store = large_difficulty(tmp_path / "d.zarr", extent)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "catalog.json").write_text(text)
    with pytest.raises(AlreadyExistsError, match="not a catalog that geoelle wrote"):
        geoelle.export(store, out=tmp_path / "out")
    assert tree(tmp_path / "out") == {"catalog.json": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("geoelle:kind", "../difficulty"),
        ("geoelle:zones", ["../../32631"]),
        ("geoelle:zones", ["99999"]),
        ("geoelle:scenes", [1, 2]),
        ("geoelle:scenes", {"2020-01-05": "abc"}),
        ("geoelle:scenes", {"2020-01-05": [["../../etc"]]}),
        ("geoelle:items", "all of them"),
        ("geoelle:software", 3),
        ("geoelle:encoder", "mine"),
        ("geoelle:grid", "everywhere"),
        ("geoelle:grid", {"epsg": "../..", "chip_size_m": 1}),
        ("geoelle:grid", {**GRID, "epsg": 1}),
        ("geoelle:grid", {**GRID, "tile_rows": [501, 502]}),
        ("geoelle:grid", {**GRID, "tile_rows": [0, 10**12]}),
    ],
)
def test_hostile_attributes_end_in_one_sentence(tmp_path: Path, name: str, value: object) -> None:
    extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 8, range(500, 501), range(60, 61))
    store = large_difficulty(tmp_path / "d.zarr", extent)
    root = zarr.open_group(store, mode="r+")
    root.attrs[name] = value  # type: ignore[assignment]
    before = tree(tmp_path)
    with pytest.raises(GeoelleError) as caught:
        geoelle.export(store, out=tmp_path / "out")
    assert len(str(caught.value)) < 600
    assert tree(tmp_path) == before


def test_a_damaged_item_in_the_way_is_named(tmp_path: Path) -> None:
    extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 8, range(500, 501), range(60, 61))
    store = large_difficulty(tmp_path / "d.zarr", extent)
    summary = geoelle.export(store, out=tmp_path / "out")
    (item,) = (summary.folder / "difficulty").glob("*/*.json")
    for text in ("", "[]", '{"type": "Feature"}', '{"type": "Feature", "stac_version": "1.1.0", "id": "x"}'):
        item.write_text(text)
        with pytest.raises(StoreError, match="no STAC item"):
            geoelle.export(store, out=tmp_path / "out")
