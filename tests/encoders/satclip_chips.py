"""The real 12-band chips of ../shared/data/chips/ms as batches for DOFA and SatCLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio

from geoelle.records import ChipBatch, EncoderCard

ORDER = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "swir16": "B11",
    "swir22": "B12",
}


def real_batch(shared_data: Path, card: EncoderCard, n: int = 4) -> ChipBatch:
    """The middle of the first `n` upstream chips, as the card wants them; the +1000 of baseline 04.00 taken out."""
    chips = json.loads((shared_data / "chips" / "ms_index.json").read_text())["chips"]
    chips = [chip for chip in chips if "satclip" in chip["file"]][:n]
    size = card.chip_sizes_px[0]
    pixels, lonlat = [], []
    for chip in chips:
        with rasterio.open(shared_data / "chips" / chip["file"]) as file:
            assert list(file.descriptions) == list(ORDER.values())
            values = file.read().astype(np.float32) - (1000 if chip["likely_boa_offset_1000"] else 0)
        start = (values.shape[1] - size) // 2
        rows = [list(ORDER).index(band) for band in card.bands]
        pixels.append(values[rows, start : start + size, start : start + size] / 10000)
        west, south, east, north = chip["bbox4326"]
        lonlat.append(((west + east) / 2, (south + north) / 2))
    return ChipBatch(
        sensor="sentinel-2-l2a",
        units="reflectance",
        bands=card.bands,
        pixels=np.stack(pixels)[:, None].astype(np.float32),
        valid=np.ones((len(chips), 1, size, size), dtype=bool),
        time=np.full((len(chips), 1), np.datetime64("2022-06-01", "ns")),
        lonlat=np.array(lonlat),
        gsd_m=card.gsd_m,
        chip_id=np.array([Path(chip["file"]).stem for chip in chips]),
    )
