"""Which way of feeding an encoder fits the items, and what its card says once its weights are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geoelle.describing import card_of_store
from geoelle.encoders import Encoder, get_card, list_encoders, split_name, variants_of
from geoelle.encoders.checkpoints import fetch_weights, get_checkpoint
from geoelle.encoders.options import EncoderOptions
from geoelle.encoders.registry import Variant, factory_of
from geoelle.errors import EncoderInputError
from geoelle.jobs import cached_encoder
from geoelle.records import ChipBatch, EncoderCard, ItemRecord

_BLANK = {"reflectance": 0.1, "dn": 100.0, "linear": 0.1, "dB": -10.0}
"""Pixels that no check refuses, by units."""
_NAMED = 6


def choose_card(encoder: str, records: Sequence[ItemRecord]) -> EncoderCard:
    """The card of an encoder as these items feed it.

    An encoder whose default is for another sensor is taken in its variant for the items' sensor, where it has one and
    the name does not ask for another.

    Raises:
        UnknownEncoderError: If there is no such encoder.
        EncoderInputError: If the items are of several sensors, of one that cannot feed the encoder, or lack bands; or
            if the encoder needs several dates per chip. Says what could feed it, and what the items could feed.
    """
    card = get_card(encoder)
    sensors = sorted({record.sensor for record in records})
    if len(sensors) > 1:
        raise EncoderInputError(
            f"The items are of {' and '.join(sensors)}. Expected one sensor in a store; search for each by itself."
        )
    if not sensors:
        return card
    fed = [card] if card.sensor == sensors[0] else _ways_of(encoder, sensors[0])
    if not fed:
        raise _unfed(card, sensors[0], records)
    whole = next((c for c in fed if not _lacking(c, records)), None)
    if whole is None:
        raise _without_bands(fed[0], records)
    if 1 not in whole.n_steps:
        steps = " or ".join(str(n) for n in whole.n_steps)
        raise EncoderInputError(
            f"{whole.name} takes {steps} dates per chip. Expected one that takes a single date, as embed gives it; "
            f"pick {_or(_takers(sensors[0], records))}."
        )
    return whole


def _ways_of(encoder: str, sensor: str) -> list[EncoderCard]:
    """Cards of an encoder's variants for a sensor, at the pixel size that its name asks for; none if it names bands."""
    name, asked = split_name(encoder)
    if asked.what:
        return []
    found = [card for card in variants_of(name) if card.sensor == sensor]
    if asked.gsd_m is None:
        return found
    whats = dict.fromkeys(split_name(card.name)[1].what for card in found)
    return [get_card(Variant(what, asked.gsd_m).name(name)) for what in whats]


def _lacking(card: EncoderCard, records: Sequence[ItemRecord]) -> list[str]:
    """Bands that the encoder takes and some item does not have, in the encoder's order."""
    there = set.intersection(*(set(record.assets) for record in records))
    return [band for band in card.bands if band not in there]


def _takers(sensor: str, records: Sequence[ItemRecord]) -> list[str]:
    """Names of the encoders that these items could feed."""
    return [c.name for c in list_encoders(sensor) if 1 in c.n_steps and not _lacking(c, records)]


def _unfed(card: EncoderCard, sensor: str, records: Sequence[ItemRecord]) -> EncoderInputError:
    ways = variants_of(split_name(card.name)[0])
    first = {card.sensor: card.name}
    for way in ways:
        first.setdefault(way.sensor, way.name)
    takes = [sensor if name == card.name else f"{sensor} (as {name})" for sensor, name in first.items()]
    takers = _takers(sensor, records)
    others = f"pick one that takes {sensor}: {_or(takers)}" if takers else f"no encoder here takes {sensor} as it is"
    return EncoderInputError(
        f"The items are of {sensor}. {card.name} takes {_or(takes)}; search for that sensor, or {others}."
    )


def _without_bands(card: EncoderCard, records: Sequence[ItemRecord]) -> EncoderInputError:
    lacking = _lacking(card, records)
    short = [record for record in records if any(band not in record.assets for band in lacking)]
    names = " ".join(f"--band {band}" for band in lacking)
    advice = (
        f"`geoelle search {names}` leaves such items out"
        if len(short) < len(records)
        else f"search a collection that has them (`geoelle search {names}` takes only items that do)"
    )
    takers = _takers(card.sensor, records)
    others = f", or pick an encoder that does without: {_or(takers)}" if takers else ""
    return EncoderInputError(
        f"{len(short)} of {len(records)} items, {short[0].id} among them, lack the bands {', '.join(lacking)}. "
        f"{card.name} takes {', '.join(card.bands)}; {advice}{others}."
    )


