"""What every encoder can do, whatever it is made of. NumPy in, NumPy out."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from geoelle.records import ChipBatch, EncoderCard


@runtime_checkable
class Encoder(Protocol):
    """A frozen network behind its card. The result for a chip depends on no other chip, batch size or order.

    Every method checks the batch against the card first and raises `EncoderInputError` where it does not fit:
    sensor, units, bands and their order, chip size, gsd, number of dates.
    """

    @property
    def card(self) -> EncoderCard:
        """What the encoder is, takes and gives."""

    def embed(self, batch: ChipBatch, *, pooling: str | None = None, layer: int | None = None) -> NDArray[np.float32]:
        """Embeddings of shape (chip, feature). NaN rows for chips with no valid pixel.

        Args:
            batch: The chips.
            pooling: `cls` or `mean` (of the patch tokens), one of the card's `poolings`; None: the card's choice.
            layer: Index of a transformer block, 0 to `card.n_layers` - 1, whose output is taken as it is, before the
                final norm; None: the encoder's own output.
        """

    def embed_tokens(self, batch: ChipBatch, *, layer: int | None = None) -> NDArray[np.float32]:
        """Patch tokens of shape (chip, patch_y, patch_x, feature); patch_y runs from north to south.

        Where several tokens share a footprint (dates, groups of bands) their mean is given.
        """

    def fixed_masks(
        self, chip_ids: NDArray[np.str_], k: int, chip_size_px: int, *, n_steps: int = 1
    ) -> NDArray[np.bool_]:
        """The first `k` masks of each chip, of shape (chip, mask, token); True is hidden.

        A mask depends on the chip's id, the draw's number and the token count alone: not on the date, so that the
        losses of two dates differ by the place and not by the draw; and mask i does not change when k grows.
        Tokens are those of all `n_steps` dates and `card.tokens_per_patch` groups of bands.
        """

    def pretraining_loss(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The encoder's own loss of shape (chip, mask), in the unit that the card's loss definition names.

        Raises:
            EncoderError: If the card's loss kind is `unavailable`.
        """

    def patch_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The same loss per patch, of shape (chip, mask, patch_y, patch_x); NaN where a patch was not hidden.

        Where several tokens share a footprint, the mean over the hidden ones.
        """
