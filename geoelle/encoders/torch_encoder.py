"""An encoder made of a torch network: checks, normalisation, batches, device. Imports torch: import it lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoelle.encoders.inputs import check_batch, check_masks, normalised, usable
from geoelle.encoders.masks import fixed_masks
from geoelle.encoders.moments import moments
from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.errors import EncoderError, EncoderInputError
from geoelle.records import ChipBatch, EncoderCard

Precision = Literal["float32", "bf16", "fp16"]
type Floats = NDArray[np.float32]
type Prepare = Callable[[EncoderCard, ChipBatch], Floats]
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU_BATCH = 8


class TorchEncoder:
    """`geoelle.encoders.Encoder` over a `Network`."""

    def __init__(
        self,
        card: EncoderCard,
        network: Network,
        *,
        prepare: Prepare = normalised,
        device: str = "auto",
        precision: Precision = "float32",
        batch: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Wrap a network with its weights loaded.

        Args:
            card: What it takes.
            network: In evaluation mode.
            prepare: Pixels as pretraining had them, (chip, step, band, y, x), from a batch that fits the card.
            device: `auto` is the GPU where there is one, else the CPU.
            precision: Of the products, under autocast; `float32` is exact.
            batch: Chips at a time; None: 8 on a CPU, on a GPU what its memory takes.
            threads: Of the processor, for each product; None: torch's choice.

        Raises:
            EncoderInputError: If an option makes no sense.
        """
        if precision not in get_args(Precision):
            raise EncoderInputError(f"precision is {precision!r}. Expected one of {', '.join(get_args(Precision))}.")
        if threads is not None:
            torch.set_num_threads(threads)
        self._card, self._prepare, self._precision = card, prepare, precision
        self._device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self._network = network.eval().to(self._device)
        self._batch = batch or CPU_BATCH

    @property
    def card(self) -> EncoderCard:
        """What the encoder is, takes and gives."""
        return self._card

    @property
    def network(self) -> Network:
        """The network itself, in evaluation mode."""
        network: Network = self._network
        return network

    def embed(self, batch: ChipBatch, *, pooling: str | None = None, layer: int | None = None) -> Floats:
        """See `Encoder.embed`.

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such pooling or layer.
        """
        chosen = self._card.pooling if pooling is None else pooling
        if chosen not in self._card.poolings:
            raise EncoderInputError(
                f"{self._card.name} has no pooling {pooling!r}. Expected one of {', '.join(self._card.poolings)}."
            )
        return self._run(batch, lambda inputs: self._network.pool(self._encoded(inputs, layer), chosen))

    def embed_tokens(self, batch: ChipBatch, *, layer: int | None = None) -> Floats:
        """See `Encoder.embed_tokens`.

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such layer.
        """
        shape = self._network.token_shape(batch.pixels.shape[1], batch.pixels.shape[-1])

        def folded(inputs: Inputs) -> Tensor:
            tokens = self._encoded(inputs, layer).tokens
            return tokens.reshape(len(tokens), *shape, -1).mean(dim=1)

        return self._run(batch, folded, (*shape[1:], self._card.n_features))

    def fixed_masks(
        self, chip_ids: NDArray[np.str_], k: int, chip_size_px: int, *, n_steps: int = 1
    ) -> NDArray[np.bool_]:
        """See `Encoder.fixed_masks`.

        Raises:
            EncoderInputError: If the encoder does not take chips of this size, or so many dates.
        """
        if chip_size_px not in self._card.chip_sizes_px or n_steps not in self._card.n_steps:
            raise EncoderInputError(
                f"Masks for {n_steps} dates of {chip_size_px} px were asked for. {self._card.name} takes "
                f"{self._card.n_steps} dates of {self._card.chip_sizes_px} px. Use one of these."
            )
        n_tokens = int(np.prod(self._network.token_shape(n_steps, chip_size_px)))
        return fixed_masks(chip_ids, k, n_tokens, self._card.mask_ratio)

    def pretraining_loss(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """See `Encoder.pretraining_loss`: the mean over the hidden tokens whose pixels are all valid.

        Raises:
            EncoderError: If the loss is unavailable.
            EncoderInputError: If batch or masks do not fit the card.
        """
        return _mean(self._token_losses(batch, masks), axis=2)

    def patch_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """See `Encoder.patch_losses`. NaN also where a patch has invalid pixels.

        Raises:
            EncoderError: If the loss is unavailable.
            EncoderInputError: If batch or masks do not fit the card.
        """
        losses = self._token_losses(batch, masks)
        shape = self._network.token_shape(batch.pixels.shape[1], batch.pixels.shape[-1])
        return _mean(losses.reshape(*losses.shape[:2], *shape), axis=2)

    def _token_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """(chip, mask, token); NaN where a token was not hidden, or has invalid pixels."""
        if self._card.loss_kind == "unavailable":
            raise EncoderError(f"{self._card.name} has no loss: {self._card.loss_definition} Use it to embed only.")
        check_batch(self._card, batch)
        share, rows, columns = self._network.token_shape(batch.pixels.shape[1], batch.pixels.shape[-1])
        check_masks(self._card, batch, masks, share * rows * columns)
        hidden = torch.from_numpy(masks)

        def errors(inputs: Inputs, start: int) -> Tensor:
            part = hidden[start : start + len(inputs.pixels)].to(self._device)
            return self._network.patch_errors(inputs, part)

        losses = self._run_from(batch, errors, masks.shape[1:])
        n, steps, height, width = batch.valid.shape
        whole = usable(batch).reshape(n, steps, rows, height // rows, columns, width // columns).all(axis=(3, 5))
        known = np.repeat(whole, share // steps, axis=1).reshape(n, 1, share * rows * columns)
        return np.where(masks & known, losses, np.float32(np.nan))

    def _encoded(self, inputs: Inputs, layer: int | None) -> Encoded:
        """With one layer's output in place of the encoder's own, where one is asked for."""
        if layer is None:
            whole: Encoded = self._network.encode(inputs)
            return whole
        if not 0 <= layer < self._card.n_layers:
            raise EncoderInputError(
                f"{self._card.name} has no layer {layer}. Expected 0 to {self._card.n_layers - 1}, or none."
            )
        encoded = self._network.encode(inputs, (layer,))
        if encoded.cls is None:
            return Encoded(None, encoded.layers[0])
        return Encoded(encoded.layers[0][:, 0], encoded.layers[0][:, 1:])

    def _run(self, batch: ChipBatch, work: Callable[[Inputs], Tensor], shape: tuple[int, ...] | None = None) -> Floats:
        check_batch(self._card, batch)
        return self._run_from(batch, lambda inputs, _: work(inputs), shape or (self._card.n_features,))

    def _run_from(self, batch: ChipBatch, work: Callable[[Inputs, int], Tensor], shape: tuple[int, ...]) -> Floats:
        """Piece by piece; chips with no valid pixel stay NaN. `shape` is that of a chip of an empty batch."""
        pieces = []
        for start, inputs in self._pieces(batch):
            with torch.inference_mode(), self._autocast():
                pieces.append(work(inputs, start).float().cpu().numpy())
        out: Floats = np.concatenate(pieces) if pieces else np.empty((0, *shape), dtype=np.float32)
        out[~usable(batch).any(axis=(1, 2, 3))] = np.nan
        return out

    def _pieces(self, batch: ChipBatch) -> Iterator[tuple[int, Inputs]]:
        for start in range(0, len(batch), self._batch):
            piece = batch.select(slice(start, start + self._batch))
            pixels = torch.from_numpy(self._prepare(self._card, piece))
            yield (
                start,
                Inputs(
                    pixels.to(self._device),
                    torch.from_numpy(moments(piece.time)).to(self._device),
                    torch.from_numpy(np.asarray(piece.lonlat, dtype=np.float64)).to(self._device),
                    torch.tensor(self._card.wavelength_um, dtype=torch.float32, device=self._device),
                    batch.gsd_m,
                ),
            )

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision == "float32":
            return nullcontext()
        context: AbstractContextManager[object] = torch.autocast(self._device.type, _AUTOCAST[self._precision])
        return context


def _mean(losses: Floats, axis: int) -> Floats:
    """Mean of what is not NaN, in float64; NaN where nothing is."""
    known = np.isfinite(losses)
    total, n = np.where(known, losses, 0.0).sum(axis=axis, dtype=np.float64), known.sum(axis=axis)
    mean = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return np.asarray(mean, dtype=np.float32)
