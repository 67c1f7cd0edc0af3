"""The registry: lists without importing networks, refuses duplicates, helps with unknown names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from geoelle.encoders import Encoder, Variant, get_card, list_encoders, load_encoder, register, unregister
from geoelle.errors import EncoderError, UnknownEncoderError
from geoelle.records import EncoderCard


def compact_card(variant: Variant) -> EncoderCard:
    return get_card("compact-rgb")


def test_compact_is_listed_with_its_card() -> None:
    (card,) = [card for card in list_encoders() if card.name == "compact-rgb"]
    assert card == get_card("compact-rgb")
    assert card.loss_kind == "own"
    assert card.chip_sizes_px == (64, 32)
    assert card.bands == ("red", "green", "blue")
    assert card.wavelength_um == (0.665, 0.56, 0.493)
    assert "Copernicus" in card.source
    assert "EuroSAT" in card.source


def test_list_is_filtered_by_sensor() -> None:
    assert "compact-rgb" in [card.name for card in list_encoders(sensor="sentinel-2-l2a")]
    assert "compact-rgb" not in [card.name for card in list_encoders(sensor="sentinel-1-rtc")]
    assert list_encoders(sensor="none") == []


def test_loaded_encoder_follows_the_protocol() -> None:
    assert isinstance(load_encoder("compact-rgb", threads=1), Encoder)


def test_duplicate_is_refused() -> None:
    with pytest.raises(EncoderError, match="already"):
        register(
            "compact-rgb",
            card=compact_card,
            factory="geoelle.encoders.compact:load_compact_rgb",
        )


def test_factory_without_attribute_is_refused() -> None:
    with pytest.raises(EncoderError, match="module:attribute"):
        register("other", card=compact_card, factory="geoelle.encoders.compact")


def test_registered_encoder_can_be_loaded_and_removed() -> None:
    register("mine", card=compact_card, factory="geoelle.encoders.compact:load_compact_rgb")
    try:
        assert isinstance(load_encoder("mine"), Encoder)
    finally:
        unregister("mine")
    with pytest.raises(UnknownEncoderError):
        load_encoder("mine")


@pytest.mark.parametrize("ask", [get_card, load_encoder, unregister])
def test_unknown_name_is_answered_with_the_closest(ask: object) -> None:
    with pytest.raises(UnknownEncoderError) as caught:
        ask("compact_rbg")  # type: ignore[operator]
    assert str(caught.value).startswith("There is no encoder 'compact_rbg'.")
    assert "compact-rgb" in str(caught.value)


def test_listing_imports_no_network_library() -> None:
    code = (
        "import sys, geoelle.encoders, geoelle.training\n"
        "assert geoelle.encoders.list_encoders()\n"
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_encoding_imports_no_torch() -> None:
    code = (
        "import sys, numpy as np, geoelle.encoders as e\n"
        "from geoelle.records import ChipBatch\n"
        "b = ChipBatch('sentinel-2-l2a', 'reflectance', ('red', 'green', 'blue'), np.zeros((1, 1, 3, 32, 32), 'f4'),\n"
        "    np.ones((1, 1, 32, 32), bool), np.full((1, 1), np.datetime64('2020-01-01', 'ns')),\n"
        "    np.zeros((1, 2)), 10.0, np.array(['a']))\n"
        "assert np.isfinite(e.load_encoder('compact-rgb').embed(b)).all()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
