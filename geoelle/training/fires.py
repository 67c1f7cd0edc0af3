"""The compact encoder on fires that training never saw: does the embedding move where it burnt?

Before and after are composites, the truth is the perimeter. What reads the loss there is another matter: `coldcheck`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from geoelle.encoders.compact import CompactEncoder
from geoelle.encoders.compact_cards import BAND_SETS
from geoelle.errors import NotFoundError, SchemaError
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.training.cuts import batch_of
from geoelle.training.evaluation import Doubles

Floats = NDArray[np.float32]

FIRE_GSD_M = 20.0
FIRE_CHIP_PX = 32
FIRE_STRIDE_PX = 8
FIRE_ENCODERS = ("compact-burn", "compact-rgb")
BURNT_SHARE = 0.5
"""A chip counts as burnt where more of it lies in the perimeter."""
MIN_SEEN = 0.99
"""Chips with less of their pixels seen both before and after are left out."""


@dataclass(frozen=True, slots=True)
class Fire:
    """A fire before and after, at 20 m."""

    name: str
    bands: tuple[str, ...]
    before: Floats
    """(band, y, x), reflectance; 0 where nothing was seen."""
    after: Floats
    inside: NDArray[np.bool_]
    """(y, x): within the perimeter."""


def read_fires(folder: str | Path) -> Iterator[Fire]:
    """The fires of a folder of items `NAME_pre` and `NAME_post`, the perimeter beside the latter; names in order.

    Raises:
        NotFoundError: If there is none, or a file of one is missing.
        SchemaError: If bands are missing, or the images of a fire differ in size.
    """
    names = sorted(path.name.removesuffix("_pre") for path in Path(folder).glob("*_pre"))
    if not names:
        raise NotFoundError(f"{folder} holds no fire (NAME_pre and NAME_post). Point --data at the shared data.")
    bands = BAND_SETS["compact-burn"]
    for name in names:
        after = Path(folder) / f"{name}_post"
        images = [
            _bands_of(place / f"{place.name}.tif", bands) * np.float32(SENTINEL_2_L2A.scale)
            for place in (Path(folder) / f"{name}_pre", after)
        ]
        inside = _read(after / f"{name}_perimeter.tif")[0][0] > 0
        if not images[0].shape[1:] == images[1].shape[1:] == inside.shape:
            raise SchemaError(f"The images and the perimeter of {name} in {folder} differ in size. Expected one grid.")
        yield Fire(name, bands, images[0], images[1], inside)


def _read(path: Path) -> tuple[Floats, tuple[str | None, ...]]:
    if not path.is_file():
        raise NotFoundError(f"There is no {path}. Each fire needs its images before and after and its perimeter.")
    with rasterio.open(path) as source:
        return source.read().astype(np.float32), source.descriptions


def _bands_of(path: Path, bands: tuple[str, ...]) -> Floats:
    pixels, listed = _read(path)
    wanted = [SENTINEL_2_L2A.band(band).aliases[0] for band in bands]
    missing = [band for band in wanted if band not in listed]
    if missing:
        raise SchemaError(f"{path} lacks the bands {missing} (it lists {list(listed)}). Use {', '.join(wanted)}.")
    return pixels[[listed.index(band) for band in wanted]]


def windows(image: NDArray[Any], size_px: int, stride_px: int) -> NDArray[Any]:
    """Squares of an image (..., y, x) as (square, ..., y, x), row by row from the north-west."""
    seen = np.lib.stride_tricks.sliding_window_view(image, (size_px, size_px), axis=(-2, -1))
    seen = seen[..., ::stride_px, ::stride_px, :, :]
    moved = np.moveaxis(seen, (-4, -3), (0, 1))
    return np.ascontiguousarray(moved.reshape(-1, *moved.shape[2:]))


def dnbr(fire_bands: tuple[str, ...], before: Floats, after: Floats) -> Doubles:
    """Mean fall of the normalised burn ratio (nir - swir22) / (nir + swir22) of chips (chip, band, y, x)."""
    nir, swir = fire_bands.index("nir"), fire_bands.index("swir22")
    means = []
    for pixels in (before, after):
        a, b = pixels[:, nir].astype(np.float64), pixels[:, swir].astype(np.float64)
        total = a + b
        ratio = np.divide(a - b, total, out=np.full(total.shape, np.nan), where=total > 0)
        means.append(np.nanmean(ratio, axis=(1, 2)))
    return np.asarray(means[0] - means[1])


def cosine_distance(a: Floats, b: Floats) -> Doubles:
    """1 - cosine of rows, each (chip, feature); (chip,)."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.asarray(1 - (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1))


def fire_figures(folder: Path, fire: Fire) -> dict[str, Any]:
    """Average precision and area under the ROC of each detector, chip by chip against the perimeter, plain values.

    Raises:
        SchemaError: If no chip is burnt, or all are.
    """
    before, after = (windows(image, FIRE_CHIP_PX, FIRE_STRIDE_PX) for image in (fire.before, fire.after))
    seen = ((before > 0) & (after > 0)).all(axis=1).mean(axis=(1, 2)) >= MIN_SEEN
    burnt = (windows(fire.inside, FIRE_CHIP_PX, FIRE_STRIDE_PX).mean(axis=(1, 2)) > BURNT_SHARE)[seen]
    before, after = before[seen], after[seen]
    if burnt.all() or not burnt.any():
        raise SchemaError(f"{burnt.sum()} of the {len(burnt)} chips of {fire.name} are burnt. Expected some, not all.")
    keys = [f"{fire.name}/{number}" for number in np.flatnonzero(seen)]
    detectors = {}
    for name in FIRE_ENCODERS:
        encoder = CompactEncoder(folder, bands=BAND_SETS[name], gsd_m=FIRE_GSD_M, threads=1)
        order = [fire.bands.index(band) for band in BAND_SETS[name]]
        a, b = (
            encoder.embed(batch_of(pixels[:, order], BAND_SETS[name], FIRE_GSD_M, keys)) for pixels in (before, after)
        )
        detectors[encoder.card.name] = cosine_distance(a, b)
    detectors["dNBR"] = dnbr(fire.bands, before, after)
    return {
        "fire": fire.name,
        "n_chips": len(burnt),
        "burnt_share": round(float(burnt.mean()), 4),
        "ap": {name: round(float(average_precision_score(burnt, d)), 4) for name, d in detectors.items()},
        "auc": {name: round(float(roc_auc_score(burnt, d)), 4) for name, d in detectors.items()},
    }


def fires_figures(folder: Path, fires: Iterable[Fire]) -> dict[str, Any]:
    """`fire_figures` of every fire, and their mean, each fire counting alike."""
    rows = [fire_figures(folder, fire) for fire in fires]
    mean = {
        score: {name: round(float(np.mean([row[score][name] for row in rows])), 4) for name in rows[0][score]}
        for score in ("ap", "auc")
    }
    return {"fires": rows, "mean": mean | {"burnt_share": round(float(np.mean([r["burnt_share"] for r in rows])), 4)}}
