"""Multispectral imagery for pretraining: reading it as reflectance, and what is held out of it.

Ten of Sentinel-2's bands, in the order of `BANDS`. Fires, Boadella and the share-alike scenes are not read here:
the first two are for evaluation alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import rasterio
from numpy.typing import NDArray

from geoelle.encoders.compact_cards import BAND_SETS
from geoelle.errors import NotFoundError, SchemaError
from geoelle.provenance import content_order
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.training.data import RgbChips, to_reflectance

Floats = NDArray[np.float32]

BANDS = BAND_SETS["compact-s2"]
"""Sentinel-2's bands of 10 and 20 m, names of `geoelle.sensors`."""

RGB = BAND_SETS["compact-rgb"]
CLIP = (0.0, 1.0)
"""Reflectance that the network sees; snow, cloud and sand fit in."""

HOLDOUT_SALT = "compact-2-holdout"
"""Names the hold-out of chips and scenes: change it only together with the shipped weights."""

N_HELD_OUT_CHIPS = 20
N_HELD_OUT_SCENES = 5

OFFSET_DN = 1000
OFFSET_SCENES = ("satclip_445", "satclip_57755", "satclip_75123", "satclip_766272", "satclip_8845")
"""Scenes whose numbers still carry the offset of processing baseline 04.00. The index of the scenes marks three; in
445 and 8845 water and shadow lie at 1,000 in every band, short-wave infrared included, where they reflect nothing."""

CLEAR_CLASSES = (4, 5, 6, 7)
"""Of Sen2Cor's scene classification: vegetation, bare, water, unclassified."""
CLEAR_SHARE = 0.99


@dataclass(frozen=True, slots=True)
class Source:
    """Images of one kind, as reflectance at 10 m, all of one shape."""

    name: str
    bands: tuple[str, ...]
    images: Floats
    """(image, band, y, x)."""
    keys: tuple[str, ...]
    """(image,), what the image is called."""

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, index: list[int]) -> Source:
        """The images that `index` picks."""
        return Source(self.name, self.bands, self.images[index], tuple(self.keys[i] for i in index))


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def read_ms_chips(path: str | Path) -> Source:
    """The packed EuroSAT chips with 13 bands (top of atmosphere); bands are found by the file's own list.

    Raises:
        NotFoundError: If there is no such file.
        SchemaError: If arrays or bands are missing.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}. Point --ms-data at eurosat_ms_geo.npz.")
    with np.load(path, allow_pickle=False) as packed:
        missing = [key for key in ("image", "bands", "name") if key not in packed]
        if missing:
            raise SchemaError(f"{path} lacks the arrays {missing}. Use the packed EuroSAT MS file.")
        listed = [str(band) for band in packed["bands"]]
        order = _positions(listed, path)
        images = packed["image"][:, order].astype(np.float32) * np.float32(SENTINEL_2_L2A.scale)
        names = tuple(str(name) for name in packed["name"])
    return Source("EuroSAT MS", BANDS, images, names)


def _positions(listed: list[str], path: Path) -> list[int]:
    """Where each of `BANDS` lies in a file that lists its bands by Sentinel-2's numbers (B02, B8A)."""
    wanted = [SENTINEL_2_L2A.band(name).aliases[0] for name in BANDS]
    missing = [band for band in wanted if band not in listed]
    if missing:
        raise SchemaError(f"{path} lacks the bands {missing} (it lists {listed}). Use Sentinel-2's ten at 10 and 20 m.")
    return [listed.index(band) for band in wanted]


