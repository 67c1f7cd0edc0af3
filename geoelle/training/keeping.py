"""Keeping what an earlier network knew of red, green and blue while the other bands are learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from geoelle.encoders.compact_model import CompactMAE

WHOLE_SHARE = 4
"""Of so many chips of a step one is also embedded whole, as it will be in use; masked passes see a quarter."""

FLOOR = 1e-3
"""Of a direction's variance, in units of the mean one: directions with less than this count less."""


class Kept:
    """A network whose answers on red, green and blue another one is to keep.

    Li and Hoiem 2016, "Learning without Forgetting" (doi:10.1007/978-3-319-46493-0_37): the first network's answers are
    the target, so what it knew stays while the weights learn more. Two answers count: the reconstructions, in units of
    the standardised target, and the tokens of whole chips, one by one and as their mean.

    Tokens are compared in units of their spread in every direction apart. What a probe reads the loss off lies to a
    part in directions with a ten-thousandth of the variance of the first: a distance over all of them would let it go.
    """

    def __init__(self, first: CompactMAE, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor) -> None:
        """Take the spread of the tokens from `pixels` (chip, band, y, x), normalised, of many chips."""
        self.first = first.eval()
        with torch.no_grad():
            tokens = torch.cat([first.layers(part, wavelengths, gsd_m)[-1][:, 1:] for part in pixels.split(128)])
        self._token_scale = _whitening(tokens.flatten(0, 1))
        self._mean_scale = _whitening(tokens.mean(dim=1))

    def distance(
        self, model: CompactMAE, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor, visible: Tensor
    ) -> Tensor:
        """How far a network has moved from the one to keep, on the chips of a step.

        Args:
            model: In training.
            pixels: (chip, band, y, x), normalised.
            wavelengths: (band,), in micrometres.
            gsd_m: (), pixel size in metres.
            visible: (chip, n_visible) int64, ascending indices of the tokens that the encoders see.

        Returns:
            (), 0 where both do the same. No gradient goes to the network to keep.
        """
        whole = pixels[: max(1, len(pixels) // WHOLE_SHARE)]
        with torch.no_grad():
            predicted = self.first.predict(pixels, wavelengths, gsd_m, visible)
            tokens = self.first.layers(whole, wavelengths, gsd_m)[-1][:, 1:]
        moved = model.layers(whole, wavelengths, gsd_m)[-1][:, 1:] - tokens
        return (
            (model.predict(pixels, wavelengths, gsd_m, visible) - predicted).square().mean()
            + (moved @ self._token_scale).square().mean()
            + (moved.mean(dim=1) @ self._mean_scale).square().mean()
        )


def _whitening(x: Tensor) -> Tensor:
    """(width, width): takes rows like those of `x` (n, width) to unit variance in every direction above the floor."""
    centred = (x - x.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    return (vectors / (values.clamp(min=0) + FLOOR * values.mean()).sqrt()).to(x.dtype)
