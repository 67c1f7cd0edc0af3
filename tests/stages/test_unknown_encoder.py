"""A slip in an encoder's name is told first: before items, catalogs or areas are looked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import geoelle
from geoelle.describing import card_of_store, encoder_attrs
from geoelle.encoders import get_card
from geoelle.errors import EncoderError, NotFoundError, UnknownEncoderError
from geoelle.grid import ChipGrid, GridExtent


def test_embed_tells_of_the_name_before_the_items(tmp_path: Path) -> None:
    options = {"out": tmp_path / "e.zarr", "aoi": tmp_path / "no.geojson"}
    with pytest.raises(UnknownEncoderError, match="Did you mean compact-rgb"):
        geoelle.embed(tmp_path / "no.parquet", encoder="compact-rbg", **options)
    with pytest.raises(EncoderError, match=r"no clay-v1\.5:landsat"):
        geoelle.embed(tmp_path / "no.parquet", encoder="clay-v1.5:landsat", **options)
    with pytest.raises(NotFoundError):
        geoelle.embed(tmp_path / "no.parquet", encoder="compact-rgb", **options)
    assert list(tmp_path.iterdir()) == []


def test_run_tells_of_the_name_before_the_catalog(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: slip\nout: out\nsearch: {catalog: no.json, start: 2021-01-01, end: 2021-02-01}\n"
        "embed: {encoder: prithvi-eo-2.0}\n"
    )
    with pytest.raises(UnknownEncoderError, match=r"Did you mean prithvi-eo-2\.0"):
        geoelle.run(config)
    assert not (tmp_path / "out").exists()


def test_a_store_begun_under_a_longer_name_stays_readable() -> None:
    card = replace(get_card("compact-rgb"), name="compact-rgb@10m")
    extent = GridExtent(ChipGrid(32631, 320.0, 160.0), 8, range(4180, 4182), range(464, 467))
    stored = encoder_attrs(card, extent)
    assert encoder_attrs(card_of_store(stored), extent) == stored