def read_scenes(folder: str | Path) -> Source:
    """The scenes `satclip_*` of a folder with `ms_index.json` beside it (surface reflectance), freed of the offset.

    Raises:
        NotFoundError: If index or scenes are not there.
        SchemaError: If a scene lacks bands, or they differ in size.
    """
    index = Path(folder).parent / "ms_index.json"
    if not index.is_file():
        raise NotFoundError(f"There is no {index}. Expected it beside the folder of scenes.")
    entries = sorted(
        (e for e in json.loads(index.read_text())["chips"] if Path(e["file"]).name.startswith("satclip_")),
        key=lambda e: str(e["file"]),
    )
    if not entries:
        raise NotFoundError(f"{index} lists no scene satclip_*. Point --scenes at the folder with them.")
    images, keys = [], []
    for entry in entries:
        path, key = index.parent / entry["file"], _stem(entry["file"])
        order = [position + 1 for position in _positions(entry["bands"], path)]
        with rasterio.open(path) as source:
            digital = source.read(order).astype(np.float32)
        if key in OFFSET_SCENES or entry["likely_boa_offset_1000"]:
            digital = np.maximum(digital - OFFSET_DN, 0)
        images.append(digital * np.float32(SENTINEL_2_L2A.scale))
        keys.append(key)
    if len({image.shape for image in images}) != 1:
        raise SchemaError(f"The scenes of {index} differ in size. Expected one size for all of them.")
    return Source("scenes", BANDS, np.stack(images), tuple(keys))


def read_clear_dates(folder: str | Path) -> Source:
    """Dates of a STAC folder of B02 B03 B04 B08 and SCL that are clear all over, each as two overlapping squares.

    Raises:
        NotFoundError: If no date is clear.
    """
    bands = ("blue", "green", "red", "nir")
    images, keys = [], []
    for quality in sorted(Path(folder).glob("*/*_SCL.tif")):
        with rasterio.open(quality) as source:
            classes = source.read(1)
        if np.isin(classes, CLEAR_CLASSES).mean() < CLEAR_SHARE:
            continue
        parts = []
        for band in bands:
            name = quality.name.replace("SCL", SENTINEL_2_L2A.band(band).aliases[0])
            with rasterio.open(quality.with_name(name)) as source:
                parts.append(source.read(1).astype(np.float32) * np.float32(SENTINEL_2_L2A.scale))
        whole = np.stack(parts)
        side = min(whole.shape[1:])
        images += [whole[:, :side, :side], whole[:, -side:, -side:]]
        keys += [f"{quality.parent.name}/{part}" for part in ("first", "last")]
    if not images:
        raise NotFoundError(f"{folder} holds no date that is clear all over. Expected the series of Antwerp.")
    return Source("Antwerp", bands, np.stack(images), tuple(keys))


def rgb_source(chips: RgbChips) -> Source:
    """EuroSAT RGB chips as reflectance."""
    return Source("EuroSAT RGB", RGB, to_reflectance(chips.pixels), tuple(_stem(str(name)) for name in chips.name))


def split_source(
    source: Source, n: int, *, first: set[str] | None = None, never: set[str] | None = None
) -> tuple[Source, Source]:
    """Split into training and held-out images, `n` of the latter, chosen by the name's hash.

    Args:
        source: What to split.
        n: Images to hold out.
        first: Stems held out before any other.
        never: Stems not held out: the network sees them in another source.

    Raises:
        SchemaError: If not enough is left to train on.
    """
    first, never = first or set(), never or set()
    order = content_order(source.keys, salt=HOLDOUT_SALT)
    order.sort(key=lambda i: _stem(source.keys[i]) not in first)
    free = [i for i in order if _stem(source.keys[i]) not in never]
    if len(free) < n or n >= len(source):
        raise SchemaError(f"{source.name} has {len(source)} images. More than {n} are needed to hold that many out.")
    held = set(free[:n]) | {i for i in order if _stem(source.keys[i]) in first - never}
    return source.select([i for i in range(len(source)) if i not in held]), source.select(sorted(held))


def band_figures(rgb: Source, chips: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each of `BANDS`, red, green and blue from RGB chips, the others from `chips`.

    Not of all sources together: over the world's brightnesses every band would have a mean far from that of most
    patches, and the step from band to band, not their pattern, would be most of the variance that the loss counts in.
    """
    means, stds = [], []
    for band in BANDS:
        source = rgb if band in rgb.bands else chips
        values = np.clip(source.images[:, source.bands.index(band)], *CLIP).astype(np.float64)
        means.append(round(float(values.mean()), 6))
        stds.append(round(float(values.std()), 6))
    return tuple(means), tuple(stds)
