"""SatCLIP behind the encoder protocol: one loss per chip, no masks, and two lengths of embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoelle.encoders.inputs import check_batch, check_masks
from geoelle.encoders.network import Inputs
from geoelle.encoders.satclip_model import Bank, SatclipNetwork, cosines
from geoelle.encoders.satclip_places import NEARER_KM, read_places
from geoelle.encoders.torch_encoder import Floats, TorchEncoder
from geoelle.errors import EncoderError, EncoderInputError
from geoelle.records import ChipBatch, EncoderCard


class SatclipEncoder(TorchEncoder):
    """`geoelle.encoders.Encoder` over a `SatclipNetwork`."""

    def __init__(self, card: EncoderCard, network: SatclipNetwork, **options: Any) -> None:
        """Wrap a network with its weights loaded; options as `TorchEncoder`."""
        super().__init__(card, network, **options)
        self._width = int(network.visual.num_features)  # which is not the card's, where the embedding is projected
        self._bank: Bank | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The places lie where the network does; another process embeds them where its own is.
        return super().__getstate__() | {"_bank": None}

    def embed(self, batch: ChipBatch, *, pooling: str | None = None, layer: int | None = None) -> Floats:
        """See `Encoder.embed`. `projected` has the card's length, `backbone` and `mean` that of the image tower.

        A block's output is not projected: with `layer`, the card's own choice is `backbone`.

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such pooling or layer.
        """
        if layer is not None:
            self._check_layers()
            if pooling == "projected":
                raise EncoderInputError(
                    f"{self.card.name} projects its last block alone, and layer {layer} was asked for. "
                    "Ask for pooling 'backbone' or 'mean'."
                )
            pooling = pooling or "backbone"
        found = super().embed(batch, pooling=pooling, layer=layer)
        return found if len(batch) or pooling in (None, "projected") else np.empty((0, self._width), np.float32)

    def embed_tokens(self, batch: ChipBatch, *, layer: int | None = None) -> Floats:
        """See `Encoder.embed_tokens`; a ResNet's tokens are the cells of its last feature map.

        Raises:
            EncoderInputError: If the batch does not fit the card, or there is no such layer.
        """
        if layer is not None:
            self._check_layers()
        found = super().embed_tokens(batch, layer=layer)
        return found if len(batch) else np.empty((*found.shape[:3], self._width), np.float32)

    def fixed_masks(
        self, chip_ids: NDArray[np.str_], k: int, chip_size_px: int, *, n_steps: int = 1
    ) -> NDArray[np.bool_]:
        """One mask per chip that hides nothing, (chip, 1, token), whatever `k` is: the loss draws no masks.

        Raises:
            EncoderInputError: If the encoder does not take chips of this size, or so many dates.
        """
        if chip_size_px not in self.card.chip_sizes_px or n_steps not in self.card.n_steps:
            raise EncoderInputError(
                f"Masks for {n_steps} dates of {chip_size_px} px were asked for. {self.card.name} takes "
                f"{self.card.n_steps} dates of {self.card.chip_sizes_px} px. Use one of these."
            )
        n_tokens = int(np.prod(self.network.token_shape(n_steps, chip_size_px)))
        return np.zeros((len(chip_ids), 1, n_tokens), dtype=bool)

    def pretraining_loss(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """See `Encoder.pretraining_loss`: of shape (chip, 1).

        Raises:
            EncoderError: If the loss is unavailable.
            EncoderInputError: If the batch does not fit the card, or `masks` hide anything.
        """
        if self.card.loss_kind == "unavailable":
            raise EncoderError(f"{self.card.name} has no loss: {self.card.loss_definition} Use it to embed only.")
        check_batch(self.card, batch)
        tokens = int(np.prod(self.network.token_shape(batch.pixels.shape[1], batch.pixels.shape[-1])))
        check_masks(self.card, batch, masks, tokens)
        if masks.shape[1] != 1:
            raise EncoderInputError(
                f"{self.card.name} was given {masks.shape[1]} masks per chip. Expected one that hides nothing. "
                "Take them from its fixed_masks."
            )
        measure = self._one_minus_cosine if self.card.loss_kind == "proxy" else self._against_places
        return self._run_from(batch, lambda inputs, _: self._outside_autocast(inputs, measure), (1,))

    def patch_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> Floats:
        """SatCLIP has no loss per patch.

        Raises:
            EncoderError: Always.
        """
        raise EncoderError(f"{self.card.name} has one loss per chip and none per patch. Use pretraining_loss.")

    def _check_layers(self) -> None:
        if self.card.n_layers == 0:
            raise EncoderInputError(f"{self.card.name} has no transformer blocks. Leave `layer` out.")

    def _outside_autocast(self, inputs: Inputs, measure: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The image tower in the precision asked for; what follows in float32, for it is scaled up to 100 times."""
        image = self.network.pool(self.network.encode(inputs), "projected")
        with torch.autocast(inputs.pixels.device.type, enabled=False):
            return measure(image, inputs.lonlat)[:, None]

    @property
    def _towers(self) -> SatclipNetwork:
        return cast(SatclipNetwork, self.network)

    def _one_minus_cosine(self, image: Tensor, lonlat: Tensor) -> Tensor:
        return 1 - cosines(image, self._towers.locate(lonlat)).diagonal()

    def _against_places(self, image: Tensor, lonlat: Tensor) -> Tensor:
        if self._bank is None:
            places = torch.from_numpy(read_places()).to(lonlat.device)
            self._bank = Bank(places, self._towers.locate(places))
        return self._towers.place_losses(image, lonlat, self._bank, NEARER_KM)
