"""What a network has to offer so that `TorchEncoder` makes an encoder of it. Imports torch: import it lazily."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Inputs:
    """A batch as pretraining had it, on the network's device."""

    pixels: Tensor
    """(chip, step, band, y, x), normalised, in the network's dtype."""
    when: Tensor
    """(chip, step, 4) float64: year, day of year from 1, ISO week, hour of day with its fraction; NaN where unknown."""
    lonlat: Tensor
    """(chip, 2) float64, degrees, longitude first; NaN where unknown."""
    wavelength_um: Tensor
    """(band,) float32."""
    gsd_m: float

    def select(self, index: slice) -> Inputs:
        """The chips that `index` picks."""
        return Inputs(self.pixels[index], self.when[index], self.lonlat[index], self.wavelength_um, self.gsd_m)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder makes of whole chips, nothing hidden."""

    cls: Tensor | None
    """(chip, feature), after the final norm; None where the network has no class token."""
    tokens: Tensor
    """(chip, token, feature), after the final norm, in the network's own order of tokens."""
    layers: tuple[Tensor, ...] = ()
    """The outputs of the blocks asked for, (chip, 0 or 1 class token + token, feature), before any final norm."""


class Network(nn.Module):  # type: ignore[misc]
    """An encoder with its decoder. Its state dict has the published checkpoint's names and shapes, exactly.

    Tokens of several dates and band groups follow one another in the network's own order; `token_shape` says which.
    """

    @abstractmethod
    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """How the tokens of a chip fold: (tokens that share a footprint, patch_y, patch_x); the last runs fastest."""

    @abstractmethod
    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        """Encode whole chips; with the raw outputs of the blocks `layers`, 0-based."""

    @abstractmethod
    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """The pretraining loss of every token.

        What does not depend on the masks (patch embedding, positions) is computed once for all of them.

        Args:
            inputs: The chips.
            hidden: (chip, mask, token) bool; True is hidden. Every mask of a chip hides as many.

        Returns:
            (chip, mask, token); what stands at visible tokens is not looked at.
        """

    def pool(self, encoded: Encoded, pooling: str) -> Tensor:
        """One vector per chip, (chip, feature); `pooling` is one of the card's. Here: `cls` or `mean` of the tokens."""
        if pooling == "cls" and encoded.cls is not None:
            return encoded.cls
        return encoded.tokens.mean(dim=1)

    @staticmethod
    @abstractmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        """The mask that pretraining makes of noise (chip, token): bool of the same shape, True is hidden."""
