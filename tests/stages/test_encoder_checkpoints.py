"""The chain with an encoder whose weights are a file of the user's: found once, recorded, never mixed up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import geoelle
from geoelle.embedding import embed
from geoelle.encoders import checkpoints, register, unregister
from geoelle.errors import EncoderInputError, ProbeError, StoreError, WeightsError
from geoelle.jobs import cached_encoder
from geoelle.provenance import file_sha256
from geoelle.records import EmbedSummary
from geoelle.simulate import Simulation
from geoelle.store import open_store
from geoelle.updating import update

tiny_torch = pytest.importorskip("tiny_torch")
pytestmark = pytest.mark.models
SIZES: dict[str, Any] = {"chip_size_m": 320, "stride_m": 320, "tile_chips": 4}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(checkpoints._CHECKPOINTS, "tiny", tiny_torch.CHECKPOINT)
    register("tiny", card=tiny_torch.tiny_card, factory="tiny_torch:load_tiny")
    cached_encoder.cache_clear()
    yield
    unregister("tiny")
    cached_encoder.cache_clear()


@pytest.fixture(scope="module")
def items(scenes: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items") / "items.parquet"
    geoelle.search(
        scenes.aoi, catalog=scenes.catalog, collections=[scenes.collection], start="2021-03-01", end="2021-04-30",
        out=path,
    )  # fmt: skip
    return path


def run(items: Path, scenes: Simulation, out: Path, **options: Any) -> Any:
    asked: dict[str, Any] = {"encoder": "tiny", "accept_license": True, **SIZES, **options}
    return embed(items, out=out, aoi=scenes.aoi, **asked)


def test_the_weights_are_in_the_stores_identity(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    weights = tiny_torch.write_weights(tmp_path / "mine.pt", 1)
    ds = run(items, scenes, tmp_path / "e.zarr", weights=weights)
    encoder = ds.attrs["geoelle:encoder"]
    assert encoder["weights_sha256"] == file_sha256(weights)
    assert ds.sizes["feature"] == encoder["n_features"] == tiny_torch.WIDTH
    assert ds.attrs["geoelle:config"]["device"] == "auto"
    assert ds.attrs["geoelle:config"]["precision"] == "float32"
    notes = ds.attrs["geoelle:encoder_notes"]
    assert "It was trained on nothing." in notes
    assert any("never run with this encoder's published weights" in note for note in notes)
    cached_encoder.cache_clear()
    again = run(items, scenes, tmp_path / "e.zarr", weights=tmp_path / "mine.pt")
    assert again.attrs["geoelle:summary"]["n_done"] == 0
    assert cached_encoder.cache_info().currsize == 0, "where nothing is to be done, no network is built"
    other = tiny_torch.write_weights(tmp_path / "other.pt", 2)
    with pytest.raises(StoreError, match="another encoder: weights_sha256"):
        run(items, scenes, tmp_path / "e.zarr", weights=other)
    with pytest.raises(StoreError, match="another config: precision 'float32'"):
        run(items, scenes, tmp_path / "e.zarr", weights=weights, precision="bf16")


def test_without_weights_or_consent_nothing_is_written(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    weights = tiny_torch.write_weights(tmp_path / "mine.pt", 1)
    with pytest.raises(WeightsError, match="tiny"):
        run(items, scenes, tmp_path / "e.zarr", weights=tmp_path / "nothing.pt")
    with pytest.raises(WeightsError, match=r"CC-BY-NC-4\.0"):
        run(items, scenes, tmp_path / "e.zarr", weights=weights, accept_license=False)
    with pytest.raises(EncoderInputError, match="precision is 'int4'"):
        run(items, scenes, tmp_path / "e.zarr", weights=weights, precision="int4")
    assert not (tmp_path / "e.zarr").exists()


def test_the_loss_is_of_the_same_weights(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    weights = tiny_torch.write_weights(tmp_path / "mine.pt", 1)
    store = tmp_path / "e.zarr"
    run(items, scenes, store, weights=weights)
    asked: dict[str, Any] = {
        "items": items, "n": 40, "masks": 2, "block_size_m": 640, "allow_few": True, "accept_license": True,
    }  # fmt: skip
    with pytest.raises(StoreError, match="made by another version of tiny: weights_sha256"):
        geoelle.calibrate(
            store, out=tmp_path / "no", weights=tiny_torch.write_weights(tmp_path / "other.pt", 2), **asked
        )
    pairs = geoelle.calibrate(store, out=tmp_path / "probe", weights=weights, **asked)
    assert pairs.attrs["geoelle:calibration"]["fitted"]
    assert pairs.attrs["geoelle:encoder"]["weights_sha256"] == file_sha256(weights)
    difficulty = geoelle.difficulty(store, out=tmp_path / "d.zarr", probe=tmp_path / "probe")
    assert difficulty.attrs["geoelle:probe_origin"] == "local"


def test_weights_without_a_decoder_embed_but_have_no_loss(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    weights = tiny_torch.write_weights(tmp_path / "half.pt", 1, with_decoder=False)
    ds = run(items, scenes, tmp_path / "e.zarr", weights=weights)
    assert ds.attrs["geoelle:encoder"]["loss_kind"] == "unavailable"
    assert ds.attrs["geoelle:encoder"]["loss_definition"] == "None: the file has no decoder."
    with pytest.raises(ProbeError, match="has no loss"):
        geoelle.calibrate(
            tmp_path / "e.zarr", items=items, out=tmp_path / "probe", weights=weights, accept_license=True
        )


def test_layers_and_poolings_are_read_as_asked(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    weights = tiny_torch.write_weights(tmp_path / "mine.pt", 1)
    ds = run(items, scenes, tmp_path / "wide.zarr", weights=weights, pooling="wide", layer=1)
    assert ds.sizes["feature"] == 2 * tiny_torch.WIDTH
    encoder = ds.attrs["geoelle:encoder"]
    assert (encoder["pooling"], encoder["layer"], encoder["n_features"]) == ("wide", 1, 16)
    with pytest.raises(EncoderInputError, match=r"no layer 2\. Expected 0 to 1"):
        run(items, scenes, tmp_path / "no.zarr", weights=weights, layer=2)


def test_update_and_run_find_the_weights(items: Path, scenes: Simulation, tmp_path: Path) -> None:
    weights = tiny_torch.write_weights(tmp_path / "mine.pt", 1)
    config = {
        "name": "tiny", "aoi": str(scenes.aoi), "out": "out",
        "search": {"catalog": str(scenes.catalog), "collections": [scenes.collection], "start": "2021-03-01",
                   "end": "2021-05-31", "bands": ["red", "B02"]},
        "embed": {"encoder": "tiny", "weights": "mine.pt", "accept_license": True, "pooling": "mean", **SIZES},
        "calibrate": {"n": 40, "masks": 2, "block_size_m": 640, "allow_few": True},
        "delta": {"min_looks": 2},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    summary = geoelle.run(tmp_path / "run.yaml")
    assert summary.calibration.fitted
    store = summary.folder / "embeddings.zarr"
    assert open_store(store).attrs["geoelle:encoder"]["weights_sha256"] == file_sha256(weights)
    found = update(
        store, items=summary.folder / "items.parquet", end="2021-06-30", weights=weights, accept_license=True
    )
    assert len(found.new) == 1
    assert isinstance(found.embedding, EmbedSummary)
    assert found.embedding.n_done > 0
    assert found.embedding.n_failed == 0
    assert open_store(store).attrs["geoelle:encoder"]["pooling"] == "mean"
