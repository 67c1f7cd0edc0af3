"""Fires: reading a pair, squares of it, figures against a perimeter; on a network of a few weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

pytest.importorskip("torch")

from geoelle.encoders.compact_model import CompactConfig
from geoelle.errors import NotFoundError, SchemaError
from geoelle.training.batches import Stock
from geoelle.training.export import export_compact
from geoelle.training.fires import Fire, cosine_distance, dnbr, fire_figures, fires_figures, read_fires, windows
from geoelle.training.loop import TrainingConfig, train

pytestmark = pytest.mark.models

TINY = CompactConfig(width=24, depth=1, n_heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
NUMBERS = ("B02", "B03", "B04", "B08", "B12")


def _write(path: Path, image: np.ndarray, names: tuple[str, ...]) -> None:
    path.parent.mkdir(exist_ok=True)
    shape = {"count": image.shape[0], "height": image.shape[1], "width": image.shape[2]}
    place = {"crs": "EPSG:4326", "transform": from_origin(10, 40, 0.00018, 0.00018)}
    with rasterio.open(path, "w", driver="GTiff", dtype=image.dtype, **shape, **place) as target:
        target.write(image)
        target.descriptions = names


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fires of 64 x 56 px whose left half burnt."""
    folder = tmp_path_factory.mktemp("fires")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        before = rng.integers(500, 4000, (5, 64, 56)).astype(np.uint16)
        after, inside = before.copy(), np.zeros((1, 64, 56), np.uint8)
        inside[:, :, :28] = 1
        after[3, :, :28] //= 3
        after[4, :, :28] += 2000
        _write(folder / f"{name}_pre" / f"{name}_pre.tif", before, NUMBERS)
        # The order of the file is not that of the encoder.
        _write(folder / f"{name}_post" / f"{name}_post.tif", after[::-1], NUMBERS[::-1])
        _write(folder / f"{name}_post" / f"{name}_perimeter.tif", inside, ("burn_perimeter",))
    return folder


@pytest.fixture(scope="module")
def folder(stock: Stock, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("encoder")
    trained = train(stock, TINY, TrainingConfig(steps=1, batch=4))
    export_compact(trained, found, name="compact", pooling="mean", training="A test.", figures={})
    return found


def test_bands_are_found_by_their_names(items: Path) -> None:
    first, second = read_fires(items)
    assert (first.name, second.name) == ("a", "b")
    assert first.bands == ("blue", "green", "red", "nir", "swir22")
    np.testing.assert_array_equal(first.before[:3], first.after[:3])
    assert (first.after[4, :, :28] - first.before[4, :, :28]).mean() == pytest.approx(0.2, abs=1e-4)
    assert first.before.max() < 0.41


def test_what_is_missing_or_does_not_fit_is_told(items: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no fire"):
        list(read_fires(tmp_path))
    _write(tmp_path / "c_pre" / "c_pre.tif", np.ones((5, 9, 9), np.uint16), NUMBERS)
    with pytest.raises(NotFoundError, match=r"c_post\.tif"):
        list(read_fires(tmp_path))
    _write(tmp_path / "c_post" / "c_post.tif", np.ones((5, 9, 9), np.uint16), (*NUMBERS[:4], "B11"))
    with pytest.raises(SchemaError, match="B12"):
        list(read_fires(tmp_path))
    _write(tmp_path / "c_post" / "c_post.tif", np.ones((5, 9, 9), np.uint16), NUMBERS)
    _write(tmp_path / "c_post" / "c_perimeter.tif", np.ones((1, 9, 8), np.uint8), ("p",))
    with pytest.raises(SchemaError, match="differ in size"):
        list(read_fires(tmp_path))


def test_squares_by_hand() -> None:
    image = np.arange(2 * 5 * 7).reshape(2, 5, 7)
    found = windows(image, 3, 2)
    assert found.shape == (2 * 3, 2, 3, 3)
    np.testing.assert_array_equal(found[4], image[:, 2:5, 2:5])
    assert windows(image[0], 3, 2).shape == (6, 3, 3)


def test_ratio_and_distance_by_hand() -> None:
    before = np.zeros((1, 2, 1, 2), np.float32)
    before[0, :, 0, 0] = (0.3, 0.1)  # the other pixel was not seen
    after = np.full((1, 2, 1, 2), 0.2, np.float32)
    assert dnbr(("nir", "swir22"), before, after)[0] == pytest.approx(0.5)
    a, b = np.array([[3, 4], [1, 0]], np.float32), np.array([[6, 8], [0, 2]], np.float32)
    np.testing.assert_allclose(cosine_distance(a, b), [0, 1], atol=1e-7)


def test_figures_of_fires(items: Path, folder: Path) -> None:
    found = fires_figures(folder, read_fires(items))
    assert [row["fire"] for row in found["fires"]] == ["a", "b"]
    row = found["fires"][0]
    assert row["n_chips"] == 5 * 4
    # Corners 0, 8, 16 and 24: more than half within the first 28 columns for the first two.
    assert row["burnt_share"] == found["mean"]["burnt_share"] == 0.5
    assert row["ap"].keys() == row["auc"].keys() == {"compact-burn@20m", "compact-rgb@20m", "dNBR"}
    assert row["ap"]["dNBR"] == row["auc"]["dNBR"] == 1
    # Red, green and blue did not change, so that distances are noise of rounding at most.
    assert row["auc"]["compact-burn@20m"] > 0.9
    assert found["mean"]["ap"]["dNBR"] == 1
    assert fire_figures(folder, next(read_fires(items))) == row


def test_a_fire_without_burnt_chips_is_refused(items: Path, folder: Path) -> None:
    fire: Fire = next(read_fires(items))
    with pytest.raises(SchemaError, match="0 of the 20 chips"):
        fire_figures(folder, replace(fire, inside=np.zeros_like(fire.inside)))
