"""The difficulty raster."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr

import geoelle
from geoelle.encoders.shipped import shipped_probe_folder
from geoelle.errors import NotFoundError, ProbeError, StoreError
from geoelle.mapping import load_probe
from geoelle.probe import Probe
from geoelle.provenance import digest
from geoelle.store.probes import write_probe

if TYPE_CHECKING:
    from conftest import Calibrated, Chain


def bytes_of(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def local(chain: Chain, calibrated: Calibrated) -> Path:
    """The raster by the local probe; tests leave it as it is."""
    path = chain.folder / "difficulty.zarr"
    geoelle.difficulty(chain.embeddings, out=path, probe=calibrated.probe)
    return path


@pytest.fixture
def probe(chain: Chain, calibrated: Calibrated) -> Probe:
    return load_probe(calibrated.probe, geoelle.open_store(chain.embeddings).attrs["geoelle:encoder"])


def test_values_are_the_probes(chain: Chain, local: Path, probe: Probe) -> None:
    embeddings, ds = geoelle.open_store(chain.embeddings), geoelle.open_store(local)
    assert isinstance(ds, xr.Dataset)
    for axis in ("time", "y", "x"):
        np.testing.assert_array_equal(ds[axis].values, embeddings[axis].values)
    for i in range(ds.sizes["time"]):
        scores = probe.predict_with_error(embeddings["embedding"].isel(time=i).values)
        np.testing.assert_array_equal(ds["difficulty"][i], scores.difficulty)
        np.testing.assert_array_equal(ds["difficulty_se"][i], scores.difficulty_se)
        np.testing.assert_array_equal(ds["support"][i], scores.support)


def test_nan_where_there_is_no_embedding(chain: Chain, local: Path) -> None:
    embeddings, ds = geoelle.open_store(chain.embeddings), geoelle.open_store(local)
    done = embeddings["status"].values == 1
    assert 0 < done.sum() < done.size
    np.testing.assert_array_equal(np.isfinite(ds["difficulty"].values), done)
    np.testing.assert_array_equal(np.isfinite(ds["difficulty_se"].values), done)
    np.testing.assert_array_equal(ds["support"].values != 255, done)
    assert (ds["difficulty_se"].values[done] > 0).all()


def test_attributes_say_where_it_comes_from(chain: Chain, local: Path, probe: Probe) -> None:
    attrs = geoelle.open_store(local, "difficulty").attrs
    assert attrs["geoelle:probe_origin"] == "local"
    assert attrs["geoelle:probe_digest"] == attrs["geoelle:probe"]["digest"] == probe.digest
    assert attrs["geoelle:encoder"]["weights_sha256"] == probe.meta.weights_sha256
    assert attrs["geoelle:simulated"] is True
    assert len(attrs["geoelle:scenes"]) == 6
    assert attrs["proj:code"] == "EPSG:32631"
    assert "spatial:transform" in attrs
    assert "multiscales" in attrs


def test_gdal_opens_it(local: Path) -> None:
    ds = geoelle.open_store(local)
    for name in ("difficulty", "difficulty_se", "support"):
        with rasterio.open(f'ZARR:"{local}":/{name}') as raster:
            assert raster.crs.to_epsg() == 32631
            assert raster.count == ds.sizes["time"]
            assert raster.shape == (ds.sizes["y"], ds.sizes["x"])
            assert raster.transform.a == -raster.transform.e == 160
            x, y = raster.transform * (0.5, 0.5)
            assert (x, y) == (float(ds["x"][0]), float(ds["y"][0]))
            np.testing.assert_array_equal(raster.read(), ds[name].values)


def test_without_a_probe_it_is_the_cold_start(chain: Chain, tmp_path: Path) -> None:
    ds = geoelle.difficulty(chain.embeddings, out=tmp_path / "d.zarr")
    shipped = load_probe(shipped_probe_folder("compact-rgb", 32), ds.attrs["geoelle:encoder"])
    assert ds.attrs["geoelle:probe_origin"] == ds.attrs["geoelle:probe"]["origin"] == "shipped"
    assert ds.attrs["geoelle:probe_digest"] == shipped.digest
    first = geoelle.open_store(chain.embeddings)["embedding"][0].values
    np.testing.assert_array_equal(ds["difficulty"][0], shipped.predict(first))


def test_unchanged_is_left_alone_and_another_probe_is_not(
    chain: Chain, local: Path, probe: Probe, tmp_path: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in local.rglob("*")}
    geoelle.difficulty(chain.embeddings, out=local, probe=probe)
    assert {p: p.stat().st_mtime_ns for p in local.rglob("*")} == before
    again = tmp_path / "again.zarr"
    geoelle.difficulty(chain.embeddings, out=again, probe=probe)
    assert bytes_of(again) == bytes_of(local)
    other = dataclasses.replace(probe, intercept=probe.intercept + 1)
    ds = geoelle.difficulty(chain.embeddings, out=again, probe=other)
    np.testing.assert_allclose(ds["difficulty"], geoelle.open_store(local)["difficulty"].values + 1, rtol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["again.zarr"]


def test_what_the_map_shows_follows_the_embeddings(chain: Chain, probe: Probe, tmp_path: Path) -> None:
    """The area's name is in no job's digest, and still it is what people read."""
    shutil.copytree(chain.embeddings, tmp_path / "e.zarr")
    geoelle.difficulty(tmp_path / "e.zarr", out=tmp_path / "d.zarr", probe=probe)
    root = zarr.open_group(tmp_path / "e.zarr", mode="r+")
    root.attrs["geoelle:attribution"] = "Someone else"
    ds = geoelle.difficulty(tmp_path / "e.zarr", out=tmp_path / "d.zarr", probe=probe)
    assert ds.attrs["geoelle:attribution"] == "Someone else"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": "another"}, "encoder compact-rgb where the probe has another"),
        ({"weights_sha256": "0" * 64}, "weights sha256"),
        ({"bands": ("red", "green", "nir")}, "bands red,green,blue where the probe has red,green,nir"),
        ({"chip_size_px": 64}, "chip size in px 32 where the probe has 64"),
    ],
)
def test_a_probe_for_other_embeddings_is_refused(
    chain: Chain, local: Path, probe: Probe, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    before = bytes_of(local)
    wrong = dataclasses.replace(probe, meta=dataclasses.replace(probe.meta, **changes))  # type: ignore[arg-type]
    write_probe(tmp_path / "probe", *wrong.to_arrays())
    with pytest.raises(ProbeError, match=said):
        geoelle.difficulty(chain.embeddings, out=local, probe=tmp_path / "probe")
    assert bytes_of(local) == before


def test_a_probe_of_other_chips_is_refused(chain: Chain, local: Path, probe: Probe, tmp_path: Path) -> None:
    """The same with chips that really have another size."""
    records = geoelle.search(
        chain.scenes.aoi, catalog=chain.scenes.catalog, collections=[chain.scenes.collection], start="2021-03-01",
        end="2021-03-31",
    )  # fmt: skip
    geoelle.embed(records, aoi=chain.scenes.aoi, out=tmp_path / "e.zarr", chip_size_m=640, stride_m=640)
    before = bytes_of(local)
    with pytest.raises(ProbeError, match="chip size in px 64 where the probe has 32"):
        geoelle.difficulty(tmp_path / "e.zarr", out=local, probe=probe)
    assert bytes_of(local) == before


def test_what_is_no_difficulty_store_is_not_replaced(chain: Chain, probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("years")
    for target in (tmp_path / "mine", tmp_path / "file", chain.embeddings):
        before = bytes_of(target) if target.is_dir() else {}
        with pytest.raises(StoreError, match="in the way"):
            geoelle.difficulty(chain.embeddings, out=target, probe=probe)
        assert not before or bytes_of(target) == before
    assert (tmp_path / "file").read_text() == "years"


def test_nothing_there(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no store at .*nowhere"):
        geoelle.difficulty(tmp_path / "nowhere", out=tmp_path / "d.zarr")
    with pytest.raises(NotFoundError, match="no probe in"):
        geoelle.difficulty(chain.embeddings, out=tmp_path / "d.zarr", probe=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_the_config_s_digest_goes_with_every_store(chain: Chain, local: Path) -> None:
    for path in (chain.embeddings, local):
        attrs = geoelle.open_store(path).attrs
        assert attrs["geoelle:config_digest"] == digest(attrs["geoelle:config"])
