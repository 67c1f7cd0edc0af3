"""The registry: lists without importing networks, refuses duplicates, helps with unknown names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_encoders import REGISTERED, VARIANTS

from geoelle.encoders import (
    Encoder,
    Variant,
    get_card,
    list_encoders,
    load_encoder,
    register,
    split_name,
    unregister,
    variants_of,
)
from geoelle.encoders.registry import factory_of, open_by_factory
from geoelle.errors import EncoderError, EncoderInputError, UnknownEncoderError
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


# --- variants


@pytest.fixture
def plain() -> Iterator[str]:
    register("plain", **REGISTERED["plain"])
    yield "plain"
    unregister("plain")


NAMES = st.text(st.characters(blacklist_characters=":@\n", blacklist_categories=("Cs",)), min_size=1)


@given(name=NAMES, what=st.one_of(st.just(""), NAMES), gsd_m=st.one_of(st.none(), st.sampled_from([0.5, 1, 10, 22.5])))
def test_a_full_name_goes_there_and_back(name: str, what: str, gsd_m: float | None) -> None:
    variant = Variant(what, gsd_m)
    assert split_name(variant.name(name)) == (name, variant)


@pytest.mark.parametrize("name", ["", ":naip", "a:b:c", "a@10", "a@m", "a@-5m", "a@10m:b", "a@1e3m", "a:@10m"])
def test_what_is_no_full_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownEncoderError, match="names no encoder"):
        split_name(name)


def test_every_listed_way_to_feed_an_encoder_has_its_card(plain: str) -> None:
    cards = variants_of(plain)
    assert [card.name for card in cards] == [plain, *(f"{plain}:{what}" for what in VARIANTS)]
    for card in cards:
        assert get_card(card.name) == card
        opened = load_encoder(card.name)
        assert isinstance(opened, Encoder)
        assert opened.card == card
        assert open_by_factory(factory_of(card.name), card.name).card == card
    assert variants_of("plain:naip@2m") == cards, "any full name tells its encoder's"


def test_a_variant_takes_another_pixel_size(plain: str) -> None:
    card = get_card("plain:sentinel-1-rtc@20m")
    assert (card.name, card.sensor, card.gsd_m) == ("plain:sentinel-1-rtc@20m", "sentinel-1-rtc", 20.0)
    assert load_encoder("plain:sentinel-1-rtc@20m").card == card


def test_lists_by_sensor_name_the_variant_that_takes_it(plain: str) -> None:
    assert plain in [card.name for card in list_encoders()]
    assert "plain:naip" not in [card.name for card in list_encoders()]
    assert "plain:naip" in [card.name for card in list_encoders("naip")]
    assert plain not in [card.name for card in list_encoders("naip")]
    assert all(card.sensor == "naip" for card in list_encoders("naip"))
    assert list_encoders("modis") == []


def test_a_way_to_feed_it_that_there_is_not_is_refused(plain: str) -> None:
    for ask in (get_card, load_encoder):
        with pytest.raises(EncoderError, match=r"no plain:modis. Expected one of .*naip"):
            ask("plain:modis")  # type: ignore[operator]
        with pytest.raises(EncoderError, match="compact-rgb"):
            ask("compact-rgb:modis")  # type: ignore[operator]


def test_an_option_that_an_encoder_does_not_know_is_named(plain: str) -> None:
    with pytest.raises(EncoderInputError, match="plain knows no option 'precision'"):
        load_encoder(plain, precision="bf16")
    with pytest.raises(TypeError, match="str"):
        load_encoder("compact-rgb", threads="many")


@pytest.mark.parametrize("name", ["a:b", "a@10m", ""])
def test_names_that_would_read_as_variants_cannot_be_registered(name: str) -> None:
    with pytest.raises(EncoderError, match="is no name for an encoder"):
        register(name, **REGISTERED["plain"])


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("clay-v1.5@10m", "clay-v1.5"),
        ("clay-v1.5:sentinel-2-l2a", "clay-v1.5"),
        ("clay-v1.5:sentinel-2-l2a@10m", "clay-v1.5"),
        ("clay-v1.5:sentinel-2-l2a@20m", "clay-v1.5@20m"),
        ("clay-v1.5:naip@1.0m", "clay-v1.5:naip"),
        ("clay-v1.5:naip@2m", "clay-v1.5:naip@2m"),
        ("clay-v1.5@1m", "clay-v1.5@1m"),
        ("prithvi-eo-2.0-300m@30m", "prithvi-eo-2.0-300m"),
        ("satclip-vit16-l10:cosine@10m", "satclip-vit16-l10:cosine"),
        ("satclip-vit16-l10:sentinel-2-l2a", "satclip-vit16-l10"),
        ("compact-rgb:int8@10m", "compact-rgb:int8"),
        ("compact-rgb:int8", "compact-rgb:int8"),
        ("compact-burn@20m", "compact-burn@20m"),
        ("presto@10m", "presto"),
    ],
)
def test_one_way_of_feeding_has_one_name(said: str, meant: str) -> None:
    assert get_card(said).name == meant
    assert get_card(said) == get_card(meant)


def test_every_listed_way_keeps_its_name() -> None:
    for card in list_encoders():
        for way in variants_of(card.name):
            assert get_card(way.name) == way
