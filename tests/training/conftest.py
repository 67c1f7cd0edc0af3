"""A small stock in the formats of the real one: packed chips with texture of three kinds, scenes, a short series."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from geoelle.training.batches import Stock
from geoelle.training.stock import HeldOut, StockPaths, read_stock

MS_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
SCENE_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
HELD = {"held_out_per_class": 5, "held_out_chips": 5, "held_out_scenes": 5}


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 chips of 64 px in 3 classes as an .npz of JPEGs."""
    rng = np.random.default_rng(0)
    parts, label = [], []
    for i in range(60):
        coarse = rng.uniform(40, 200, (2 ** (1 + i % 3), 2 ** (1 + i % 3), 3))
        chip = np.kron(coarse, np.ones((64 // coarse.shape[0], 64 // coarse.shape[0], 1)))
        chip = np.clip(chip + rng.normal(0, 5 + i % 7, chip.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(chip).save(buffer, format="JPEG")
        parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
        label.append(i % 3)
    path = tmp_path_factory.mktemp("data") / "chips.npz"
    np.savez(
        path,
        jpeg=np.concatenate(parts),
        offsets=np.concatenate([[0], np.cumsum([len(part) for part in parts])]),
        label=np.array(label, np.uint8),
        name=np.array([f"Class{k}_{i}.jpg" for i, k in enumerate(label)]),
        classes=np.array(["Class0", "Class1", "Class2"]),
    )
    return path


def _field(rng: np.random.Generator, bands: int, side: int, cell: int) -> np.ndarray:
    """Digital numbers with cells of one colour and noise."""
    coarse = np.kron(rng.uniform(200, 3000, (bands, side // cell, side // cell)), np.ones((cell, cell)))
    return np.clip(coarse + rng.normal(0, 60, coarse.shape), 1, None).astype(np.uint16)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": image.shape[0], "height": image.shape[1], "width": image.shape[2]}
    place = {"crs": "EPSG:32631", "transform": from_origin(500_000, 5_000_000, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", dtype=image.dtype, **shape, **place) as target:
        target.write(image)


@pytest.fixture(scope="session")
def paths(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> StockPaths:
    """12 chips of 13 bands, 8 scenes of 128 px, one of them with the offset, and three dates, one of them clear."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("shared")
    found = StockPaths.under(folder)
    chips = np.stack([_field(rng, len(MS_BANDS), 64, 2 ** (1 + i % 3)) for i in range(12)])
    found.ms.parent.mkdir(parents=True)
    names = [f"Class{i % 3}_{100 + i}.tif" for i in range(10)] + ["Class0_0.tif", "Class1_1.tif"]
    np.savez(found.ms, image=chips, bands=np.array(MS_BANDS), name=np.array(names))
    found.rgb.write_bytes(packed.read_bytes())
    entries = []
    for i in range(8):
        image = _field(rng, len(SCENE_BANDS), 128, 2 ** (1 + i % 4))
        _write(found.scenes / f"satclip_{i}.tif", image + np.uint16(1000 * (i == 3)))
        entries.append({"file": f"ms/satclip_{i}.tif", "bands": SCENE_BANDS, "likely_boa_offset_1000": i == 3})
    entries.append({"file": "ms/terramesh_0.tif", "bands": SCENE_BANDS, "likely_boa_offset_1000": False})
    (found.scenes.parent / "ms_index.json").write_text(json.dumps({"chips": entries}))
    for i, cloud in enumerate((9, 4, 3)):
        for band in ("B02", "B03", "B04", "B08"):
            _write(found.series / f"day_{i}" / f"day_{i}_{band}.tif", _field(rng, 1, 48, 4)[:, :, :44])
        _write(found.series / f"day_{i}" / f"day_{i}_SCL.tif", np.full((1, 48, 44), cloud, np.uint8))
    return found


@pytest.fixture(scope="session")
def read(paths: StockPaths) -> tuple[Stock, HeldOut]:
    return read_stock(paths, **HELD)


@pytest.fixture(scope="session")
def stock(read: tuple[Stock, HeldOut]) -> Stock:
    return read[0]


@pytest.fixture(scope="session")
def held(read: tuple[Stock, HeldOut]) -> HeldOut:
    return read[1]
