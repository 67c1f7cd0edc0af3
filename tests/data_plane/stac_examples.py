"""Items as providers write them: the shapes of real ones, with hosts that do not exist.

Asset keys, property names and raster metadata follow published examples and collection templates of each provider
(stactools packages, microsoft/planetary-computer-tasks, Element84/earth-search, LP DAAC's HLS); hosts are example.org.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

S2_BANDS = {
    "coastal": ("B01", 60), "blue": ("B02", 10), "green": ("B03", 10), "red": ("B04", 10), "rededge1": ("B05", 20),
    "rededge2": ("B06", 20), "rededge3": ("B07", 20), "nir": ("B08", 10), "nir08": ("B8A", 20), "nir09": ("B09", 60),
    "swir16": ("B11", 20), "swir22": ("B12", 20),
}  # fmt: skip
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def _item(item_id: str, collection: str, bbox: list[float], properties: Json, assets: Json) -> Json:
    west, south, east, north = bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": item_id, "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "bbox": bbox, "properties": properties, "links": [],
        "assets": assets,
    }  # fmt: skip


def _cog(href: str, **more: Any) -> Json:
    return {"href": href, "type": _COG, "roles": ["data"], **more}


def _picture(item_id: str) -> Json:
    """A true-colour picture that names the very bands it was made of."""
    bands = [{"name": name, "common_name": name} for name in ("red", "green", "blue")]
    bands_by_number = [{"name": name} for name in ("B04", "B03", "B02")]
    return {
        "visual": _cog(f"https://img.example.org/{item_id}/TCI.tif", **{"eo:bands": bands, "roles": ["visual"]}),
        "preview": {"href": f"https://img.example.org/{item_id}/L2A_PVI.tif", "type": _COG, "roles": ["overview"],
                    "eo:bands": bands_by_number},
    }  # fmt: skip


def pc_sentinel_2(baseline: str = "05.09") -> Json:
    """Planetary Computer: keys B01 to B12, no raster:bands, no flag, no baseline in the id."""
    item_id = "S2B_MSIL2A_20230629T212529_R043_T06VVN_20230630T001531"
    code = baseline.replace(".", "")
    assets = {
        key: _cog(f"https://s2.example.org/{item_id}.SAFE/{key}.tif", gsd=gsd, **{
            "eo:bands": [{"name": key, "common_name": common if "rededge" not in common else "rededge"}],
            "proj:shape": [109800 // gsd] * 2, "proj:transform": [gsd, 0.0, 399960.0, 0.0, -gsd, 6800040.0],
        })
        for common, (key, gsd) in S2_BANDS.items()
    }  # fmt: skip
    assets |= {"SCL": _cog(f"https://s2.example.org/{item_id}.SAFE/SCL.tif", gsd=20), **_picture(item_id)}
    properties = {
        "datetime": "2023-06-29T21:25:29.024000Z", "platform": "Sentinel-2B", "proj:epsg": 32606,
        "instruments": ["msi"], "s2:mgrs_tile": "06VVN", "constellation": "Sentinel 2", "eo:cloud_cover": 0.314306,
        "s2:datatake_id": f"GS2B_20230629T212529_032979_N{baseline}",
        "s2:product_uri": f"S2B_MSIL2A_20230629T212529_N{code}_R043_T06VVN_20230630T001531.SAFE",
        "sat:orbit_state": "descending", "s2:generation_time": "2023-06-30T00:15:31.830Z", "sat:relative_orbit": 43,
        "s2:processing_baseline": baseline,
    }  # fmt: skip
    return _item(item_id, "sentinel-2-l2a", [-148.87, 60.33, -146.81, 61.34], properties, assets)


def earth_search_sentinel_2(
    baseline: str = "05.09", *, applied: bool | None = True, offset: float | None = -0.1
) -> Json:
    """Earth Search v1: common names, JPEG 2000 originals beside the COGs, a flag, and offsets not always true."""
    item_id = "S2A_31UFU_20230701_0_L2A"
    assets: Json = {}
    for common, (number, gsd) in S2_BANDS.items():
        raster: Json = {"nodata": 0, "data_type": "uint16", "bits_per_sample": 15, "spatial_resolution": gsd}
        if offset is not None:
            raster |= {"scale": 0.0001, "offset": offset}
        bands = {"eo:bands": [{"name": common, "common_name": common}], "raster:bands": [raster]}
        assets[common] = _cog(f"https://cogs.example.org/{item_id}/{number}.tif", **bands)
        original = {"href": f"s3://originals.example.org/{item_id}/{number}.jp2", "type": "image/jp2"}
        assets[f"{common}-jp2"] = {**original, **bands, "roles": ["data", "reflectance"]}
    assets["scl"] = _cog(
        f"https://cogs.example.org/{item_id}/SCL.tif",
        **{"raster:bands": [{"nodata": 0, "data_type": "uint8", "spatial_resolution": 20}]},
    )
    code = baseline.replace(".", "")
    properties = {
        "datetime": "2023-07-01T10:46:30.262000Z", "created": "2023-07-02T01:49:17.191Z", "platform": "sentinel-2a",
        "constellation": "sentinel-2", "eo:cloud_cover": 98.9, "proj:epsg": 32631, "mgrs:utm_zone": 31,
        "mgrs:latitude_band": "U", "mgrs:grid_square": "FU", "grid:code": "MGRS-31UFU",
        "s2:processing_baseline": baseline,
        "s2:product_uri": f"S2A_MSIL2A_20230701T103631_N{code}_R008_T31UFU_20230701T200058.SAFE",
        "s2:generation_time": "2023-07-01T20:00:58.000000Z",
        "s2:datatake_id": f"GS2A_20230701T103631_041904_N{baseline}", "s2:sequence": "0",
        "earthsearch:payload_id": "roda-sentinel2/workflow/7b1a", "updated": "2023-07-02T01:49:17.191Z",
    }  # fmt: skip
    if applied is not None:
        properties["earthsearch:boa_offset_applied"] = applied
    return _item(item_id, "sentinel-2-l2a", [4.45, 51.35, 6.06, 52.35], properties, assets | _picture(item_id))


def earth_search_collection_1(*, applied: bool | None = False) -> Json:
    """Earth Search, Collection 1: baseline 05.00 of a scene of 2020, offset declared and still in the pixels."""
    item_id = "S2B_T01VCG_20200914T231931_L2A"
    raw = earth_search_sentinel_2("05.00", applied=applied)
    raw["properties"] |= {
        "datetime": "2020-09-14T23:19:31.559000Z", "platform": "sentinel-2b", "proj:code": "EPSG:32601",
        "grid:code": "MGRS-1VCG", "mgrs:utm_zone": 1, "mgrs:latitude_band": "V", "mgrs:grid_square": "CG",
        "s2:product_uri": "S2B_MSIL2A_20200914T231559_N0500_R087_T01VCG_20230315T224658.SAFE",
        "s2:tile_id": "S2B_OPER_MSI_L2A_TL_S2RP_20230315T224658_A018417_T01VCG_N05.00",
    }  # fmt: skip
    for absent in ("s2:datatake_id", "s2:generation_time", "proj:epsg"):
        del raw["properties"][absent]
    # The tile lies across the antimeridian.
    bbox = [179.2, 59.964124, -178.61551, 60.426376]
    return _item(item_id, "sentinel-2-c1-l2a", bbox, raw["properties"], raw["assets"])


def pc_landsat() -> Json:
    """Planetary Computer: Collection 2 level 2 of Landsat 8, scale and offset declared."""
    item_id = "LC08_L2SP_047027_20201204_02_T1"
    names = {"coastal": 1, "blue": 2, "green": 3, "red": 4, "nir08": 5, "swir16": 6, "swir22": 7}
    raster = [{"nodata": 0, "data_type": "uint16", "scale": 2.75e-05, "offset": -0.2, "spatial_resolution": 30}]
    assets = {
        key: _cog(f"https://landsat.example.org/{item_id}_SR_B{n}.TIF", **{
            "eo:bands": [{"name": f"OLI_B{n}", "common_name": key}], "raster:bands": raster})
        for key, n in names.items()
    }  # fmt: skip
    assets["lwir11"] = _cog(
        f"https://landsat.example.org/{item_id}_ST_B10.TIF",
        **{"raster:bands": [{"nodata": 0, "unit": "kelvin", "scale": 0.00341802, "offset": 149.0}]},
    )
    assets["qa_pixel"] = _cog(
        f"https://landsat.example.org/{item_id}_QA_PIXEL.TIF",
        **{"raster:bands": [{"nodata": 1, "data_type": "uint16", "unit": "bit index"}], "roles": ["cloud"]},
    )
    properties = {
        "datetime": "2020-12-04T19:02:11.194486Z", "platform": "landsat-8", "instruments": ["oli", "tirs"],
        "created": "2022-05-06T17:24:15.409187Z", "gsd": 30, "eo:cloud_cover": 1.55, "proj:epsg": 32610,
        "proj:shape": [7971, 7861], "proj:transform": [30.0, 0.0, 353685.0, 0.0, -30.0, 5374215.0],
        "landsat:cloud_cover_land": 1.9, "landsat:wrs_type": "2", "landsat:wrs_path": "047", "landsat:wrs_row": "027",
        "landsat:collection_category": "T1", "landsat:correction": "L2SP",
    }  # fmt: skip
    return _item(item_id, "landsat-c2-l2", [-124.9, 46.35, -121.8, 48.51], properties, assets)


def pc_hls(part: str) -> Json:
    """Planetary Computer: HLS `S30` or `L30`; nothing declared of scaling, and B05, B10 and B11 mean other things."""
    item_id = f"HLS.{part}.T31UFS.2023152T105621.v2.0"
    numbers = {
        "S30": ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"],
        "L30": ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B09", "B10", "B11"],
    }[part]
    assets = {
        key: _cog(f"https://hls.example.org/{item_id}.{key}.tif", **{"eo:bands": [{"name": key}]})
        for key in (*numbers, "Fmask", "SZA", "SAA")
    }
    if part == "L30":
        assets["B05"]["eo:bands"][0]["common_name"] = "nir"
    properties = {
        "datetime": "2023-06-01T10:56:21.000Z", "eo:cloud_cover": 12, "proj:epsg": 32631, "proj:shape": [3660, 3660],
        "proj:transform": [30.0, 0.0, 600000.0, 0.0, -30.0, 5700000.0],
        "platform": "sentinel-2a" if part == "S30" else "landsat-8", "instruments": ["msi"],
    }  # fmt: skip
    return _item(item_id, f"hls2-{part.lower()}", [4.4, 50.4, 6.0, 51.4], properties, assets)


def lpdaac_hls(part: str) -> Json:
    """LP DAAC through CMR's STAC: the same keys, another collection id, hardly any properties."""
    raw = pc_hls(part)
    raw["collection"] = f"HLS{part}_2.0"
    for key, asset in raw["assets"].items():
        del asset["eo:bands"]
        asset["href"] = f"https://lpdaac.example.org/HLS{part}.020/{raw['id']}/{raw['id']}.{key}.tif"
    raw["properties"] = {
        "datetime": "2023-06-01T10:56:21.000Z", "start_datetime": "2023-06-01T10:56:21.000Z",
        "end_datetime": "2023-06-01T10:56:21.000Z", "eo:cloud_cover": 12,
    }  # fmt: skip
    return raw