def _or(names: Sequence[str]) -> str:
    if not names:
        return "none that geoelle knows"
    more = f" or {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def find_weights(card: EncoderCard, options: EncoderOptions) -> tuple[str, EncoderOptions]:
    """The sha256 of an encoder's weights as they are here, and options that name their file and what opens them.

    The coordinator calls this once, so that all workers open the same file. For weights that come with the encoder the
    sha256 is its card's; empty where that does not say.

    Raises:
        WeightsError: If they are not there, damaged, or their licence is not accepted.
    """
    options = replace(options, factory=factory_of(card.name))
    if not card.checkpoint:
        return card.weights_sha256, options
    checkpoint = get_checkpoint(card.checkpoint)
    found = fetch_weights(checkpoint, options.weights, accept_license=options.accept_license)
    return found.sha256, replace(options, weights=str(found.path.absolute()))


def settle(
    card: EncoderCard,
    options: EncoderOptions,
    *,
    known: Mapping[str, Any] | None,
    threads: int,
    shared: bool,
) -> tuple[EncoderCard, EncoderOptions]:
    """The card as the encoder has it once opened with these options, and options for the workers.

    Weights decide the sha256 and, as a checkpoint may lack its decoder, the loss; pooling and layer the length of an
    embedding. The encoder is opened for that unless its card or a store that it filled says it all.

    Args:
        card: As registered.
        options: The user's.
        known: `geoelle:encoder` of a store that is there.
        threads: Of the encoder.
        shared: Whether the workers are threads of this process, which then use what was opened.

    Raises:
        EncoderInputError: If there is no such pooling, layer or option.
        WeightsError: If the weights cannot be opened.
    """
    options = _checked_reading(card, options)
    sha256, options = find_weights(card, options)
    if known is not None and sha256 and _is_of(known, card.name, sha256, options):
        return card_of_store(known), options
    if sha256 and not card.checkpoint and not options.opening() and not options.reading():
        return card, options
    # Where the workers are elsewhere, so may be the device that was named.
    here = options if shared or options.device == "auto" else replace(options, device="cpu")
    encoder = cached_encoder(card.name, threads, here)
    opened = encoder.card
    if options.reading():
        pooling = options.pooling or opened.pooling
        opened = replace(opened, pooling=pooling, n_features=_n_features(encoder, options))
    if not shared:
        cached_encoder.cache_clear()  # its memory is the workers'
    return opened, options


def _checked_reading(card: EncoderCard, options: EncoderOptions) -> EncoderOptions:
    """The card's own pooling is no choice of the user's: the same embeddings must have one identity."""
    if options.pooling is not None and options.pooling not in card.poolings:
        raise EncoderInputError(
            f"{card.name} has no pooling {options.pooling!r}. Expected one of {', '.join(card.poolings)}."
        )
    if options.layer is not None and not 0 <= options.layer < card.n_layers:
        there = f"0 to {card.n_layers - 1}, or none" if card.n_layers else "none, as it gives its own output alone"
        raise EncoderInputError(f"{card.name} has no layer {options.layer}. Expected {there}.")
    return replace(options, pooling=None) if options.pooling == card.pooling else options


def _is_of(known: Mapping[str, Any], name: str, sha256: str, options: EncoderOptions) -> bool:
    found = {key: known[key] for key in ("pooling", "layer") if key in known}
    return (known.get("name"), known.get("weights_sha256"), found) == (name, sha256, options.reading())


def _n_features(encoder: Encoder, options: EncoderOptions) -> int:
    """Length of an embedding read so, found on one blank chip."""
    card = encoder.card
    size = min(card.chip_sizes_px)
    batch = ChipBatch(
        sensor=card.sensor,
        units=card.units,
        bands=card.bands,
        pixels=np.full((1, 1, len(card.bands), size, size), _BLANK.get(card.units, 0.0), dtype=np.float32),
        valid=np.ones((1, 1, size, size), dtype=np.bool_),
        time=np.full((1, 1), np.datetime64("2020-06-01", "ns")),
        lonlat=np.zeros((1, 2)),
        gsd_m=card.gsd_m,
        chip_id=np.array(["blank"]),
    )
    return int(encoder.embed(batch, **options.reading()).shape[-1])
