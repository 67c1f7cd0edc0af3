"""AOIs: what can be used, and one sentence for each that cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely

from geoelle.aoi import aoi_geometry, read_aoi
from geoelle.errors import AOIError

SQUARE = [[2.8, 42.3], [2.9, 42.3], [2.9, 42.4], [2.8, 42.4], [2.8, 42.3]]
BOWTIE = [[2.8, 42.3], [2.9, 42.4], [2.9, 42.3], [2.8, 42.4], [2.8, 42.3]]
METRES = [[481520, 4685040], [489200, 4685040], [489200, 4692720], [481520, 4692720], [481520, 4685040]]


def polygon(ring: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [ring]}


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def collection(*features: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


@pytest.mark.parametrize(
    ("document", "names"),
    [
        (polygon(SQUARE), ["area"]),
        (feature(polygon(SQUARE), name="Here", aoi_id="h"), ["Here"]),
        (collection(feature(polygon(SQUARE)), feature(polygon(SQUARE))), ["area-0", "area-1"]),
        (feature({"type": "MultiPolygon", "coordinates": [[SQUARE]]}), ["area"]),
        ({**feature(polygon(SQUARE)), "crs": {"properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}}, ["area"]),
    ],
)
def test_geojson(document: dict[str, Any], names: list[str], tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(document))
    aoi = read_aoi(path)
    assert list(aoi["name"]) == names
    assert aoi.crs.to_epsg() == 4326
    assert aoi_geometry(aoi).area == pytest.approx(0.01)


def test_frames_boxes_and_geometries() -> None:
    box = shapely.box(2.8, 42.3, 2.9, 42.4)
    for given in ((2.8, 42.3, 2.9, 42.4), box, gpd.GeoDataFrame(geometry=[box], crs=4326).to_crs(32631)):
        assert aoi_geometry(read_aoi(given)).area == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json", "not GeoJSON"),
        ("[1, 2]", "no `type`"),
        (json.dumps({"type": "Topology"}), "cannot be read"),
        (json.dumps(collection()), "no geometry"),
        (json.dumps(feature(None)), "no geometry"),
        (json.dumps(polygon([])), "empty|cannot be read"),
        (json.dumps(polygon(BOWTIE)), "Self-intersection"),
        (json.dumps(polygon(METRES)), "not longitude and latitude"),
        (json.dumps({**feature(polygon(METRES)), "crs": {"properties": {"name": "EPSG:32631"}}}), "EPSG:32631"),
        (json.dumps({"type": "Point", "coordinates": [2.8, 42.3]}), "is a Point"),
        (json.dumps(polygon([[2.8, 42.3], [2.9, 42.3], [2.8, 42.3], [2.8, 42.3]])), "not a valid|no area"),
        (json.dumps(feature(polygon([["a", "b"], ["c", "d"], ["e", "f"], ["a", "b"]]))), "cannot be read"),
        ("\x00\x01", "not GeoJSON"),
    ],
)
def test_unusable_geojson(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(content)
    with pytest.raises(AOIError, match=said):
        read_aoi(path)


def test_other_unusable_areas(tmp_path: Path) -> None:
    with pytest.raises(AOIError, match="no AOI file"):
        read_aoi(tmp_path / "missing.geojson")
    with pytest.raises(AOIError, match="empty"):
        read_aoi((2.9, 42.3, 2.8, 42.4))
    with pytest.raises(AOIError, match="no CRS"):
        read_aoi(gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]))
    with pytest.raises(AOIError, match="is empty"):
        read_aoi(gpd.GeoDataFrame(geometry=[], crs=4326))
    binary = tmp_path / "image.tif"
    binary.write_bytes(b"II*\x00\xff\xfe\xfd")
    with pytest.raises(AOIError, match="not GeoJSON"):
        read_aoi(binary)


NONSENSE = [None, 5, "x", [], {}, [1], {"a": 1}, True, 1e400, float("nan"), [[]], -5, 10**400]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ([path] if path else []) + [place for key, v in inner for place in places(v, (*path, key))]


def test_nonsense_anywhere_in_geojson_is_read_or_refused(tmp_path: Path) -> None:
    whole = {
        "type": "FeatureCollection",
        "features": [feature(polygon(SQUARE), name="a", aoi_id="x")],
        "crs": {"properties": {"name": "EPSG:4326"}},
    }
    path = tmp_path / "area.geojson"
    n_refused = 0
    for place in places(whole):
        for nonsense in NONSENSE:
            document = json.loads(json.dumps(whole))
            target: Any = document
            for key in place[:-1]:
                target = target[key]
            target[place[-1]] = nonsense
            path.write_text(json.dumps(document))
            try:
                read_aoi(path)
            except AOIError:
                n_refused += 1
    assert n_refused > 100
    path.write_text("[" * 100_000)
    with pytest.raises(AOIError, match="not GeoJSON"):
        read_aoi(path)
