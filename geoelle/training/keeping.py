"""Keeping what the first version knew of red, green and blue while the other bands are learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from geoelle.encoders.compact_model import CompactMAE

WHOLE_SHARE = 8
"""Of so many chips of a step one is also embedded whole, as it will be in use; masked passes see a quarter."""


def distance(
    model: CompactMAE, first: CompactMAE, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor, visible: Tensor
) -> Tensor:
    """How far a network has moved from the one that training began with, on the chips of a step.

    Li and Hoiem 2016, "Learning without Forgetting" (doi:10.1007/978-3-319-46493-0_37): the first network's answers are
    the target, so what it knew stays while its weights learn more. Two answers count alike: its reconstructions, in
    units of the standardised target, and its tokens, in units of their spread.

    Args:
        model: In training.
        first: What training began with; no gradient goes to it.
        pixels: (chip, band, y, x), normalised.
        wavelengths: (band,), in micrometres.
        gsd_m: (), pixel size in metres.
        visible: (chip, n_visible) int64, ascending indices of the tokens that the encoders see.

    Returns:
        (), 0 where both do the same.
    """
    whole = pixels[: max(1, len(pixels) // WHOLE_SHARE)]
    with torch.no_grad():
        predicted = first.predict(pixels, wavelengths, gsd_m, visible)
        tokens = first.layers(whole, wavelengths, gsd_m)[-1]
        spread = tokens.var()
    moved = (model.predict(pixels, wavelengths, gsd_m, visible) - predicted).square().mean()
    return moved + (model.layers(whole, wavelengths, gsd_m)[-1] - tokens).square().mean() / spread
