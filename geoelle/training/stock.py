"""The stock of the compact encoder: every source read, what is held out taken away, the figures of every band."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geoelle.training.batches import Stock
from geoelle.training.data import RgbChips, read_eurosat, split_holdout
from geoelle.training.sources import (
    N_HELD_OUT_CHIPS,
    N_HELD_OUT_SCENES,
    Source,
    band_figures,
    read_clear_dates,
    read_ms_chips,
    read_scenes,
    rgb_source,
    split_source,
)


@dataclass(frozen=True, slots=True)
class StockPaths:
    """Where the imagery lies."""

    rgb: Path
    """Packed EuroSAT RGB chips."""
    ms: Path
    """Packed EuroSAT chips of 13 bands."""
    scenes: Path
    """Folder of surface-reflectance scenes, `ms_index.json` beside it."""
    series: Path
    """STAC folder of the Antwerp series."""

    @classmethod
    def under(cls, folder: Path) -> StockPaths:
        """The places within the folder of shared data."""
        chips = folder / "chips"
        return cls(
            chips / "eurosat_rgb_jpeg.npz",
            chips / "eurosat_ms_geo.npz",
            chips / "ms",
            folder / "stac" / "antwerp-s2-l2a-scl",
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What training never sees."""

    rgb: RgbChips
    chips: Source
    """EuroSAT chips of all bands."""
    scenes: Source


def read_stock(
    paths: StockPaths,
    *,
    held_out_per_class: int = 200,
    held_out_chips: int = N_HELD_OUT_CHIPS,
    held_out_scenes: int = N_HELD_OUT_SCENES,
) -> tuple[Stock, HeldOut]:
    """Read every source and take away what is held out.

    Raises:
        NotFoundError: If a source is not there.
        SchemaError: If a source is not as expected, or too small to hold out that much.
    """
    training, held = split_holdout(read_eurosat(paths.rgb), held_out_per_class)
    rgb, held_rgb = rgb_source(training), rgb_source(held)
    # The two EuroSAT sets number their chips alike: one place never lies on both sides.
    chips, held_chips = split_source(
        read_ms_chips(paths.ms), held_out_chips, first=set(held_rgb.keys), never=set(rgb.keys)
    )
    scenes, held_scenes = split_source(read_scenes(paths.scenes), held_out_scenes)
    multispectral = (scenes, chips, read_clear_dates(paths.series))
    mean, std = band_figures(rgb, chips)
    return Stock(rgb, multispectral, mean, std), HeldOut(held, held_chips, held_scenes)
