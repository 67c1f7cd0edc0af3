"""Items of one day in different states of the offset, through `embed`: refused before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scene_files import LEFT, item_of, smooth_noise, write_geotiff

from geoelle.catalog import items_frame
from geoelle.embedding import embed
from geoelle.errors import ImageryError
from geoelle.records import ItemRecord

RNG = np.random.default_rng(11)


def an_item(folder: Path, name: str, baseline: str, *, low: int, left: float) -> ItemRecord:
    assets: dict[str, dict[str, Any]] = {}
    for key in ("B02", "B03", "B04"):
        path = folder / f"{name}_{key}.tif"
        write_geotiff(path, smooth_noise(RNG, 128, low=low), nodata=0, left=left)
        assets[key] = {"href": path.as_posix()}
    return item_of(name, assets, size_px=(128, 128), left=left, properties={"s2:processing_baseline": baseline})


def test_neighbours_of_one_day_in_two_states_are_refused_with_their_ids(tmp_path: Path) -> None:
    # What each declares is true of its pixels, so only their mixture is wrong.
    items = [
        an_item(tmp_path, "before", "03.01", low=100, left=LEFT),
        an_item(tmp_path, "after", "04.00", low=1100, left=LEFT + 1280),
        an_item(tmp_path, "after-too", "04.00", low=1100, left=LEFT + 2560),
    ]
    with pytest.raises(ImageryError, match="Items after, after-too and before of one day scale") as refusal:
        embed(items_frame(items), out=tmp_path / "s.zarr")
    assert "--exclude" in str(refusal.value)
    assert not (tmp_path / "s.zarr").exists()
