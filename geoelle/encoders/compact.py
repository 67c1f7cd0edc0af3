"""The compact encoder: geoelle's own masked autoencoder, shipped with the package."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.compact_cards import WEIGHTS_FOLDER, compact_card, full_name, split_variant
from geoelle.encoders.compact_runtime import (
    EMBED_GRAPH,
    Floats,
    OnnxRuntime,
    Runtime,
    RuntimeName,
    TorchRuntime,
    Where,
    check_sha256,
)
from geoelle.encoders.inputs import check_batch, check_masks, normalised, usable
from geoelle.encoders.masks import fixed_masks
from geoelle.encoders.registry import Variant
from geoelle.errors import EncoderInputError, WeightsError
from geoelle.records import ChipBatch, EncoderCard


class CompactEncoder:
    """Adapter of the compact masked autoencoder (`geoelle.encoders.Encoder`), for any subset of its bands.

    Pixels are clipped to the card's range, scaled and standardised here and nowhere else. An invalid or NaN pixel
    takes the card's mean, which is 0 after that. The result for a chip is the same to the bit whatever else is in
    the batch and however many threads there are. One instance may be used from several threads, and it pickles
    as its constructor's arguments.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        bands: tuple[str, ...] = ("red", "green", "blue"),
        gsd_m: float = 10.0,
        name: str | None = None,
        runtime: RuntimeName = "onnx",
        threads: int = 2,
        int8: bool = False,
    ) -> None:
        """Load weights and card.

        Args:
            folder: Where card, weights and graphs lie; None is what geoelle ships.
            bands: Bands of the pixels, in their order; at least one of the ten on the card.
            gsd_m: Pixel size, 10 or 20 m.
            name: Full name for the card; None makes one that the registry knows.
            runtime: `onnx` (ONNX Runtime) or `torch` (needs geoelle[models]); they agree to 1e-5.
            threads: Chips encoded at the same time.
            int8: Embed with weights of 8 bits, in ONNX Runtime; losses, where asked for, are of the 32-bit network.

        Raises:
            EncoderInputError: If an option makes no sense.
            EncoderError: If bands or pixel size are not among those of training.
            WeightsError: If card or weights are missing or damaged, or do not belong together.
        """
        if threads < 1:
            raise EncoderInputError(f"threads = {threads} was asked for. Expected at least 1. Use the number of cores.")
        if runtime not in ("onnx", "torch"):
            raise EncoderInputError(f"There is no runtime {runtime!r}. Expected 'onnx' or 'torch'. Use 'onnx'.")
        if int8 and runtime != "onnx":
            raise EncoderInputError("int8=True was asked for with runtime='torch'. It needs 'onnx'. Leave one out.")
        self._folder = Path(folder) if folder is not None else WEIGHTS_FOLDER
        self._runtime_name: RuntimeName = runtime
        self._threads = threads
        self._int8 = int8
        self._card = compact_card(
            name or full_name(tuple(bands), gsd_m, int8), tuple(bands), gsd_m, int8=int8, folder=self._folder
        )
        if self._card.clip is None:
            raise WeightsError(f"The card in {self._folder} names no clip range. Expected one. Correct the card file.")
        check_sha256(self._folder / self._card.weights, self._card.weights_sha256)
        where = Where(np.array(self._card.wavelength_um, dtype=np.float32), np.array(gsd_m, dtype=np.float32))
        self._runtime: Runtime = (
            OnnxRuntime(self._folder, where, embed=self._card.weights if int8 else EMBED_GRAPH)
            if runtime == "onnx"
            else TorchRuntime(self._folder, self._card, where)
        )

    def __reduce__(self) -> tuple[Callable[..., CompactEncoder], tuple[Any, ...]]:
        # Sessions do not pickle; a Dask worker opens its own.
        options = {"runtime": self._runtime_name, "threads": self._threads, "int8": self._int8}
        card = {"bands": self._card.bands, "gsd_m": self._card.gsd_m, "name": self._card.name}
        return _open, (self._folder, options | card)

    @property
    def card(self) -> EncoderCard:
        """What the encoder is, takes and gives."""
        return self._card

    def embed(self, batch: ChipBatch, *, pooling: str | None = None, layer: int | None = None) -> NDArray[np.float32]:
        """Embeddings of shape (chip, feature). NaN rows for chips with no valid pixel.

        Args:
            batch: The chips.
            pooling: `cls` or `mean` (of the patch tokens); None: as the card says.
            layer: Block whose output is taken as it is, 0 to `card.n_layers` - 1; None: the last norm's.

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such pooling or layer.
        """
        pooling = self._card.pooling if pooling is None else pooling
        if pooling not in self._card.poolings:
            raise EncoderInputError(
                f"There is no pooling {pooling!r}. {self._card.name} has {' and '.join(self._card.poolings)}. Use one."
            )
        self._check_layer(layer)
        pixels, good = self._prepare(batch)
        out = np.full((len(batch), self._card.n_features), np.nan, dtype=np.float32)

        def one(i: int) -> None:
            if pooling == "cls":
                out[i] = self._runtime.cls(pixels[i], layer)
            else:
                out[i] = self._runtime.tokens(pixels[i], layer).mean(axis=0, dtype=np.float32)

        self._each(one, good.any(axis=(1, 2)))
        return out

    def embed_tokens(self, batch: ChipBatch, *, layer: int | None = None) -> NDArray[np.float32]:
        """Patch tokens of shape (chip, patch_y, patch_x, feature), north to south. Arguments and NaN as for `embed`.

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such layer.
        """
        self._check_layer(layer)
        pixels, good = self._prepare(batch)
        side = pixels.shape[-1] // self._card.patch_px
        out = np.full((len(batch), side, side, self._card.n_features), np.nan, dtype=np.float32)

        def one(i: int) -> None:
            out[i] = self._runtime.tokens(pixels[i], layer).reshape(side, side, -1)

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

    def _check_layer(self, layer: int | None) -> None:
        if layer is not None and not 0 <= layer < self._card.n_layers:
            raise EncoderInputError(
                f"Layer {layer} was asked for. {self._card.name} has layers 0 to {self._card.n_layers - 1}. Use one."
            )

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


def _open(folder: Path, options: dict[str, Any]) -> CompactEncoder:
    return CompactEncoder(folder, **options)


def _load(base: str) -> Callable[..., CompactEncoder]:
    def load(variant: Variant, **options: Any) -> CompactEncoder:
        bands, gsd_m, int8 = split_variant(base, variant)
        if int8:
            options["int8"] = True
        return CompactEncoder(bands=bands, gsd_m=gsd_m, name=variant.name(base), **options)

    load.__doc__ = f"What the registry calls for `{base}`."
    return load


load_compact = _load("compact")
load_compact_rgb = _load("compact-rgb")
load_compact_rgbn = _load("compact-rgbn")
load_compact_burn = _load("compact-burn")
load_compact_s2 = _load("compact-s2")
