"""What a store says of the encoder that filled it and of the items it was made from, and the card this stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geoelle.encoders import get_card
from geoelle.encoders.inputs import GSD_TOLERANCE
from geoelle.encoders.options import DEFAULT_OPTIONS, EncoderOptions
from geoelle.grid import GridExtent
from geoelle.provenance import digest
from geoelle.records import EncoderCard, ItemRecord, Scene
from geoelle.sensors import Sensor

_DECISIVE = ("name", "sensor", "bands", "units", "scale", "clip", "mean", "std", "patch_px", "pooling")
RANDOM = "random-"
"""Begins the sha256 that a card gives for weights that were never trained."""


def encoder_attrs(card: EncoderCard, extent: GridExtent, options: EncoderOptions = DEFAULT_OPTIONS) -> dict[str, Any]:
    """What a store says about its encoder: enough to refuse another one's probe.

    Args:
        card: As it was opened: with the sha256 of its weights, and pooled as asked for.
        extent: Grid of the chips.
        options: Of which pooling and layer are recorded where they are not the card's own choice.
    """
    attrs: dict[str, Any] = {
        "name": card.name,
        "card_digest": digest({name: getattr(card, name) for name in _DECISIVE}),
        "weights_sha256": card.weights_sha256,
        "bands": list(card.bands),
        "chip_size_px": extent.chip_size_px(card.gsd_m),
        "gsd_m": card.gsd_m,
        "n_features": card.n_features,
        "mask_ratio": card.mask_ratio,
        "loss_kind": card.loss_kind,
        "loss_definition": card.loss_definition,
    }
    if card.trained_gsd_m:
        attrs["trained_gsd_m"] = list(card.trained_gsd_m)
    return attrs | options.reading()


def encoder_notes(card: EncoderCard) -> list[str]:
    """Sentences on how what the encoder is fed differs from what it was trained on. No part of a store's identity."""
    notes = []
    if not is_trained_at(card.gsd_m, card.trained_gsd_m):
        notes.append(f"Read at {card.gsd_m:g} m; the encoder was trained at {in_metres(card.trained_gsd_m)}.")
    notes += card.differs
    if card.weights_sha256.startswith(RANDOM):
        notes.append("The encoder's weights are random: its numbers mean nothing.")
    elif card.checkpoint and not card.validated:
        notes.append("geoelle was never run with this encoder's published weights on real data of this sensor.")
    return notes


def is_trained_at(gsd_m: float, trained_gsd_m: tuple[float, ...]) -> bool:
    """Whether pretraining saw pixels of this size; True where the card says nothing else."""
    return not trained_gsd_m or any(abs(gsd_m / seen - 1) <= GSD_TOLERANCE for seen in trained_gsd_m)


def in_metres(sizes: tuple[float, ...]) -> str:
    """`10 m`, `10 or 30 m`."""
    return f"{' or '.join(f'{size:g}' for size in sizes)} m"


def trained_at(card: EncoderCard) -> str:
    """Pixel sizes that pretraining saw, for people: `10 or 20 m`, or `not known`."""
    return in_metres(card.trained_gsd_m) if card.trained_gsd_m else "not known"


def card_of_store(encoder: Mapping[str, Any]) -> EncoderCard:
    """The card of a store's encoder as it was opened then: what the store records goes before what is known now.

    Args:
        encoder: The store's `geoelle:encoder`.

    Raises:
        UnknownEncoderError: If there is no such encoder here.
    """
    card = get_card(str(encoder["name"]))
    return replace(
        card,
        # As it was asked for then, which may be a longer name for the same: probes and digests hold it.
        name=str(encoder["name"]),
        weights_sha256=str(encoder["weights_sha256"]),
        n_features=int(encoder["n_features"]),
        mask_ratio=float(encoder["mask_ratio"]),
        loss_kind=encoder["loss_kind"],
        loss_definition=str(encoder["loss_definition"]),
        pooling=str(encoder.get("pooling", card.pooling)),
    )


def attribution(sensor: Sensor, days: Iterable[str], *, simulated: bool) -> str:
    """The text that the sensor's data asks for, with the years used."""
    if simulated:
        return "Simulated data: no satellite saw this"
    years = sorted({day[:4] for day in days})
    span = years[0] if years[0] == years[-1] else f"{years[0]}-{years[-1]}"
    return f"{sensor.attribution} [{span}]"


def provenance_of(item: ItemRecord, sensor: Sensor) -> dict[str, Any]:
    """What an item says of how its pixels came about; `scaling` is (scale, offset) as applied."""
    plain = ("collection", "provider", "platform", "datatake", "mgrs_tile", "processing_baseline", "relative_orbit",
             "offset_applied")  # fmt: skip
    bands = {band.name for band in sensor.bands}
    scaling = sorted({(a.scale, a.offset) for name, a in item.assets.items() if name in bands})
    return {
        **{name: getattr(item, name) for name in plain},
        "time": f"{np.datetime_as_string(item.time, 's')}Z",
        "processed": None if item.processed is None else f"{np.datetime_as_string(item.processed, 's')}Z",
        "scaling": [list(pair) for pair in scaling],
    }


def native_gsd_m(scenes: Sequence[Scene], card: EncoderCard, known: float | None) -> float | None:
    """Coarsest pixel, in metres, that an item declares for a band the encoder sees; None where none says."""
    declared = [item.assets[band].gsd_m for scene in scenes for item in scene.items for band in card.bands]
    return max((gsd for gsd in (*declared, known) if gsd is not None), default=None)
