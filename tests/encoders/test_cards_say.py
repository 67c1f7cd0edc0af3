"""What the cards say of sizes and of missing pixels is what is done."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from mae_cases import batch_for

from geoelle.encoders import dofa, get_card, resample_batch, satclip
from geoelle.records import ChipBatch, EncoderCard

pytestmark = pytest.mark.models


def said(card: EncoderCard, start: str) -> str:
    """The one sentence among the differences that starts so."""
    (sentence,) = [text for text in card.differs if text.startswith(start)]
    return sentence


def with_a_hole(card: EncoderCard) -> ChipBatch:
    batch = batch_for(card, 1)
    valid = batch.valid.copy()
    valid[..., :8, :8] = False
    return replace(batch, pixels=np.clip(batch.pixels, 0.01, 1.0), valid=valid)


@pytest.mark.parametrize("name", ["dofa-base", "dofa-base-full:naip", "dofa-large:sentinel-1-rtc", "dofa-base@20m"])
def test_dofas_missing_pixels_are_the_mean(name: str) -> None:
    card = get_card(name)
    assert "the mean of pretraining's 8-bit numbers" in said(card, "Missing pixels")
    found = dofa.prepare(card, with_a_hole(card))
    assert (found[..., :8, :8] == 0).all()  # standardised, so 0 is the mean
    assert (found[..., 8:, :] != 0).any()


@pytest.mark.parametrize("name", ["satclip-vit16-l10", "satclip-resnet18-l40", "satclip-vit16-l10:cosine"])
def test_satclips_missing_pixels_are_black(name: str) -> None:
    card = get_card(name)
    assert "a reflectance of 0" in said(card, "Missing pixels")
    assert set(card.mean) == {0.0}
    found = satclip.prepare(card, with_a_hole(card))
    assert (found[..., :8, :8] == 0).all()
    assert (np.delete(found, satclip.CIRRUS, axis=2)[..., 8:, :] > 0).all()


@pytest.mark.parametrize("name", ["satmae-vitb", "satmae-vitl"])
def test_satmae_is_fed_the_middle_of_chips_of_109_px(name: str) -> None:
    card = get_card(name)
    sentence = said(card, "Upstream resizes")
    assert "109 px" in sentence
    assert "resample_batch takes the middle 96 px" in sentence
    large = batch_for(replace(card, chip_sizes_px=(109,)), 1)
    fed, done = resample_batch(large, card)
    assert (done.method, fed.gsd_m) == ("cut", 10.0)
    np.testing.assert_array_equal(fed.pixels, large.pixels[..., 6:102, 6:102])
