"""An encoder made of a torch network: checks, normalisation, batches, device. Imports torch: import it lazily."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoelle.encoders.inputs import check_batch, check_masks, normalised, usable
from geoelle.encoders.masks import fixed_masks
from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.encoders.torch_device import (
    Precision,
    check_options,
    first_batch,
    is_out_of_memory,
    pick_device,
    running_on,
)
from geoelle.encoders.torch_feed import Copies, Feed, Prepare, tensor_of
from geoelle.errors import EncoderError, EncoderInputError
from geoelle.records import ChipBatch, EncoderCard

__all__ = ("Precision", "Prepare", "TorchEncoder")

type Floats = NDArray[np.float32]
type Work = Callable[[Inputs, int], Tensor]
"""What is done with a piece, given the place of its first chip in the batch; (chip, ...)."""

_META = torch.device("meta")
"""Of a network that was opened for its shapes alone: nothing is computed there."""


class TorchEncoder:
    """`geoelle.encoders.Encoder` over a `Network`.

    A chip's result depends on the other chips only by float rounding, and the same call gives the same bits. One
    instance may be used from several threads: calls on one device wait for one another. It pickles with its weights.
    """

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
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        """Wrap a network with its weights loaded.

        Args:
            card: What it takes.
            network: In evaluation mode.
            prepare: Pixels as pretraining had them, (chip, step, band, y, x), from a batch that fits the card.
            device: `auto` is the GPU where there is one, else the CPU; `cpu`, `cuda` or `cuda:1` is that and no other.
            precision: Of the products, under autocast; `float32` is exact, TF32 is off. `fp16` needs a GPU.
            batch: Chips, or masked chips, at a time; None: 8 on a CPU, on a GPU as many as its memory takes.
            threads: Of the processor, for each call and for no longer; None: torch's choice.
            channels_last: Lay weights out for convolutions: a fifth faster for ResNets, nothing for transformers.
            compiled: By torch.compile. Takes half a minute at first use; slightly faster after that, other rounding.

        Raises:
            EncoderInputError: If an option makes no sense, or there is no such device.
        """
        self._device = _META if any(p.is_meta for p in network.parameters()) else pick_device(device)
        check_options(self._device, precision, batch, threads)
        self._card, self._prepare, self._precision, self._threads = card, prepare, precision, threads
        self._asked_device, self._asked_batch = device, batch
        self._channels_last, self._compiled = channels_last, compiled
        self._network = network.eval()
        self._settle()

    def _settle(self) -> None:
        """Bring the network to the device."""
        self._network = self._network.to(self._device)
        if self._channels_last:
            self._network = self._network.to(memory_format=torch.channels_last)
        self._encode = torch.compile(self._network.encode) if self._compiled else self._network.encode
        self._patch_errors = torch.compile(self._network.patch_errors) if self._compiled else self._network.patch_errors
        self._size = self._asked_batch or first_batch(self._device, self._card)
        self._feed = Feed(self._card, self._prepare, Copies(self._device))

    def __getstate__(self) -> dict[str, Any]:
        # Streams, compiled code and memory of a GPU stay here; the other process has its own.
        left = {"_device", "_encode", "_patch_errors", "_size", "_feed"}
        state = {name: value for name, value in self.__dict__.items() if name not in left}
        if self._device.type != "cpu":
            state["_network"] = copy.deepcopy(self._network).cpu()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._device = pick_device(self._asked_device)
        check_options(self._device, self._precision, self._asked_batch, self._threads)
        self._settle()

    @property
    def card(self) -> EncoderCard:
        """What the encoder is, takes and gives."""
        return self._card

    @property
    def batch_size(self) -> int:
        """Chips, or masked chips, that run at a time. On a GPU it halves when the memory turns out too small."""
        return self._size

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._device

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
        self._check_layer(layer)
        return self._run(batch, lambda inputs: self._network.pool(self._encoded(inputs, layer), chosen))

    def embed_tokens(self, batch: ChipBatch, *, layer: int | None = None) -> Floats:
        """See `Encoder.embed_tokens`.

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such layer.
        """
        check_batch(self._card, batch)
        self._check_layer(layer)
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
        return fixed_masks(chip_ids, k, n_tokens, self._card.mask_ratio, hidden=self._n_hidden(n_tokens))

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
        n_tokens = share * rows * columns
        check_masks(self._card, batch, masks, n_tokens, hidden=self._n_hidden(n_tokens))
        if not masks.size:
            return np.empty(masks.shape, dtype=np.float32)

        def errors(inputs: Inputs, start: int) -> Tensor:
            hidden = tensor_of(masks[start : start + len(inputs.pixels)]).to(self._device)
            parts = hidden.split(self._size, dim=1)  # many masks of one chip are as large as many chips
            return torch.cat([self._patch_errors(inputs, part) for part in parts], dim=1)

        losses = self._run_from(batch, errors, masks.shape[1:], passes=masks.shape[1])
        n, steps, height, width = batch.valid.shape
        whole = usable(batch).reshape(n, steps, rows, height // rows, columns, width // columns).all(axis=(3, 5))
        counted = masks & np.repeat(whole, share // steps, axis=1).reshape(n, 1, share * rows * columns)
        self._refuse_lost(batch, (np.isfinite(losses) | ~counted).all(axis=(1, 2)))
        return np.where(counted, losses, np.float32(np.nan))

    def _n_hidden(self, n_tokens: int) -> int:
        """Tokens that pretraining hid of so many: networks round a share of them differently."""
        any_noise = torch.arange(n_tokens, dtype=torch.float32)[None] / n_tokens
        return int(self._network.hidden_by(any_noise, self._card.mask_ratio).sum())

    def _check_layer(self, layer: int | None) -> None:
        if layer is not None and not 0 <= layer < self._card.n_layers:
            raise EncoderInputError(
                f"{self._card.name} has no layer {layer}. Expected 0 to {self._card.n_layers - 1}, or none."
            )

    def _encoded(self, inputs: Inputs, layer: int | None) -> Encoded:
        """With one layer's output in place of the encoder's own, where one is asked for."""
        encoded: Encoded = self._encode(inputs, () if layer is None else (layer,))
        if layer is None:
            return encoded
        if encoded.cls is None:
            return Encoded(None, encoded.layers[0])
        return Encoded(encoded.layers[0][:, 0], encoded.layers[0][:, 1:])

    def _run(self, batch: ChipBatch, work: Callable[[Inputs], Tensor], shape: tuple[int, ...] | None = None) -> Floats:
        """(chip, ...) of what `work` makes of the chips; NaN for chips with no valid pixel.

        Raises:
            EncoderError: If another chip's is not finite.
        """
        check_batch(self._card, batch)
        found = self._run_from(batch, lambda inputs, _: work(inputs), shape or (self._card.n_features,))
        self._refuse_lost(batch, np.isfinite(found).all(axis=tuple(range(1, found.ndim))))
        return found

    def _run_from(self, batch: ChipBatch, work: Work, shape: tuple[int, ...], *, passes: int = 1) -> Floats:
        """Piece by piece; chips with no valid pixel are NaN.

        Args:
            batch: The chips, checked.
            work: What is done with a piece.
            shape: Of a chip's result, for an empty batch.
            passes: How often `work` runs each chip through the network at once.

        Raises:
            EncoderError: If the GPU's memory does not even take one chip, or not the batch asked for.
        """
        pieces: list[Floats] = []
        done = 0
        with running_on(self._device, self._precision, self._threads):
            while done < len(batch):
                full: RuntimeError | None = None
                try:
                    for piece in self._results(batch, done, max(1, self._size // passes), work):
                        pieces.append(piece)
                        done += len(piece)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    full = error.with_traceback(None)  # its frames hold what fills the memory
                if full is not None:
                    self._shrink(full)
        return np.concatenate(pieces) if pieces else np.empty((0, *shape), dtype=np.float32)

    def _results(self, batch: ChipBatch, start: int, size: int, work: Work) -> Iterator[Floats]:
        """A piece's result is waited for once the next piece's work is on its way, so that a GPU is never idle."""
        under_way: Callable[[], Floats] | None = None
        for piece in self._feed.pieces(batch, start, size):
            found = work(piece.inputs, piece.start).float()
            blank = ~piece.real.reshape(-1, *[1] * (found.ndim - 1))
            before, under_way = under_way, self._feed.copies.back(found.masked_fill(blank, torch.nan))
            if before is not None:
                yield before()
        if under_way is not None:
            yield under_way()

    def _shrink(self, full: RuntimeError) -> None:
        """Halve the batch after the GPU's memory was too small for it.

        Raises:
            EncoderError: If it cannot be halved, or was asked for.
        """
        if self._asked_batch is not None or self._size == 1:
            raise EncoderError(
                f"The memory of {self._device} does not take {self._size} chip(s) of {self._card.name} at a time. "
                f"Expected that it does. {'Ask for a smaller batch' if self._size > 1 else 'Use a larger GPU'}, or "
                "end what else is on it."
            ) from full
        self._size //= 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _refuse_lost(self, batch: ChipBatch, finite: NDArray[np.bool_]) -> None:
        """Refuse results that are not finite where there are pixels: a number format that ran over."""
        if finite.all():
            return
        lost = usable(batch).any(axis=(1, 2, 3)) & ~finite
        if lost.any():
            advice = "Check its weights." if self._precision == "float32" else "Use precision 'float32', or 'bf16'."
            raise EncoderError(
                f"{self._card.name} in {self._precision} gave values that are not finite for {int(lost.sum())} of "
                f"{len(batch)} chips, first {str(batch.chip_id[lost][0])!r}. Expected numbers. {advice}"
            )


def _mean(losses: Floats, axis: int) -> Floats:
    """Mean of what is not NaN, in float64; NaN where nothing is."""
    known = np.isfinite(losses)
    total, n = np.where(known, losses, 0.0).sum(axis=axis, dtype=np.float64), known.sum(axis=axis)
    mean = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
    return np.asarray(mean, dtype=np.float32)
