"""Encoders without a network, for the tests of what takes any encoder: statistics of patches, on every sensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders import Variant, fixed_masks
from geoelle.encoders.inputs import check_batch, check_masks, normalised, usable
from geoelle.errors import EncoderError
from geoelle.records import ChipBatch, EncoderCard
from geoelle.sensors import get_sensor

SIDE_PX, PATCH_PX = 32, 8
FEEDS: dict[str, tuple[tuple[str, ...], str, float]] = {
    "sentinel-2-l2a": (("red", "green", "blue"), "reflectance", 10.0),
    "sentinel-1-rtc": (("vv", "vh"), "dB", 10.0),
    "naip": (("red", "green", "blue", "nir"), "dn", 1.0),
    "hls-s30": (("blue", "green", "red", "nir08", "swir16", "swir22"), "reflectance", 30.0),
}
"""Bands, units and pixel size by sensor."""
_LEVELS = {"reflectance": (0.1, 0.05), "dB": (-12.0, 5.0), "dn": (100.0, 40.0)}
VARIANTS = tuple(sensor for sensor in FEEDS if sensor != "sentinel-2-l2a")


def plain_card(variant: Variant, name: str = "plain", **changes: Any) -> EncoderCard:
    """The card of `plain`, which any sensor of `FEEDS` can feed."""
    sensor = variant.what or "sentinel-2-l2a"
    if sensor not in FEEDS:
        raise EncoderError(f"There is no {variant.name(name)}. Expected one of {', '.join(FEEDS)}.")
    bands, units, gsd_m = FEEDS[sensor]
    mean, std = _LEVELS[units]
    card = EncoderCard(
        name=variant.name(name), sensor=sensor, bands=bands,
        wavelength_um=tuple(get_sensor(sensor).band(band).wavelength_um for band in bands), units=units, scale=1.0,
        clip=None, mean=(mean,) * len(bands), std=(std,) * len(bands), gsd_m=variant.gsd_m or gsd_m,
        chip_sizes_px=(SIDE_PX, 2 * SIDE_PX), patch_px=PATCH_PX, n_features=2 * len(bands), pooling="mean",
        n_steps=(1,), needs_time=True, needs_lonlat=True, mask_ratio=0.5,
        loss_definition="Mean squared distance of the hidden patches from the chip's mean.", loss_kind="own",
        licence="Apache-2.0", source="made up", weights="none", weights_sha256="7e" * 32, not_good_for="anything",
        training="none", poolings=("mean", "wide"), trained_gsd_m=(gsd_m,),
    )  # fmt: skip
    return replace(card, **changes)


def proxy_card(variant: Variant) -> EncoderCard:
    """The card of `plain-proxy`, whose loss draws no mask and is not what it was trained with."""
    said = "1 - cosine of the chip's brightness with grey."
    return plain_card(variant, "plain-proxy", loss_kind="proxy", mask_ratio=0.0, loss_definition=said)


def partial_card(variant: Variant) -> EncoderCard:
    """The card of `plain-partial`, whose loss lacks a term."""
    said = "Mean squared distance of the hidden patches, without the teacher's term."
    return plain_card(variant, "plain-partial", loss_kind="own-partial", loss_definition=said)


@dataclass(frozen=True)
class PlainEncoder:
    """Means and spreads of bands, over patches."""

    card: EncoderCard

    def embed(self, batch: ChipBatch, *, pooling: str | None = None, layer: int | None = None) -> NDArray[np.float32]:
        patches = self._patches(batch)
        mean, spread = patches.mean(axis=(2, 3)), patches.std(axis=(2, 3))
        parts = [mean, spread] if pooling in (None, "mean") else [mean, spread, patches.mean(axis=3)[:, :, 0]]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def embed_tokens(self, batch: ChipBatch, *, layer: int | None = None) -> NDArray[np.float32]:
        tokens = np.moveaxis(self._patches(batch).mean(axis=3), 1, -1)
        side = int(np.sqrt(tokens.shape[1]))
        return np.tile(tokens, 2).reshape(len(batch), side, side, -1).astype(np.float32)

    def fixed_masks(
        self, chip_ids: NDArray[np.str_], k: int, chip_size_px: int, *, n_steps: int = 1
    ) -> NDArray[np.bool_]:
        return fixed_masks(chip_ids, k, (chip_size_px // PATCH_PX) ** 2, self.card.mask_ratio)

    def pretraining_loss(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        check_masks(self.card, batch, masks)
        patches = self._patches(batch)
        errors = (patches**2).mean(axis=(1, 3))
        if self.card.mask_ratio == 0:
            return np.abs(errors.mean(axis=1, keepdims=True)).astype(np.float32)
        return np.asarray((errors[:, None] * masks).sum(axis=2) / masks.sum(axis=2), dtype=np.float32)

    def patch_losses(self, batch: ChipBatch, masks: NDArray[np.bool_]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _patches(self, batch: ChipBatch) -> NDArray[np.float32]:
        """(chip, band, patch, pixel), normalised."""
        check_batch(self.card, batch)
        pixels = np.where(usable(batch)[:, :, None], normalised(self.card, batch), 0)[:, 0]
        n, bands, side, _ = pixels.shape
        cut = pixels.reshape(n, bands, side // PATCH_PX, PATCH_PX, side // PATCH_PX, PATCH_PX)
        return np.moveaxis(cut, 3, 4).reshape(n, bands, -1, PATCH_PX**2)


def load_plain(variant: Variant, *, threads: int = 1) -> PlainEncoder:
    return PlainEncoder(plain_card(variant))


def load_proxy(variant: Variant, *, threads: int = 1) -> PlainEncoder:
    return PlainEncoder(proxy_card(variant))


def load_partial(variant: Variant, *, threads: int = 1) -> PlainEncoder:
    return PlainEncoder(partial_card(variant))


REGISTERED: dict[str, dict[str, Any]] = {
    "plain": {"card": plain_card, "factory": "plain_encoders:load_plain", "variants": VARIANTS},
    "plain-proxy": {"card": proxy_card, "factory": "plain_encoders:load_proxy"},
    "plain-partial": {"card": partial_card, "factory": "plain_encoders:load_partial"},
}
"""What `register` is told of each."""
