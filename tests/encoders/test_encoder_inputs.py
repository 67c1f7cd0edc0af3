"""Every check of a batch against a card: refused, with what is wanted, what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from geoelle.encoders import check_batch, get_card
from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.inputs import check_masks
from geoelle.errors import EncoderInputError
from geoelle.records import ChipBatch

MakeBatch = Callable[..., ChipBatch]

CARD = get_card("compact-rgb")


def test_fitting_batches_pass(make_batch: MakeBatch) -> None:
    for size in CARD.chip_sizes_px:
        check_batch(CARD, make_batch(2, size))
    check_batch(CARD, make_batch(0))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sensor": "landsat-c2-l2"}, r"sensor 'sentinel-2-l2a' but the batch has 'landsat-c2-l2'.*list_encoders"),
        ({"units": "dn"}, "units 'reflectance' but the batch has 'dn'. Convert"),
        ({"bands": ("blue", "green", "red")}, r"bands \('red', 'green', 'blue'\).*in this order"),
        ({"bands": ("red", "green", "nir")}, r"missing bands \['blue'\].*--band blue"),
        ({"gsd_m": 20.0}, "pixels of 10 m but the batch has pixels of 20 m"),
        ({"pixels": np.zeros((2, 3, 64, 64), np.float32)}, "axes"),
        ({"pixels": np.zeros((2, 1, 3, 64, 64), np.float64)}, "float32"),
        ({"pixels": np.zeros((2, 1, 4, 64, 64), np.float32)}, "band axis of 3"),
        ({"pixels": np.zeros((2, 1, 3, 48, 48), np.float32)}, "64 x 64 or 32 x 32 px but the batch has 48 x 48"),
        ({"pixels": np.zeros((2, 1, 3, 64, 32), np.float32)}, "64 x 32"),
        ({"pixels": np.zeros((2, 2, 3, 64, 64), np.float32)}, r"1 date\(s\) per chip but the batch has 2"),
        ({"valid": np.ones((2, 1, 32, 32), bool)}, "valid of shape"),
        ({"valid": np.ones((2, 1, 64, 64), np.uint8)}, "valid as bool"),
        ({"time": np.full((3, 1), np.datetime64("2020", "ns"))}, "time of shape"),
        ({"lonlat": np.zeros((2, 3))}, "lonlat of shape"),
        ({"chip_id": np.array(["a"])}, "chip_id of shape"),
        ({"pixels": np.full((2, 1, 3, 64, 64), 1500, np.float32)}, "look like digital numbers"),
    ],
)
def test_unfitting_batch_is_refused(
    changes: dict[str, Any], match: str, compact: CompactEncoder, make_batch: MakeBatch
) -> None:
    batch = make_batch(2, **changes)
    with pytest.raises(EncoderInputError, match=match):
        check_batch(CARD, batch)
    with pytest.raises(EncoderInputError, match="compact-rgb expects"):
        compact.embed(batch)


def test_missing_time_and_place_are_refused_where_needed(make_batch: MakeBatch) -> None:
    no_time = make_batch(1, time=np.full((1, 1), np.datetime64("NaT", "ns")))
    nowhere = make_batch(1, lonlat=np.full((1, 2), np.nan))
    check_batch(CARD, no_time)
    check_batch(CARD, nowhere)
    with pytest.raises(EncoderInputError, match="NaT"):
        check_batch(replace(CARD, needs_time=True), no_time)
    with pytest.raises(EncoderInputError, match="position"):
        check_batch(replace(CARD, needs_lonlat=True), nowhere)


def test_unfitting_masks_are_refused(compact: CompactEncoder, make_batch: MakeBatch) -> None:
    batch = make_batch(2)
    masks = compact.fixed_masks(batch.chip_id, 2, 64)
    check_masks(CARD, batch, masks)
    for wrong, match in (
        (masks[:1], "shape"),
        (masks[..., :16], "shape"),
        (masks.astype(np.float32), "float32"),
        (~masks, "48 of 64 tokens hidden.*hide 16"),
    ):
        with pytest.raises(EncoderInputError, match=match):
            compact.pretraining_loss(batch, wrong)


def test_masks_of_another_chip_size_are_refused(compact: CompactEncoder) -> None:
    with pytest.raises(EncoderInputError, match="64 or 32 px"):
        compact.fixed_masks(np.array(["a"]), 1, 16)


@pytest.mark.parametrize(("options", "match"), [({"threads": 0}, "threads"), ({"runtime": "jax"}, "runtime 'jax'")])
def test_senseless_options_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(EncoderInputError, match=match):
        CompactEncoder(**options)
