"""From a batch of chips to what a network is fed, piece by piece. Imports torch: import it lazily.

On a GPU, the next piece is copied from pinned memory, on a stream of its own, while the network works on this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoelle.encoders.inputs import normalised, usable
from geoelle.encoders.moments import moments
from geoelle.encoders.network import Inputs
from geoelle.errors import EncoderError
from geoelle.records import ChipBatch, EncoderCard

type Prepare = Callable[[EncoderCard, ChipBatch], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Chips that a network takes at once."""

    start: int
    """Of its first chip in the batch."""
    inputs: Inputs
    real: Tensor
    """(chip,) bool: whether the chip has a usable pixel."""


class Copies:
    """Brings arrays to a device and results back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, array: NDArray[np.generic]) -> Tensor:
        """The array as a tensor there: on a GPU once `wait` was called."""
        if self._stream is None:
            return tensor_of(array)
        computing = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            pinned = torch.empty(array.shape, dtype=tensor_of(array[:0]).dtype, pin_memory=True)
            pinned.numpy()[...] = array
            moved = pinned.to(self._device, non_blocking=True)
        moved.record_stream(computing)  # its memory is not to be used again before both streams are through with it
        return moved

    def wait(self) -> None:
        """What is computed from here on begins after the copies asked for so far."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def back(self, result: Tensor) -> Callable[[], NDArray[np.float32]]:
        """Begin to copy a result; calling what is returned waits for it, and for nothing that was begun later."""
        if self._stream is None:
            return lambda: np.asarray(result.numpy())
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        host.copy_(result, non_blocking=True)
        there = torch.cuda.Event()
        there.record()

        def waited() -> NDArray[np.float32]:
            there.synchronize()
            return np.asarray(host.numpy())

        return waited


@dataclass(frozen=True, slots=True)
class Feed:
    """Makes the pieces of a batch."""

    card: EncoderCard
    prepare: Prepare
    copies: Copies

    def pieces(self, batch: ChipBatch, start: int, size: int) -> Iterator[Piece]:
        """Pieces of `size` chips from the chip `start` on.

        The copies of a piece have begun when the piece before it is handed out, so whoever launches that one's work
        and then asks for the next has both at the same time.
        """
        for at in range(start, len(batch), size):
            chips = batch.select(slice(at, at + size))
            arrived = self._arrived(chips)
            self.copies.wait()
            pixels, real = arrived()
            yield Piece(at, self._inputs(chips, pixels), real)

    def _arrived(self, chips: ChipBatch) -> Callable[[], tuple[Tensor, Tensor]]:
        """Begin the copies; the pixels as pretraining had them, and which chips are real, once they are there."""
        if self.prepare is normalised:  # where the network is, since it takes a core longer than a GPU the network
            raw, valid = self.copies(chips.pixels), self.copies(chips.valid)
            return lambda: normalised_there(self.card, raw, valid)
        prepared = self.prepare(self.card, chips)
        if prepared.shape[0] != len(chips) or prepared.dtype != np.float32:
            raise EncoderError(
                f"The preparation of {self.card.name} gave {prepared.dtype} of shape {prepared.shape} for {len(chips)} "
                "chips. Expected float32 (chip, step, band, y, x). Correct it."
            )
        pixels, real = self.copies(prepared), self.copies(usable(chips).any(axis=(1, 2, 3)))
        return lambda: (pixels, real)

    def _inputs(self, chips: ChipBatch, pixels: Tensor) -> Inputs:
        device = pixels.device
        return Inputs(
            pixels,
            tensor_of(moments(chips.time)).to(device),
            tensor_of(_within_half_a_turn(chips.lonlat)).to(device),
            torch.tensor(self.card.wavelength_um, dtype=torch.float32, device=device),
            chips.gsd_m,
        )


def _within_half_a_turn(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions with longitudes from -180 to 180, as pretraining had them: to Prithvi 190 is not -170."""
    lon, lat = np.asarray(lonlat, dtype=np.float64).T
    return np.stack([np.where(np.abs(lon) > 180, (lon + 180) % 360 - 180, lon), lat], axis=1)


def tensor_of(array: NDArray[np.generic]) -> Tensor:
    """A tensor on the array's own memory where torch takes it, else on a copy: read-only, strides that run back."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def normalised_there(card: EncoderCard, raw: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """`inputs.normalised` on the tensors' device, to the bit, and which chips have a usable pixel.

    Args:
        card: Whose clip, scale, mean and std.
        raw: (chip, step, band, y, x), in the card's units.
        valid: (chip, step, y, x) bool.

    Returns:
        Pixels of the shape of `raw`, and (chip,) bool.
    """
    mean = torch.tensor(card.mean, dtype=torch.float32, device=raw.device)[:, None, None]
    std = torch.tensor(card.std, dtype=torch.float32, device=raw.device)[:, None, None]
    finite = raw.mul(0.0).sum(dim=2) == 0.0  # NaN and infinity times 0 are NaN; a third of the time of isfinite
    good = finite & valid
    scale = float(np.float32(card.scale))
    found = raw.mul(scale) if card.clip is None else raw.clamp(*card.clip).mul_(scale)
    found.sub_(mean).div_(std).masked_fill_(~good[:, :, None], 0.0)
    return found, good.flatten(1).any(dim=1)
