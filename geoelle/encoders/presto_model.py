"""Presto's network, built from torchgeo's, and the encoder over it. Imports torch: import it lazily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchgeo.models import Presto

from geoelle.encoders.inputs import check_batch, check_masks
from geoelle.encoders.network import Encoded, Inputs, Network
from geoelle.encoders.presto import (
    GROUPS,
    N_CLASSES,
    fixed_series_masks,
    n_tokens,
    random_combinations,
    stand_in,
)
from geoelle.encoders.torch_encoder import TorchEncoder
from geoelle.errors import EncoderInputError
from geoelle.records import ChipBatch

type Floats = NDArray[np.float32]
_N_VALUES = sum(len(bands) for bands in GROUPS.values())
_DAYS_BEFORE_MONTH = (31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)


@dataclass(frozen=True, slots=True)
class PrestoConfig:
    """The network's size; the defaults are those of the published weights."""

    n_features: int = 128
    depth: int = 2
    heads: int = 8
    mlp_ratio: int = 4
    decoder_features: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 8
    max_steps: int = 24


@dataclass(frozen=True, slots=True)
class _Series:
    """What torchgeo's Presto is told of some series."""

    values: Tensor
    """(series, step, 17); 0 where a value is not known."""
    classes: Tensor
    """(series, step): Dynamic World, 9 where not known."""
    latlon: Tensor
    """(series, 2): latitude first."""
    month: Tensor
    """(series, step), 0 to 11."""
    missing: Tensor
    """(series, token): whether a value of the token is not known."""

    def repeat(self, k: int) -> _Series:
        """Each series `k` times in a row."""
        return _Series(*(getattr(self, name).repeat_interleave(k, dim=0) for name in self.__slots__))

    def select(self, rows: Tensor) -> _Series:
        return _Series(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class _Visible:
    """What the encoder makes of series that show it as many tokens."""

    rows: Tensor
    """Which series."""
    kept: Tensor
    """(row, visible token): indices of the tokens."""
    removed: Tensor
    """(row, hidden token)."""
    tokens: Tensor
    """(row, 1 place token + visible token, feature), after the final norm."""
    raw: list[Tensor]
    """The same before it, of each block."""


class PrestoNetwork(Network):
    """torchgeo's encoder and decoder; the state dict has the published names.

    What is added: tokens that are not known are left out, series by series, where torchgeo asks for the same number in
    all of a batch; and the embedding, which is the norm of the mean over the visible tokens and the place token
    (Presto's own evaluation; the mean of the normed tokens, which torchgeo's encoder gives, is another vector).
    """

    def __init__(self, config: PrestoConfig) -> None:
        super().__init__()
        whole = Presto(
            encoder_embedding_size=config.n_features,
            encoder_depth=config.depth,
            encoder_num_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            decoder_embedding_size=config.decoder_features,
            decoder_depth=config.decoder_depth,
            decoder_num_heads=config.decoder_heads,
            max_sequence_length=config.max_steps,
        )
        self.encoder, self.decoder = whole.encoder, whole.decoder

    def token_shape(self, n_steps: int, chip_size_px: int) -> tuple[int, int, int]:
        """All tokens of a series share its one pixel."""
        return n_tokens(n_steps), chip_size_px, chip_size_px

    def encode(self, inputs: Inputs, layers: Sequence[int] = ()) -> Encoded:
        """`cls` is the embedding, `tokens` are NaN where a value is not known; the same goes for `layers`."""
        series = _series_of(inputs)
        shape = (*series.missing.shape, self.encoder.embedding_size)
        cls = series.values.new_empty(shape[0], shape[2])
        tokens = series.values.new_full(shape, torch.nan)
        # In the place of a class token stands the mean over tokens and place token, from which `cls` is made.
        outputs = [series.values.new_full((shape[0], shape[1] + 1, shape[2]), torch.nan) for _ in layers]
        for part in self._visible(series, series.missing):
            at = part.rows[:, None]
            cls[part.rows] = self.encoder.norm(part.raw[-1].mean(dim=1)).to(cls.dtype)
            tokens[at, part.kept] = part.tokens[:, 1:].to(tokens.dtype)
            for output, layer in zip(outputs, layers, strict=True):
                raw = part.raw[layer].to(output.dtype)
                output[part.rows, 0] = raw.mean(dim=1)
                output[at, part.kept + 1] = raw[:, 1:]
        return Encoded(cls, tokens, tuple(outputs))

    def pool(self, encoded: Encoded, pooling: str) -> Tensor:
        """The embedding; `mean` is the only pooling there is."""
        assert encoded.cls is not None  # noqa: S101 - `encode` always gives it
        return encoded.cls

    def patch_errors(self, inputs: Inputs, hidden: Tensor) -> Tensor:
        """Mean squared error over the values of each token; NaN where one is not known, and for Dynamic World."""
        series, k = _series_of(inputs).repeat(hidden.shape[1]), hidden.shape[1]
        predicted = self.predict(series, hidden.reshape(-1, hidden.shape[2]))
        token, counted = (each.to(hidden.device) for each in token_of_values(series.values.shape[1]))
        squares = ((predicted - series.values) ** 2)[:, counted]
        errors = squares.new_zeros(series.missing.shape).index_add_(1, token[counted], squares)
        per_token = torch.bincount(token[counted], minlength=errors.shape[1])
        errors = torch.where(series.missing | (per_token == 0), torch.nan, errors / per_token)
        return errors.reshape(len(hidden), k, -1)

    def predict(self, series: _Series, hidden: Tensor) -> Tensor:
        """What the decoder makes of series (series, step, 17) of which tokens (series, token) are hidden."""
        predicted = torch.empty_like(series.values)
        for part in self._visible(series, hidden | series.missing):
            found, _ = self.decoder(part.tokens, part.kept, part.removed, series.month[part.rows])
            predicted[part.rows] = found.to(predicted.dtype)
        return predicted

    def _visible(self, series: _Series, hidden: Tensor) -> Iterator[_Visible]:
        """Encode what is not hidden, together the series with as many such tokens; `hidden` is (series, token)."""
        n_steps = series.values.shape[1]
        token, _ = token_of_values(n_steps)
        counts = hidden.sum(dim=1)
        for count in counts.unique():
            rows = torch.nonzero(counts == count)[:, 0]
            part, away = series.select(rows), hidden[rows]
            classes = torch.where(away[:, -n_steps:], N_CLASSES, part.classes)
            with _outputs(self.encoder.blocks) as raw:
                tokens, kept, removed = self.encoder(
                    part.values, classes, part.latlon, mask=away[:, token.to(away.device)], month=part.month
                )
            yield _Visible(rows, kept, removed, tokens, raw)

    @staticmethod
    def hidden_by(noise: Tensor, mask_ratio: float) -> Tensor:
        """See `presto.random_combinations`."""
        return torch.from_numpy(random_combinations(noise.cpu().numpy(), mask_ratio)).to(noise.device)


@contextmanager
def _outputs(blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
    """The outputs of blocks while they are called once."""
    found: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _module, _inputs, output: found.append(output)) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def token_of_values(n_steps: int) -> tuple[Tensor, Tensor]:
    """The token that each value belongs to, and whether it counts in its loss, (step, 17) each.

    Terrain has one token, made of the first step: its values in later steps do not count.
    """
    token, counted = (
        torch.empty(n_steps, _N_VALUES, dtype=torch.int64),
        torch.ones(n_steps, _N_VALUES, dtype=torch.bool),
    )
    start = 0
    for name, bands in GROUPS.items():
        steps = torch.zeros(n_steps, dtype=torch.int64) if name == "SRTM" else torch.arange(n_steps)
        token[:, list(bands)] = (start + steps)[:, None]
        start += 1 if name == "SRTM" else n_steps
        if name == "SRTM":
            counted[1:, list(bands)] = False
    return token, counted


def _series_of(inputs: Inputs) -> _Series:
    """Of (chip, step, 18, 1, 1) with NaN where a value is not known, as `presto.scaled_series` gives it."""
    whole = inputs.pixels[..., 0, 0]
    unknown = whole.isnan()
    n_steps = whole.shape[1]
    missing = torch.zeros(len(whole), n_tokens(n_steps), dtype=torch.bool, device=whole.device)
    token, _ = token_of_values(n_steps)
    for band in range(_N_VALUES):
        missing[:, token[:, band]] |= unknown[:, :, band]
    missing[:, -n_steps:] = unknown[:, :, _N_VALUES]
    known = torch.where(unknown, torch.zeros_like(whole), whole)
    classes = torch.where(unknown[:, :, _N_VALUES], N_CLASSES, known[:, :, _N_VALUES].long())
    return _Series(known[:, :, :_N_VALUES], classes, inputs.lonlat.flip(1).float(), _month(inputs.when), missing)


def _month(when: Tensor) -> Tensor:
    """Month from 0 of moments (..., 4): year, day of year from 1, ..."""
    year, day = when[..., 0].long(), when[..., 1].long() - 1
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    # 29 February counts as the 28th, so that all years have the same months.
    day = day - (leap & (day >= _DAYS_BEFORE_MONTH[1])).long()
    return torch.bucketize(day, torch.tensor(_DAYS_BEFORE_MONTH, device=day.device), right=True)


class PrestoEncoder(TorchEncoder):
    """Presto. What differs from others: single values of a chip may be unknown, and the loss is a mean over values."""

    network: PrestoNetwork

    def embed_tokens(self, batch: ChipBatch, *, layer: int | None = None) -> Floats:
        """A series has one pixel, so its only patch token is its embedding: (chip, 1, 1, feature).

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such layer.
        """
        return self.embed(batch, layer=layer)[:, None, None]

    def fixed_masks(
        self, chip_ids: NDArray[np.str_], k: int, chip_size_px: int, *, n_steps: int = 12
    ) -> NDArray[np.bool_]:
        """Masks of the strategy random_combinations, (chip, mask, token), of the tokens of `presto.n_tokens`.

        Raises:
            EncoderInputError: If the encoder does not take chips of this size, or so many months.
        """
        if chip_size_px not in self.card.chip_sizes_px or n_steps not in self.card.n_steps:
            raise EncoderInputError(
                f"Masks for {n_steps} months of {chip_size_px} px were asked for. {self.card.name} takes "
                f"{self.card.n_steps[0]} months of 1 px. Use these."
            )
        return fixed_series_masks(chip_ids, k, n_steps)

    def pretraining_loss(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """The mean over hidden values that are known, (chip, mask): a token counts as many times as it has values.

        Raises:
            EncoderInputError: If batch or masks do not fit the card.
        """
        losses = self._token_losses(batch, masks)
        token, counted = token_of_values(batch.pixels.shape[1])
        values = np.bincount(token[counted].numpy(), minlength=masks.shape[2])
        weight = np.where(np.isfinite(losses), values, 0).astype(np.float64)
        total, n = (np.nan_to_num(losses) * weight).sum(axis=2), weight.sum(axis=2)
        mean = np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
        return np.asarray(mean, dtype=np.float32)

    def patch_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """The same, as a series has one pixel: (chip, mask, 1, 1).

        Raises:
            EncoderInputError: If batch or masks do not fit the card.
        """
        return self.pretraining_loss(batch, masks)[:, :, None, None]

    def _token_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """(chip, mask, token); NaN where a token was not hidden, is not known, or is of Dynamic World."""
        check_batch(self.card, batch)
        check_masks(self.card, batch, masks, n_tokens(batch.pixels.shape[1]))
        hidden = torch.from_numpy(masks)

        def errors(inputs: Inputs, start: int) -> Tensor:
            return self.network.patch_errors(
                inputs, hidden[start : start + len(inputs.pixels)].to(inputs.pixels.device)
            )

        losses = self._run_from(batch, errors, masks.shape[1:], passes=masks.shape[1])
        return np.where(masks, losses, np.float32(np.nan))

    def _run_from(self, batch: ChipBatch, work: Any, shape: tuple[int, ...], **options: Any) -> Floats:
        """One value known in a valid month is enough for a series to be encoded."""
        return super()._run_from(stand_in(batch), work, shape, **options)