def pc_naip(*, declared: bool = True) -> Json:
    """Planetary Computer: one asset of four bands; not every item says which."""
    item_id = "ca_m_3411861_ne_11_060_20200521"
    names = (("Red", "red"), ("Green", "green"), ("Blue", "blue"), ("NIR", "nir"))
    image = _cog(f"https://naip.example.org/{item_id}.tif")
    if declared:
        image["eo:bands"] = [{"name": name, "common_name": common} for name, common in names]
    properties = {
        "datetime": "2020-05-21T00:00:00Z", "gsd": 0.6, "proj:epsg": 26911, "naip:year": "2020", "naip:state": "ca",
        "proj:shape": [12440, 10330], "providers": [{"name": "USDA Farm Service Agency"}],
    }  # fmt: skip
    assets = {
        "image": image,
        "thumbnail": {"href": f"https://naip.example.org/{item_id}.200.jpg", "roles": ["thumbnail"]},
    }
    return _item(item_id, "naip", [-118.3, 34.1, -118.2, 34.2], properties, assets)


def pc_sentinel_1() -> Json:
    """Planetary Computer: gamma nought, float32, linear; two of four polarisations."""
    item_id = "S1A_IW_GRDH_1SDV_20210809T173953_20210809T174018_039156_049F13_rtc"
    raster = [{"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0}]
    assets = {
        pol: _cog(f"https://s1.example.org/{item_id}/iw-{pol}.rtc.tiff", **{"raster:bands": raster})
        for pol in ("vv", "vh")
    }
    properties = {
        "datetime": "2021-08-09T17:40:06.123456Z", "start_datetime": "2021-08-09 17:39:53.6Z",
        "end_datetime": "2021-08-09 17:40:18.6Z", "platform": "SENTINEL-1A", "constellation": "Sentinel-1",
        "s1:datatake_id": "302867", "sat:orbit_state": "ascending", "sat:absolute_orbit": 39156,
        "sat:relative_orbit": 59, "sar:polarizations": ["VV", "VH"], "proj:epsg": 32631,
        "sar:instrument_mode": "IW",
    }  # fmt: skip
    return _item(item_id, "sentinel-1-rtc", [2.4, 50.1, 6.4, 52.0], properties, assets)


def cdse_sentinel_2() -> Json:
    """Copernicus Data Space, STAC 1.1: `bands` with the scaling beside them, and each band at several resolutions."""
    item_id = "S2C_MSIL2A_20250330T100051_N0511_R122_T33UWP_20250330T145914"
    assets: Json = {}
    for common, (number, gsd) in S2_BANDS.items():
        for pixel in sorted({gsd, 60}):
            assets[f"{number}_{pixel}m"] = {
                "href": f"s3://eodata.example.org/{item_id}.SAFE/{number}_{pixel}m.jp2", "type": "image/jp2",
                "gsd": pixel, "roles": ["data", "reflectance"], "nodata": 0, "data_type": "uint16",
                "raster:scale": 0.0001, "raster:offset": -0.1, "proj:code": "EPSG:32633",
                "bands": [{"name": number, "eo:common_name": "rededge071" if "rededge" in common else common}],
            }  # fmt: skip
    assets["SCL_20m"] = {"href": f"s3://eodata.example.org/{item_id}.SAFE/SCL_20m.jp2", "bands": [{"name": "SCL"}]}
    assets["TCI_10m"] = {"href": f"s3://eodata.example.org/{item_id}.SAFE/TCI_10m.jp2", "roles": ["visual"],
                         "bands": [{"name": b} for b in ("B04", "B03", "B02")]}  # fmt: skip
    properties = {
        "datetime": "2025-03-30T10:00:51.024000Z", "platform": "sentinel-2c", "eo:cloud_cover": 50.1,
        "processing:version": "05.11", "processing:datetime": "2025-03-30T14:59:14.000000Z",
        "sat:relative_orbit": 122, "grid:code": "MGRS-33UWP", "proj:code": "EPSG:32633",
        "eopf:datatake_id": "GS2C_20250330T100051_002943_N05.11",
    }  # fmt: skip
    return _item(item_id, "sentinel-2-l2a", [14.9, 47.7, 16.5, 48.8], properties, assets)
