"""The compact encoder: geoelle's own masked autoencoder, shipped with the package."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.cards import CARD_FILE, read_card
from geoelle.encoders.compact_runtime import Floats, OnnxRuntime, Runtime, RuntimeName, TorchRuntime, check_sha256
from geoelle.encoders.inputs import check_batch, check_masks, normalised, usable
from geoelle.encoders.masks import fixed_masks
from geoelle.encoders.registry import Variant
from geoelle.errors import EncoderError, EncoderInputError, WeightsError
from geoelle.records import ChipBatch, EncoderCard

WEIGHTS_FOLDER = Path(__file__).parent / "weights" / "compact-rgb"


class CompactEncoder:
    """Adapter of the compact masked autoencoder (`geoelle.encoders.Encoder`).

    Pixels are clipped to the card's range, scaled and standardised here and nowhere else. An invalid or NaN pixel
    takes the card's mean, which is 0 after that. The result for a chip is the same to the bit whatever else is in
    the batch and however many threads there are. One instance may be used from several threads, and it pickles
    as its constructor's arguments.
    """

    def __init__(self, folder: str | Path | None = None, *, runtime: RuntimeName = "onnx", threads: int = 2) -> None:
        """Load weights and card.

        Args:
            folder: Where card, weights and graphs lie; None is what geoelle ships.
            runtime: `onnx` (ONNX Runtime) or `torch` (needs geoelle[models]); they agree to 1e-5.
            threads: Chips encoded at the same time.

        Raises:
            EncoderInputError: If an option makes no sense.
            WeightsError: If card or weights are missing or damaged, or do not belong together.
        """
        if threads < 1:
            raise EncoderInputError(f"threads = {threads} was asked for. Expected at least 1. Use the number of cores.")
        if runtime not in ("onnx", "torch"):
            raise EncoderInputError(f"There is no runtime {runtime!r}. Expected 'onnx' or 'torch'. Use 'onnx'.")
        self._folder = Path(folder) if folder is not None else WEIGHTS_FOLDER
        self._runtime_name: RuntimeName = runtime
        self._threads = threads
        self._card = read_card(self._folder / CARD_FILE)
        if self._card.clip is None:
            raise WeightsError(f"The card in {self._folder} names no clip range. Expected one. Correct the card file.")
        check_sha256(self._folder / self._card.weights, self._card.weights_sha256)
        self._runtime: Runtime = (
            OnnxRuntime(self._folder) if runtime == "onnx" else TorchRuntime(self._folder, self._card)
        )

    def __reduce__(self) -> tuple[Callable[..., CompactEncoder], tuple[Any, ...]]:
        # Sessions do not pickle; a Dask worker opens its own.
        return _open, (self._folder, self._runtime_name, self._threads)

    @property
    def card(self) -> EncoderCard:
        """What the encoder is, takes and gives."""
        return self._card

    def embed(self, batch: ChipBatch) -> NDArray[np.float32]:
        """Embeddings of shape (chip, feature), pooled as the card says. NaN rows for chips with no valid pixel.

        Raises:
            EncoderInputError: If the batch does not fit the card.
        """
        pixels, good = self._prepare(batch)
        out = np.full((len(batch), self._card.n_features), np.nan, dtype=np.float32)

        def one(i: int) -> None:
            out[i] = self._runtime.features(pixels[i])[0]

        self._each(one, good.any(axis=(1, 2)))
        return out

    def embed_tokens(self, batch: ChipBatch) -> NDArray[np.float32]:
        """Patch tokens of shape (chip, patch_y, patch_x, feature), north to south. NaN as for `embed`.

        Raises:
            EncoderInputError: If the batch does not fit the card.
        """
        pixels, good = self._prepare(batch)
        side = pixels.shape[-1] // self._card.patch_px
        out = np.full((len(batch), side, side, self._card.n_features), np.nan, dtype=np.float32)

        def one(i: int) -> None:
            out[i] = self._runtime.features(pixels[i])[1].reshape(side, side, -1)

        self._each(one, good.any(axis=(1, 2)))
        return out

    def fixed_masks(
        self, chip_ids: NDArray[np.str_], k: int, chip_size_px: int, *, n_steps: int = 1
    ) -> NDArray[np.bool_]:
        """The first `k` masks of each chip, of shape (chip, mask, token); True is hidden. See `masks.fixed_masks`.

        Raises:
            EncoderInputError: If the encoder does not take chips of this size.
        """
        if chip_size_px not in self._card.chip_sizes_px:
            raise EncoderInputError(
                f"Masks for chips of {chip_size_px} px were asked for. {self._card.name} takes "
                f"{' or '.join(str(size) for size in self._card.chip_sizes_px)} px. Use one of these."
            )
        return fixed_masks(chip_ids, k, (chip_size_px // self._card.patch_px) ** 2, self._card.mask_ratio)

    def pretraining_loss(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The loss of pretraining, of shape (chip, mask), in the unit that the card's loss definition names.

        The mean of `patch_losses` over the hidden patches. NaN where none of them is wholly valid.

        Raises:
            EncoderInputError: If batch or masks do not fit the card.
        """
        losses = self.patch_losses(batch, masks)
        counted = np.isfinite(losses)
        total = np.where(counted, losses, 0.0).sum(axis=(2, 3), dtype=np.float64)
        n = counted.sum(axis=(2, 3))
        mean: NDArray[np.float64] = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
        return mean.astype(np.float32)

    def patch_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        """The loss per patch, of shape (chip, mask, patch_y, patch_x); NaN where a patch was not hidden.

        NaN also where a patch has invalid pixels: what the decoder should have predicted there is not known, and
        to compare with the filled-in mean would be a loss that pretraining never had.

        Raises:
            EncoderInputError: If batch or masks do not fit the card.
        """
        pixels, good = self._prepare(batch)
        check_masks(self._card, batch, masks)
        patch = self._card.patch_px
        side = pixels.shape[-1] // patch
        known = good.reshape(len(batch), side, patch, side, patch).all(axis=(2, 4)).reshape(len(batch), side * side)
        out = np.full(masks.shape, np.nan, dtype=np.float32)

        def one(i: int) -> None:
            for k in range(masks.shape[1]):
                errors = self._runtime.errors(pixels[i], np.flatnonzero(~masks[i, k]).astype(np.int64))
                out[i, k] = np.where(masks[i, k] & known[i], errors, np.nan)

        self._each(one, good.any(axis=(1, 2)))
        return out.reshape(len(batch), masks.shape[1], side, side)

    def _prepare(self, batch: ChipBatch) -> tuple[Floats, NDArray[np.bool_]]:
        """Normalised pixels (chip, band, y, x) and which of them are real, (chip, y, x)."""
        check_batch(self._card, batch)
        return normalised(self._card, batch)[:, 0], usable(batch)[:, 0]

    def _each(self, work: Callable[[int], None], wanted: NDArray[np.bool_]) -> None:
        """Do the work for the wanted chips, `threads` at a time; each chip writes its own rows only."""
        index = [int(i) for i in np.flatnonzero(wanted)]
        if self._threads == 1 or len(index) < 2:
            for i in index:
                work(i)
            return
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(work, index, chunksize=1):
                pass


def _open(folder: Path, runtime: RuntimeName, threads: int) -> CompactEncoder:
    return CompactEncoder(folder, runtime=runtime, threads=threads)


def compact_rgb_card(variant: Variant) -> EncoderCard:
    """The card of `compact-rgb`, read without loading weights or a runtime."""
    if variant != Variant():
        raise EncoderError(f"There is no {variant.name('compact-rgb')}. Expected compact-rgb. Leave the rest out.")
    return read_card(WEIGHTS_FOLDER / CARD_FILE)


def load_compact_rgb(variant: Variant, **options: Any) -> CompactEncoder:
    """What the registry calls."""
    compact_rgb_card(variant)
    return CompactEncoder(**options)
