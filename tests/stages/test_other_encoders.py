"""The chain with encoders other than the shipped one: other sensors, units, pixel sizes, poolings, kinds of loss."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from plain_encoders import FEEDS, REGISTERED, SIDE_PX, plain_card
from pyproj import Transformer
from scene_files import smooth_noise, write_geotiff
from typer.testing import CliRunner

import geoelle
from geoelle.catalog import items_frame, write_items
from geoelle.catalog.parsing import parse_item
from geoelle.choosing import find_weights
from geoelle.cli import main
from geoelle.cli.options import app
from geoelle.embedding import embed
from geoelle.encoders import Variant, get_card, register, unregister
from geoelle.encoders.options import EncoderOptions
from geoelle.errors import (
    ConfigError,
    EncoderInputError,
    ProbeError,
    StoreError,
    UnknownEncoderError,
    WeightsError,
)
from geoelle.inspecting import inspect
from geoelle.jobs import cached_encoder, encoder_of
from geoelle.records import ItemRecord
from geoelle.sensors import get_sensor
from geoelle.simulate import Simulation
from geoelle.store import open_store
from geoelle.store.quantised import read_embedding

assert main  # registers the verbs
LEFT, TOP, EPSG = 500_160.0, 5_700_480.0, 32631
N_PX = 96


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    for name, entry in REGISTERED.items():
        register(name, **entry)
    yield
    for name in REGISTERED:
        unregister(name)


def pixels_of(sensor: str, band: str) -> NDArray[Any]:
    """Numbers as the files of a sensor hold them."""
    rng = np.random.default_rng(sum(f"{sensor}{band}".encode()))
    numbers = smooth_noise(rng, N_PX, low=300, high=3000)
    if sensor == "sentinel-1-rtc":
        return (numbers * 1e-4).astype(np.float32)
    return (numbers * (255 / 4000)).astype(np.uint8) if sensor == "naip" else numbers.astype(np.int16)


def item_of(folder: Path, sensor: str, name: str, bands: tuple[str, ...] | None = None, step: float = 0) -> ItemRecord:
    """One item of a sensor, 96 px wide, with a file for each band and no quality layer."""
    step = step or FEEDS[sensor][2]
    assets = {}
    for band in bands or FEEDS[sensor][0]:
        path = folder / f"{name}_{band}.tif"
        write_geotiff(path, pixels_of(sensor, band), left=LEFT, top=TOP, step=step, block_px=32)
        key = get_sensor(sensor).band(band).aliases[0]
        scaling = {"scale": 1e-4, "offset": 0} if sensor == "hls-s30" else {}
        assets[key] = {"href": path.as_posix(), "raster:bands": [{"spatial_resolution": step, **scaling}]}
    edge = N_PX * step
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(
        [LEFT, LEFT + edge, LEFT, LEFT + edge], [TOP, TOP, TOP - edge, TOP - edge]
    )
    box = (min(lon), min(lat), max(lon), max(lat))
    record = parse_item(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "c", "links": [], "assets": assets,
            "geometry": shapely.geometry.mapping(shapely.box(*box)), "bbox": list(box),
            "properties": {"datetime": "2022-06-04T10:36:21Z", "proj:epsg": EPSG},
        },
        get_sensor(sensor),
    )  # fmt: skip
    assert record is not None
    return record


def run(items: list[ItemRecord], out: Path, **options: Any) -> Any:
    asked: dict[str, Any] = {"tile_chips": 2, "encoder": "plain"}
    return embed(items_frame(items), out=out, **asked | options)


# --- sensors, units, pixel sizes


@pytest.mark.parametrize("sensor", list(FEEDS))
def test_the_variant_for_the_items_sensor_is_taken(sensor: str, tmp_path: Path) -> None:
    bands, units, gsd_m = FEEDS[sensor]
    ds = run([item_of(tmp_path, sensor, "a")], tmp_path / "e.zarr", chip_size_m=32 * gsd_m, stride_m=32 * gsd_m)
    name = "plain" if sensor == "sentinel-2-l2a" else f"plain:{sensor}"
    encoder = ds.attrs["geoelle:encoder"]
    assert (encoder["name"], encoder["bands"], encoder["gsd_m"]) == (name, list(bands), gsd_m)
    assert encoder["trained_gsd_m"] == [gsd_m]
    assert ds["contrast"].attrs["units"] == units
    done = np.argwhere(ds["status"].values == geoelle.schema.DONE)
    assert len(done) >= 4
    _, row, column = done[len(done) // 2]
    physical = np.stack([physical_of(sensor, band) for band in bands])
    x, y = float(ds["x"][column]), float(ds["y"][row])
    top, left = round((TOP - y) / gsd_m) - SIDE_PX // 2, round((x - LEFT) / gsd_m) - SIDE_PX // 2
    mean, std = get_card(name).mean[0], get_card(name).std[0]
    chip = (physical[:, top : top + SIDE_PX, left : left + SIDE_PX] - mean) / std
    expected = np.concatenate([chip.mean(axis=(1, 2)), chip.std(axis=(1, 2))])
    np.testing.assert_allclose(read_embedding(ds, 0)[row, column], expected, rtol=1e-3, atol=1e-4)


def physical_of(sensor: str, band: str) -> NDArray[np.float64]:
    """What the encoder has to see: reflectance, dB, digital numbers."""
    numbers = pixels_of(sensor, band).astype(np.float64)
    if sensor == "sentinel-1-rtc":
        return 10 * np.log10(numbers)
    return numbers if sensor == "naip" else numbers * 1e-4


def test_radar_needs_no_cloud_mask_and_a_camera_lacks_one(tmp_path: Path) -> None:
    radar = run([item_of(tmp_path, "sentinel-1-rtc", "r")], tmp_path / "r.zarr", chip_size_m=320, stride_m=320)
    assert radar.attrs["geoelle:masks"] == {"2022-06-04": "not needed"}
    assert radar.attrs["geoelle:summary"]["mask_sources"] == ("not needed",)
    camera = run([item_of(tmp_path, "naip", "n")], tmp_path / "n.zarr", chip_size_m=32, stride_m=32)
    assert camera.attrs["geoelle:masks"] == {"2022-06-04": "none"}


def test_another_pixel_size_is_by_name_and_said(tmp_path: Path) -> None:
    item = item_of(tmp_path, "sentinel-2-l2a", "a")
    ds = run([item], tmp_path / "e.zarr", encoder="plain@20m", chip_size_m=640, stride_m=320)
    assert ds.attrs["geoelle:encoder"]["name"] == "plain@20m"
    assert ds.attrs["geoelle:encoder"]["gsd_m"] == 20
    assert ds.attrs["geoelle:native_gsd_m"] == 10
    assert ds.attrs["geoelle:encoder_notes"] == ["Read at 20 m; the encoder was trained at 10 m."]
    rows = inspect(tmp_path / "e.zarr").tables()["Store"][1]
    assert any(name == "encoder_notes" and "trained at 10 m" in said for name, said in rows)
    radar = run([item_of(tmp_path, "sentinel-1-rtc", "r")], tmp_path / "r.zarr", encoder="plain@20m", chip_size_m=640,
                stride_m=640)  # fmt: skip
    assert radar.attrs["geoelle:encoder"]["name"] == "plain:sentinel-1-rtc@20m"


def test_items_that_cannot_feed_the_encoder_are_refused_with_what_could(tmp_path: Path) -> None:
    radar, optical = item_of(tmp_path, "sentinel-1-rtc", "r"), item_of(tmp_path, "sentinel-2-l2a", "o")
    vv = item_of(tmp_path, "sentinel-1-rtc", "only-vv", ("vv",))
    landsat = item_of(tmp_path, "landsat-c2-l2", "l", ("red",), step=30)
    sees = r"plain takes sentinel-2-l2a, sentinel-1-rtc \(as plain:sentinel-1-rtc\), naip"
    several = plain_card(Variant(), "three-dates", n_steps=(3,))
    register("three-dates", card=lambda variant: several, factory="plain_encoders:load_plain")
    cases: list[tuple[list[ItemRecord], str, str]] = [
        ([radar], "compact-rgb", r"of sentinel-1-rtc. compact-rgb takes sentinel-2-l2a.*plain:sentinel-1-rtc"),
        ([landsat], "plain", f"of landsat-c2-l2. {sees}.*(no encoder here|pick one that) takes landsat-c2-l2"),
        ([radar], "plain:naip", "of sentinel-1-rtc. plain:naip takes"),
        ([radar, optical], "plain", "of sentinel-1-rtc and sentinel-2-l2a. Expected one sensor"),
        ([vv], "plain", "1 of 1 items, only-vv among them, lack the bands vh.*search a collection that has them"),
        ([radar, vv], "plain", r"1 of 2 items.*--band vh` leaves such items out"),
        ([optical], "three-dates", "takes 3 dates per chip"),
    ]
    try:
        for items, encoder, said in cases:
            with pytest.raises(EncoderInputError, match=said):
                run(items, tmp_path / "e.zarr", encoder=encoder, chip_size_m=320)
    finally:
        unregister("three-dates")
    for size, said in ((330, "33 px of 10 m.*320 m"), (100.5, "10.05 px")):
        with pytest.raises(EncoderInputError, match=rf"{said}.*set chip_size_m"):
            run([optical], tmp_path / "e.zarr", chip_size_m=size)
    with pytest.raises(UnknownEncoderError):
        run([optical], tmp_path / "e.zarr", encoder="plane")
    assert not (tmp_path / "e.zarr").exists()


def test_items_without_a_band_asked_for_are_left_out(tmp_path: Path) -> None:
    both, vv = item_of(tmp_path, "sentinel-1-rtc", "both"), item_of(tmp_path, "sentinel-1-rtc", "only-vv", ("vv",))
    catalog = write_items([both, vv], tmp_path / "all.parquet", {})
    asked: dict[str, Any] = {
        "catalog": catalog, "start": "2022-01-01", "end": "2022-12-31", "sensor": "sentinel-1-rtc",
    }  # fmt: skip
    found = geoelle.search(both.bbox, **asked, bands=["vv", "VH"], out=tmp_path / "items.parquet")
    assert list(found["id"]) == ["both"]
    assert "1 without a band asked for" in found.attrs["geoelle:filters"]
    assert len(geoelle.search(both.bbox, **asked)) == 2
    with pytest.raises(geoelle.GeoelleError, match="no band 'red'"):
        geoelle.search(both.bbox, **asked, bands=["red"])
    with pytest.raises(ConfigError, match="bands is the text"):
        geoelle.search(both.bbox, **asked, bands="vv")


# --- options


def test_options_that_an_encoder_does_not_know_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    item = item_of(tmp_path, "sentinel-2-l2a", "a")
    for options, said in (
        ({"precision": "bf16"}, "no option 'precision'"),
        ({"weights": tmp_path}, "no option 'weights'"),
        ({"pooling": "max"}, "no pooling 'max'. Expected one of mean, wide"),
        ({"layer": 3}, "no layer 3"),
    ):
        with pytest.raises(EncoderInputError, match=said):
            run([item], tmp_path / "e.zarr", chip_size_m=320, **options)
    assert not (tmp_path / "e.zarr").exists()


def test_a_pooling_is_part_of_what_a_store_is(tmp_path: Path) -> None:
    item = item_of(tmp_path, "sentinel-2-l2a", "a")
    ds = run([item], tmp_path / "wide.zarr", chip_size_m=320, stride_m=320, pooling="wide")
    assert ds.sizes["feature"] == 9
    assert ds.attrs["geoelle:encoder"]["pooling"] == "wide"
    assert ds.attrs["geoelle:encoder"]["n_features"] == 9
    again = run([item], tmp_path / "wide.zarr", chip_size_m=320, stride_m=320, pooling="wide")
    assert again.attrs["geoelle:summary"]["n_done"] == 0
    with pytest.raises(StoreError, match="another encoder"):
        run([item], tmp_path / "wide.zarr", chip_size_m=320, stride_m=320)
    own = run([item], tmp_path / "own.zarr", chip_size_m=320, stride_m=320, pooling="mean")
    assert "pooling" not in own.attrs["geoelle:encoder"], "the card's own choice is no choice"


@pytest.mark.long
def test_workers_in_other_processes_open_what_was_registered_here(tmp_path: Path) -> None:
    item = item_of(tmp_path, "sentinel-2-l2a", "a")
    one = run([item], tmp_path / "one.zarr", chip_size_m=320, stride_m=320)
    two = run([item], tmp_path / "two.zarr", chip_size_m=320, stride_m=320, workers=2)
    assert two.attrs["geoelle:summary"]["n_failed"] == 0
    np.testing.assert_array_equal(read_embedding(one, 0), read_embedding(two, 0))


def test_a_worker_needs_no_registration(tmp_path: Path) -> None:
    options = find_weights(get_card("plain:naip"), EncoderOptions())[1]
    options = pickle.loads(pickle.dumps(options))
    entry = REGISTERED["plain"]
    unregister("plain")
    try:
        cached_encoder.cache_clear()
        assert encoder_of(plain_card(Variant("naip")), 1, options).card.name == "plain:naip"
        with pytest.raises(WeightsError, match=r"This worker's weights of plain .*same file"):
            encoder_of(plain_card(Variant(), weights_sha256="00" * 32), 1, options)
    finally:
        register("plain", **entry)


# --- kinds of loss


@dataclass(frozen=True)
class Chain:
    """A run of every stage with one encoder."""

    folder: Path
    said: str
    """What the command line printed."""

    def path(self, name: str) -> Path:
        return self.folder / name


def chain_of(scenes: Simulation, folder: Path, encoder: str, stride_m: int = 160, n_stages: int = 6) -> Chain:
    geoelle.search(
        scenes.aoi, catalog=scenes.catalog, collections=[scenes.collection], start="2021-01-01", end="2021-12-31",
        out=folder / "items.parquet",
    )  # fmt: skip
    e, d, x = (str(folder / f"{name}.zarr") for name in ("embeddings", "difficulty", "delta"))
    items, probe, alerts = (str(folder / name) for name in ("items.parquet", "probe", "alerts.parquet"))
    runs = (
        ["embed", items, "--aoi", str(scenes.aoi), "--out", e, "--encoder", encoder, "--chip-size-m", "320",
         "--stride-m", str(stride_m)],
        ["calibrate", e, "--items", items, "--out", probe, "--n", "120", "--block-size-m", "640", "--allow-few"],
        ["difficulty", e, "--out", d, "--probe", probe],
        ["delta", d, "--out", x, "--alerts", alerts, "--min-looks", "2", "--alert-z", "0.5"],
        ["inspect", d],
        ["export", d, x, "--out", str(folder / "exports")],
    )  # fmt: skip
    said = []
    for arguments in runs[:n_stages]:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        said.append(done.output)
    return Chain(folder, "\n".join(said))


@pytest.fixture(scope="module")
def proxy(scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return chain_of(scenes, tmp_path_factory.mktemp("proxy"), "plain-proxy")


def test_a_loss_without_masks_can_be_calibrated_and_claims_no_ceiling(proxy: Chain) -> None:
    pairs = gpd.read_parquet(proxy.path("pairs.parquet"))
    found = pairs.attrs["geoelle:calibration"]
    assert found["fitted"]
    assert (pairs["n_masks"] == 1).all()
    assert pairs["loss_sd"].isna().all()
    assert np.isnan(found["reliability"])
    assert np.isnan(found["ceiling"])
    assert "draws no mask" in found["why_no_ceiling"]
    assert "no ceiling of r is claimed: the loss draws no mask" in proxy.said
    one = geoelle.calibrate(
        proxy.path("embeddings.zarr"), items=proxy.path("items.parquet"), out=proxy.path("again"), n=20, masks=1,
        block_size_m=640, allow_few=True, pairs_out=proxy.path("again.parquet"),
    )  # fmt: skip
    assert (one["n_masks"] == 1).all()


def test_a_masked_loss_still_asks_for_two_masks(scenes: Simulation, proxy: Chain, tmp_path: Path) -> None:
    embed(
        proxy.path("items.parquet"), out=tmp_path / "e.zarr", aoi=scenes.aoi, encoder="plain", chip_size_m=320,
        stride_m=320,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"masks 1.*at least 2"):
        geoelle.calibrate(tmp_path / "e.zarr", items=proxy.path("items.parquet"), out=tmp_path / "probe", masks=1)


def test_a_probe_fits_no_other_pooling(scenes: Simulation, proxy: Chain, tmp_path: Path) -> None:
    stores = {}
    for pooling in ("mean", "wide"):
        stores[pooling] = tmp_path / f"{pooling}.zarr"
        embed(
            proxy.path("items.parquet"), out=stores[pooling], aoi=scenes.aoi, encoder="plain", chip_size_m=320,
            stride_m=320, pooling=pooling,
        )  # fmt: skip
    geoelle.calibrate(
        stores["wide"], items=proxy.path("items.parquet"), out=tmp_path / "probe", n=60, masks=2, block_size_m=640,
        allow_few=True,
    )  # fmt: skip
    assert geoelle.difficulty(stores["wide"], out=tmp_path / "d.zarr", probe=tmp_path / "probe")
    with pytest.raises(ProbeError, match="pooling as the card says where the probe has wide"):
        geoelle.difficulty(stores["mean"], out=tmp_path / "no.zarr", probe=tmp_path / "probe")


def test_the_word_proxy_is_wherever_the_figures_are(proxy: Chain) -> None:
    for line in ("Calibration:", "Difficulty:", "Delta:"):
        (said,) = [text for text in proxy.said.splitlines() if text.startswith(line)]
        assert "proxy" in said, said
    assert "proxy: 1 - cosine of the chip's brightness with grey." in proxy.said, "inspect"
    difficulty, delta = (open_store(proxy.path(f"{name}.zarr")) for name in ("difficulty", "delta"))
    assert difficulty.attrs["geoelle:probe"]["loss_kind"] == "proxy"
    assert difficulty.attrs["geoelle:encoder"]["loss_kind"] == "proxy"
    assert delta.attrs["geoelle:encoder"]["loss_kind"] == "proxy"
    for name in ("difficulty", "difficulty_se"):
        assert difficulty[name].attrs["units"] == "proxy loss"
        assert "proxy for the pretraining loss" in difficulty[name].attrs["long_name"]
    assert delta["delta"].attrs["units"] == "proxy loss"
    assert (gpd.read_parquet(proxy.path("alerts.parquet"))["loss_kind"] == "proxy").all()
    assert '"loss_kind": "proxy"' in proxy.path("alerts.geojson").read_text()


def test_exports_say_proxy(proxy: Chain) -> None:
    catalog = pystac.Catalog.from_file(str(proxy.path("exports") / "catalog.json"))
    for kind in ("difficulty", "delta"):
        collection = catalog.get_child(kind)
        assert isinstance(collection, pystac.Collection)
        assert "proxy for the pretraining loss" in collection.description
        assert collection.summaries.get_list("geoelle:loss_kind") == ["proxy"]
        for item in collection.get_items():
            assert item.properties["geoelle:loss_kind"] == "proxy"
            assert "proxy" in item.properties["processing:lineage"]
            with rasterio.open(item.assets[kind].get_absolute_href()) as raster:
                assert raster.tags()["GEOELLE_LOSS_KIND"] == "proxy"
                assert raster.units[0] == "proxy loss"


def test_a_table_of_embeddings_says_proxy(proxy: Chain, tmp_path: Path) -> None:
    stores = [proxy.path("embeddings.zarr"), proxy.path("difficulty.zarr")]
    summary = geoelle.export(stores, out=tmp_path, formats=["geoparquet"], dates=[("2021-03-10", "2021-03-10")])
    (table,) = [path for path in summary.files if path.suffix == ".parquet"]
    metadata = pq.read_metadata(table).metadata
    assert b'"geoelle:loss_kind":"proxy"' in metadata[b"geoelle:provenance"]


def test_the_map_says_proxy(proxy: Chain, tmp_path: Path) -> None:
    stores = [open_store(proxy.path(f"{name}.zarr")).load() for name in ("difficulty", "delta")]
    drawn = geoelle.map(
        stores[0], delta=stores[1], alerts=gpd.read_parquet(proxy.path("alerts.parquet")), out=tmp_path / "map.html",
        cache_dir=tmp_path / "none", allow_npm=False,
    )  # fmt: skip
    text = drawn.path.read_text()
    for said in (
        "LOSS: PROXY", "Loss: proxy.", "Predicted proxy for the pretraining loss.", "[proxy loss]",
        "1 - cosine of the chip&#x27;s brightness with grey.",
    ):  # fmt: skip
        assert said in text, said
    assert drawn.n_alerts > 0
    assert text.count("proxy: not the encoder") >= 1 + drawn.n_alerts_shown, "in the panel and in every popup"
    assert any("proxy" in note for note in drawn.notes)


def test_own_partial_says_what_is_left_out(scenes: Simulation, proxy: Chain, tmp_path: Path) -> None:
    done = chain_of(scenes, tmp_path, "plain-partial", stride_m=320, n_stages=3)
    assert "own-partial" in done.said
    tables = inspect(tmp_path / "difficulty.zarr").tables()
    assert ("loss", "own-partial: Mean squared distance of the hidden patches, without the teacher's term.") in tables[
        "Store"
    ][1]
    drawn = geoelle.map(
        open_store(tmp_path / "difficulty.zarr").load(), out=tmp_path / "map.html", cache_dir=tmp_path / "none",
        allow_npm=False,
    )  # fmt: skip
    text = drawn.path.read_text()
    assert "LOSS: OWN-PARTIAL" in text
    assert "left out. Mean squared distance of the hidden patches, without the teacher&#x27;s term." in text
    assert "[encoder loss (own-partial)]" in text
