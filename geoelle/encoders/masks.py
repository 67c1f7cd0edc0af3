"""Fixed mask draws: the same chip always hides the same patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import EncoderInputError
from geoelle.provenance import seed_from


def n_hidden(n_tokens: int, mask_ratio: float) -> int:
    """Tokens that one mask hides."""
    return int(mask_ratio * n_tokens)


def fixed_masks(
    chip_ids: NDArray[np.str_] | Sequence[str], k: int, n_tokens: int, mask_ratio: float, *, hidden: int | None = None
) -> NDArray[np.bool_]:
    """The first `k` masks of each chip.

    A mask depends on the chip's id, the draw's number and the token count alone. So mask i is the same whatever
    `k` is, and at every date of a place: the losses of two dates differ by the place and not by the draw.

    Args:
        chip_ids: (chip,).
        k: Masks per chip, at least 1.
        n_tokens: Patch tokens of a chip.
        mask_ratio: Share of tokens to hide. 0: none.
        hidden: Tokens that a mask hides, where pretraining rounds otherwise; None: int(mask_ratio x n_tokens).

    Where the ratio is 0 the loss hides nothing: every mask is empty, and one of them says all.

    Returns:
        (chip, mask, token); True is hidden.

    Raises:
        EncoderInputError: If `k` is not positive, or the ratio would hide no token or all of them.
    """
    if k < 1:
        raise EncoderInputError(f"{k} masks per chip were asked for. Expected at least 1. Use k = 8 unless in a hurry.")
    if mask_ratio == 0:
        return np.zeros((len(chip_ids), k, n_tokens), dtype=bool)
    hidden = n_hidden(n_tokens, mask_ratio) if hidden is None else hidden
    if not 0 < hidden < n_tokens:
        raise EncoderInputError(
            f"A mask ratio of {mask_ratio} hides {hidden} of {n_tokens} tokens. Expected some but not all. "
            "Use the mask ratio of the encoder's card."
        )
    masks = np.zeros((len(chip_ids), k, n_tokens), dtype=bool)
    for c, chip_id in enumerate(chip_ids):
        for i in range(k):
            # NumPy promises the raw stream of a bit generator for ever, but not what a Generator makes of it.
            draws = np.random.Philox(key=seed_from("mask", chip_id, i, n_tokens)).random_raw(n_tokens)
            masks[c, i, np.argsort(draws, kind="stable")[:hidden]] = True
    return masks
