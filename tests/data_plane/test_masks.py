"""Masks of quality layers bit by bit, where masks come from, and units."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sky_scenes import FMASK, QA_PIXEL, a_scene, a_sensor, an_item, box

from geoelle.errors import ConfigError, ImageryError
from geoelle.imagery import read_tile
from geoelle.imagery.masks import has_any, quality_masks
from geoelle.imagery.omnicloud import predicted_masks
from geoelle.sensors import SENTINEL_2_L2A, QualitySpec

NAMES = ("observed", "cloud", "shadow", "snow", "water")
SCL = SENTINEL_2_L2A.quality
assert SCL is not None
RNG = np.random.default_rng(11)


def meaning(number: float, quality: QualitySpec) -> set[str]:
    masks = quality_masks(np.full((1, 1), number, np.float32), quality)
    return {name for name in NAMES if getattr(masks, name)[0, 0]}


@pytest.mark.parametrize(
    ("quality", "number", "expected"),
    [
        *((QA_PIXEL, n, e) for n, e in (
            (1, ""), (1 << 1, "observed cloud"), (1 << 2, "observed cloud"), (1 << 3, "observed cloud"),
            (1 << 4, "observed shadow"), (1 << 5, "observed snow"), (1 << 6, "observed"), (1 << 7, "observed water"),
            (21824, "observed"), (21952, "observed water"), (22280, "observed cloud"), (23888, "observed shadow"),
            (30048, "observed snow"), (54596, "observed cloud"), (65534, "observed cloud"), (65535, ""),
        )),
        *((FMASK, n, e) for n, e in (
            (0, "observed"), (1, "observed cloud"), (2, "observed cloud"), (4, "observed cloud"),
            (8, "observed shadow"), (16, "observed snow"), (32, "observed water"), (64, "observed"),
            (192, "observed"), (224, "observed water"), (48, "observed snow water"), (10, "observed cloud"), (255, ""),
        )),
        *((SCL, n, e) for n, e in enumerate(
            ("", "", "observed", "observed shadow", "observed", "observed", "observed water", "observed",
             "observed cloud", "observed cloud", "observed cloud", "observed snow"),
        )),
    ],
)  # fmt: skip
def test_every_flag_of_every_layer(quality: QualitySpec, number: int, expected: str) -> None:
    assert meaning(number, quality) == set(expected.split())


def test_int16_numbers_are_the_same_bits() -> None:
    for number in (21952, 54596, 65534, 65535, 33792):
        assert meaning(np.int16(np.uint16(number)), QA_PIXEL) == meaning(number, QA_PIXEL)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 65536, 65536 + 4, 1e9, -32769])
@pytest.mark.parametrize("quality", [SCL, QA_PIXEL, FMASK])
def test_what_is_no_number_of_the_layer_is_not_observed(number: float, quality: QualitySpec) -> None:
    assert meaning(number, quality) == set()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=50), st.sampled_from([SCL, QA_PIXEL, FMASK]))
def test_the_table_of_meanings_is_the_tests_themselves(numbers: list[int], quality: QualitySpec) -> None:
    values = np.array([numbers])
    masks = quality_masks(values.astype(np.float32), quality)
    invalid, cloud, shadow, snow = (
        has_any(values, getattr(quality, name)) for name in ("invalid", "cloud", "shadow", "snow")
    )
    np.testing.assert_array_equal(masks.observed, ~invalid)
    np.testing.assert_array_equal(masks.cloud, cloud & ~invalid)
    np.testing.assert_array_equal(masks.shadow, shadow & ~cloud & ~invalid)
    np.testing.assert_array_equal(masks.snow, snow & ~(shadow | cloud | invalid))


@pytest.mark.parametrize("quality", [QA_PIXEL, FMASK])
def test_a_bit_layer_masks_what_is_read(tmp_path: Path, quality: QualitySpec) -> None:
    bits = RNG.integers(0, 256, (16, 16)).astype(np.uint16)
    sensor = a_sensor("red", quality=quality)
    red = RNG.integers(1, 9000, (16, 16)).astype(np.uint16)
    tile = read_tile(a_scene(an_item(tmp_path, sensor, {"red": red, quality.name: bits})), box(16, 16), ["red"],
                     sensor=sensor)  # fmt: skip
    masks = quality_masks(bits.astype(np.float32), quality)
    for name in ("cloud", "shadow", "snow", "water"):
        np.testing.assert_array_equal(getattr(tile, name), getattr(masks, name))
    np.testing.assert_array_equal(tile.valid, masks.observed & ~masks.cloud & ~masks.shadow)
    np.testing.assert_array_equal(np.isnan(tile.pixels[0]), ~tile.valid)
    np.testing.assert_allclose(tile.pixels[0][tile.valid], (red * np.float32(1e-4))[tile.valid], rtol=1e-6)
    assert tile.mask_source == quality.name


def four_bands(value: int = 5000) -> dict[str, Any]:
    return {name: np.full((64, 64), value, np.uint16) for name in ("blue", "green", "red", "nir")}


def test_where_masks_come_from(tmp_path: Path) -> None:
    sensor = a_sensor("blue", "green", "red", "nir", quality=FMASK)
    numbers = four_bands() | {"fmask": np.zeros((64, 64), np.uint8)}
    with_layer = a_scene(an_item(tmp_path, sensor, numbers, item_id="with"))
    without = a_scene(an_item(tmp_path, sensor, four_bands(), item_id="without"))
    only_red = a_scene(an_item(tmp_path, sensor, {"red": four_bands()["red"]}, item_id="red"))
    sources: dict[tuple[str, str], tuple[str, float]] = {}
    for name, scene in (("with", with_layer), ("without", without), ("red", only_red)):
        for asked in ("auto", "quality", "heuristic", "none"):
            if (name, asked) in (("without", "quality"), ("red", "quality"), ("red", "heuristic")):
                with pytest.raises(ImageryError, match=rf"Item {name} .* does not have .* {asked!r} asks for"):
                    read_tile(scene, box(64, 64), ["red"], sensor=sensor, cloud_mask=asked)  # type: ignore[arg-type]
                continue
            tile = read_tile(scene, box(64, 64), ["red"], sensor=sensor, cloud_mask=asked)  # type: ignore[arg-type]
            assert tile.pixels.shape == (1, 64, 64)
            sources[name, asked] = tile.mask_source, float(tile.cloud.mean())
    assert sources == {
        ("with", "auto"): ("fmask", 0), ("with", "quality"): ("fmask", 0), ("with", "heuristic"): ("heuristic", 1),
        ("with", "none"): ("none", 0), ("without", "none"): ("none", 0),
        ("without", "auto"): ("heuristic", 1), ("without", "heuristic"): ("heuristic", 1),
        ("red", "auto"): ("none", 0), ("red", "none"): ("none", 0),
    }  # fmt: skip


def test_the_heuristic_is_for_reflectance_alone(tmp_path: Path) -> None:
    sensor = a_sensor("blue", "green", "red", "nir", units="dn", scale=1.0)
    scene = a_scene(an_item(tmp_path, sensor, four_bands()))
    assert read_tile(scene, box(64, 64), ["red"], sensor=sensor).mask_source == "none"
    with pytest.raises(ImageryError, match="does not have reflectance in blue, green, red, nir"):
        read_tile(scene, box(64, 64), ["red"], sensor=sensor, cloud_mask="heuristic")


def test_an_unknown_mask_is_refused(tmp_path: Path) -> None:
    sensor = a_sensor("red")
    scene = a_scene(an_item(tmp_path, sensor, {"red": four_bands()["red"]}))
    with pytest.raises(ConfigError, match=r"'clouds'\. Expected one of auto, quality, heuristic, omnicloudmask, none"):
        read_tile(scene, box(64, 64), ["red"], sensor=sensor, cloud_mask="clouds")  # type: ignore[arg-type]


# --- radar


def test_power_becomes_decibels_and_what_has_none_is_missing(tmp_path: Path) -> None:
    power = np.array([[1.0, 0.1, 0.01, 10.0], [0.0, -0.001, np.nan, 1e-5]], np.float32)
    sensor = a_sensor("vv", "vh", units="linear", scale=1.0)
    scene = a_scene(an_item(tmp_path, sensor, {"vv": power, "vh": np.full_like(power, 0.5)}))
    tile = read_tile(scene, box(2, 4), ["vv", "vh"], sensor=sensor, units="dB")
    np.testing.assert_allclose(tile.pixels[0], [[0, -10, -20, 10], [np.nan, np.nan, np.nan, -50]], atol=1e-5)
    np.testing.assert_allclose(tile.pixels[1][tile.valid], 10 * np.log10(0.5), rtol=1e-6)
    np.testing.assert_array_equal(tile.valid, [[True] * 4, [False, False, False, True]])
    assert np.isnan(tile.pixels[:, ~tile.valid]).all()
    same = read_tile(scene, box(2, 4), ["vv", "vh"], sensor=sensor)
    np.testing.assert_array_equal(same.pixels[0][same.valid], power[same.valid])


@pytest.mark.parametrize(("has", "asked"), [("reflectance", "dB"), ("linear", "reflectance"), ("dB", "linear")])
def test_units_are_never_converted_silently(tmp_path: Path, has: str, asked: str) -> None:
    sensor = a_sensor("vv", units=has, scale=1.0)
    scene = a_scene(an_item(tmp_path, sensor, {"vv": np.ones((4, 4), np.float32)}))
    with pytest.raises(ImageryError, match=f"toy are in {has}, and {asked} is asked for"):
        read_tile(scene, box(4, 4), ["vv"], sensor=sensor, units=asked)


# --- OmniCloudMask


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "omnicloudmask", None)
    sensor = a_sensor("blue", "green", "red", "nir")
    scene = a_scene(an_item(tmp_path, sensor, four_bands()))
    with pytest.raises(ConfigError, match=r"geoelle\[clouds\]"):
        read_tile(scene, box(64, 64), ["red"], sensor=sensor, cloud_mask="omnicloudmask")


@pytest.mark.models
def test_the_networks_classes_become_masks() -> None:
    """Through the real package, with a network whose class is known: its published weights are not here."""
    omnicloudmask = pytest.importorskip("omnicloudmask", exc_type=ImportError)
    import torch

    class ByBrightness(torch.nn.Module):
        """Class k in the k-th quarter of the columns."""

        def forward(self, x: Any) -> Any:
            n, _, height, width = x.shape
            logits = torch.zeros((n, 4, height, width), dtype=x.dtype, device=x.device)
            for k in range(4):
                logits[:, k, :, k * width // 4 : (k + 1) * width // 4] = 10
            return logits

    parameters = inspect.signature(omnicloudmask.predict_from_array).parameters
    assert {"input_array", "custom_models", "apply_no_data_mask", "no_data_value"} <= set(parameters)
    bands = {name: RNG.random((64, 64)).astype(np.float32) + 0.1 for name in ("red", "green", "nir")}
    bands["red"][5, :] = np.nan
    masks = predicted_masks(bands, 10, models=[ByBrightness()])
    columns = np.arange(64) // 16
    seen = np.arange(64) != 5
    np.testing.assert_array_equal(masks.observed, np.broadcast_to(seen[:, None], (64, 64)))
    np.testing.assert_array_equal(masks.cloud, seen[:, None] & np.isin(columns, (1, 2)))
    np.testing.assert_array_equal(masks.shadow, seen[:, None] & (columns == 3))
    assert not masks.snow.any()


@pytest.mark.models
@pytest.mark.parametrize(("gsd_m", "side"), [(9.0, 64), (60.0, 64), (10.0, 40)])
def test_pixels_that_are_not_for_the_network_are_refused(gsd_m: float, side: int) -> None:
    pytest.importorskip("omnicloudmask", exc_type=ImportError)
    bands = {name: np.ones((side, side), np.float32) for name in ("red", "green", "nir")}
    with pytest.raises(ImageryError, match="not for OmniCloudMask"):
        predicted_masks(bands, gsd_m)


@pytest.mark.models
def test_a_network_that_cannot_be_run_is_an_imagery_error() -> None:
    pytest.importorskip("omnicloudmask", exc_type=ImportError)
    import torch

    class Broken(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            raise RuntimeError("no weights")

    bands = {name: np.ones((64, 64), np.float32) for name in ("red", "green", "nir")}
    with pytest.raises(ImageryError, match="OmniCloudMask cannot be run: no weights"):
        predicted_masks(bands, 10, models=[Broken()])
