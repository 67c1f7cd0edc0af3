"""`geoelle.embed` of simulated files in a process of its own, whose memory nothing else has touched.

    python embed_alone.py FOLDER ROWS COLUMNS --files   # writes the files of so many chips of 32 px
    python embed_alone.py FOLDER ROWS COLUMNS --embed   # embeds them; prints what it took, as JSON

Files are simulated: coarse noise in blocks of 512 px, with overviews. Encoders are stand-ins, so that what is seen is
geoelle's own. The benchmarks beside this file import its parts.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

import geoelle
from geoelle.catalog.items_file import items_frame
from geoelle.catalog.parsing import parse_item
from geoelle.encoders import Variant, get_card
from geoelle.encoders.registry import register
from geoelle.records import ChipBatch, EncoderCard
from geoelle.sensors import SENTINEL_2_L2A

GSD, EPSG, BLOCK = 10.0, 32631, 512
LEFT, TOP = 100 * 20_480.0 // 4, 220 * 20_480.0
"""A corner of the tiles, for all the chip sizes used here."""
ASSETS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
LEVELS = {"B02": 300, "B03": 500, "B04": 400, "B08": 2500}
"""Dark green land: nothing that the cloud test takes for cloud."""
INSTANT, WAITS_20_MS, WAITS_40_MS = "stand-in-instant", "stand-in-20-ms", "stand-in-40-ms"


def card_of(name: str, bands: tuple[str, ...], chip_px: int, n_features: int) -> EncoderCard:
    """The card of a stand-in."""
    n = len(bands)
    return replace(
        get_card("compact-rgb"), name=name, bands=bands, n_features=n_features, chip_sizes_px=(chip_px,),
        wavelength_um=(0.5,) * n, mean=(0.0,) * n, std=(1.0,) * n,
    )  # fmt: skip


CARDS = {
    INSTANT: card_of(INSTANT, ("blue", "green", "red"), 32, 8),
    WAITS_20_MS: card_of(WAITS_20_MS, tuple(ASSETS), 256, 1024),
    WAITS_40_MS: card_of(WAITS_40_MS, tuple(ASSETS), 256, 1024),
}


@dataclass(frozen=True)
class StandIn:
    """An encoder that waits so long for each chip, as for a device: the processor is free meanwhile."""

    card: EncoderCard
    s_per_chip: float

    def embed(self, batch: ChipBatch) -> NDArray[np.float32]:
        """Means of the chips' columns, repeated or cut to the card's length."""
        time.sleep(self.s_per_chip * len(batch))
        columns = batch.pixels[:, 0, 0].mean(axis=1)
        index = np.arange(self.card.n_features) % columns.shape[1]
        return np.ascontiguousarray(columns[:, index], dtype=np.float32)


def _card(name: str, variant: Variant) -> EncoderCard:
    return CARDS[name]


def instant(threads: int, variant: Variant) -> StandIn:
    return StandIn(CARDS[INSTANT], 0.0)


def waits_20_ms(threads: int, variant: Variant) -> StandIn:
    return StandIn(CARDS[WAITS_20_MS], 0.020)


def waits_40_ms(threads: int, variant: Variant) -> StandIn:
    return StandIn(CARDS[WAITS_40_MS], 0.040)


def register_stand_ins() -> None:
    """Known to this process alone: for embedding with one worker, which is threads."""
    known = {card.name for card in geoelle.list_encoders()}
    for name, factory in ((INSTANT, instant), (WAITS_20_MS, waits_20_ms), (WAITS_40_MS, waits_40_ms)):
        if name not in known:
            register(name, card=partial(_card, name), factory=f"{__name__}:{factory.__name__}")


def write_files(folder: Path, height_px: int, width_px: int) -> None:
    """One tiled file a band, a row of blocks at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for key, level in LEVELS.items():
        block = rng.integers(level, level + 16, (BLOCK, BLOCK)).astype(np.uint16)
        with rasterio.open(
            folder / f"{key}.tif", "w", driver="GTiff", height=height_px, width=width_px, count=1, dtype="uint16",
            crs=f"EPSG:{EPSG}", transform=Affine(GSD, 0, LEFT, 0, -GSD, TOP), nodata=0, compress="DEFLATE", zlevel=1,
            tiled=True, blockxsize=BLOCK, blockysize=BLOCK,
        ) as target:  # fmt: skip
            target.update_tags(SIMULATED="noise: not an observation of any place")
            for top in range(0, height_px, BLOCK):
                n = min(BLOCK, height_px - top)
                turns = rng.integers(0, BLOCK, -(-width_px // BLOCK))
                strip = np.concatenate([np.roll(block, k, axis=0) for k in turns], axis=1)
                target.write(strip[:n, :width_px], 1, window=((top, top + n), (0, width_px)))
            # As cloud-optimised files have them: the radiometry check reads these and not the whole.
            target.build_overviews([2, 4, 8, 16, 32])


def outline(height_px: int, width_px: int, inset_m: float = 0.0) -> shapely.Polygon:
    """Of the files, in EPSG:4326."""
    box = shapely.box(
        LEFT + inset_m, TOP - height_px * GSD + inset_m, LEFT + width_px * GSD - inset_m, TOP - inset_m
    ).segmentize(1000)  # fmt: skip
    to_lonlat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform
    return shapely.transform(box, lambda xy: np.stack(to_lonlat(xy[:, 0], xy[:, 1]), axis=-1))


def items_of(folder: Path, height_px: int, width_px: int) -> gpd.GeoDataFrame:
    """The one item of the files."""
    area = outline(height_px, width_px)
    record = parse_item(
        {
            "type": "Feature", "stac_version": "1.0.0", "id": "simulated", "collection": "c", "links": [],
            "geometry": shapely.geometry.mapping(area), "bbox": list(area.bounds),
            "properties": {"datetime": "2022-06-04T10:36:21Z", "proj:epsg": EPSG, "geoelle:simulated": True},
            "assets": {key: {"href": (folder / f"{key}.tif").as_posix()} for key in ASSETS.values()},
        },
        SENTINEL_2_L2A,
    )  # fmt: skip
    assert record is not None
    return items_frame([record])


def embed(folder: Path, rows: int, columns: int, encoder: str, chip_px: int, **options: Any) -> tuple[int, int, float]:
    """Embed rows x columns chips side by side; gives the numbers of chips and jobs, and the seconds it took."""
    store = folder / "e.zarr"
    height, width = rows * chip_px, columns * chip_px
    items, area = items_of(folder, height, width), outline(height, width, 10.0)
    start = time.perf_counter()
    done = geoelle.embed(
        items, aoi=area, out=store, encoder=encoder, chip_size_m=chip_px * GSD, stride_m=chip_px * GSD, **options
    )
    seconds = time.perf_counter() - start
    summary = done.attrs["geoelle:summary"]
    assert summary["n_failed"] == 0, summary["failures"]
    assert summary["n_embedded"] == rows * columns, summary
    return summary["n_embedded"], summary["n_jobs"], seconds


def memory_mb(name: str) -> float:
    """`VmRSS` or `VmHWM`, its highest: of this program alone, where ru_maxrss still counts what started it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(name)


def _main() -> None:
    folder, rows, columns, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if step == "--files":
        write_files(folder, rows * 32, columns * 32)
        return
    register_stand_ins()
    n_chips, n_jobs, seconds = embed(folder, rows, columns, INSTANT, 32)
    files = [p for p in (folder / "e.zarr").rglob("*") if p.is_file()]
    data = [p for p in files if p.name != "zarr.json"]
    told = {
        "n_chips": n_chips, "n_jobs": n_jobs, "seconds": seconds, "peak_mb": memory_mb("VmHWM"),
        "n_objects": len(data), "data_bytes": sum(p.stat().st_size for p in data),
        "metadata_bytes": sum(p.stat().st_size for p in files if p.name == "zarr.json"),
    }  # fmt: skip
    print(json.dumps(told))


if __name__ == "__main__":
    _main()
