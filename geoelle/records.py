"""The records that flow between stages: frozen, without behaviour beyond counting themselves.

Outside formats are parsed into these once, at the edge; everything after that is functions over records.
`geoelle.schema` holds one `check_*` for each contract.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LossKind = Literal["own", "own-partial", "proxy", "unavailable"]
"""`own`: exactly the pretraining loss. `own-partial`: without a named term. `proxy`: something else, always shown."""

TimeKind = Literal["instant", "interval"]
"""Whether a scene is one acquisition or a composite over an interval (then `time` is its start)."""


@dataclass(frozen=True, slots=True)
class ChipBatch:
    """Chips as an encoder takes them. Arrays are NumPy; `schema.check_chip_batch` says what must hold."""

    sensor: str
    """Name of the sensor in `geoelle.sensors`, e.g. `sentinel-2-l2a`."""
    units: str
    """Units of `pixels`, e.g. `reflectance` (1 = all light reflected)."""
    bands: tuple[str, ...]
    """Names of the bands, in the order of the band axis."""
    pixels: NDArray[np.float32]
    """(chip, step, band, y, x); NaN where invalid."""
    valid: NDArray[np.bool_]
    """(chip, step, y, x)."""
    time: NDArray[np.datetime64]
    """(chip, step), UTC, datetime64[ns]."""
    lonlat: NDArray[np.float64]
    """(chip, 2), degrees, EPSG:4326, longitude first; the chip's centre."""
    gsd_m: float
    """Edge of a pixel, metres."""
    chip_id: NDArray[np.str_]
    """(chip,)."""

    def __len__(self) -> int:
        return int(self.pixels.shape[0])

    def select(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> ChipBatch:
        """The chips that `index` picks, in its order."""
        return ChipBatch(
            sensor=self.sensor,
            units=self.units,
            bands=self.bands,
            pixels=self.pixels[index],
            valid=self.valid[index],
            time=self.time[index],
            lonlat=self.lonlat[index],
            gsd_m=self.gsd_m,
            chip_id=self.chip_id[index],
        )


@dataclass(frozen=True, slots=True)
class EncoderCard:
    """What a frozen encoder is, what it takes and what it gives. Read by people, adapters and checks alike."""

    name: str
    """Registry name, e.g. `compact-rgb`."""
    sensor: str
    """Sensor it was trained on, named as in `geoelle.sensors`."""
    bands: tuple[str, ...]
    """Bands it takes, in order."""
    wavelength_um: tuple[float, ...]
    """Centre wavelength per band, micrometres."""
    units: str
    """Units of the pixels it takes."""
    scale: float
    """Pixels are multiplied by this before mean and std are applied."""
    clip: tuple[float, float] | None
    """Range the pixels are clipped to, in `units`, because training never saw beyond it; None: not clipped."""
    mean: tuple[float, ...]
    """Per band, of the scaled pixels."""
    std: tuple[float, ...]
    """Per band, of the scaled pixels."""
    gsd_m: float
    """Ground sampling distance of the training data, metres."""
    chip_sizes_px: tuple[int, ...]
    """Chip edges it accepts, pixels."""
    patch_px: int
    """Edge of a patch token's footprint, pixels."""
    n_features: int
    """Length of an embedding."""
    pooling: str
    """How tokens become one embedding: `cls` or `mean`."""
    n_steps: tuple[int, ...]
    """Numbers of dates per chip it accepts."""
    needs_time: bool
    needs_lonlat: bool
    mask_ratio: float
    """Share of tokens hidden for the loss; 0 where no mask is drawn."""
    loss_definition: str
    """The loss in one sentence, with its unit."""
    loss_kind: LossKind
    licence: str
    source: str
    """Where weights and training data come from, with the attribution text they ask for."""
    weights: str
    """Name of the weights file."""
    weights_sha256: str
    not_good_for: str
    """Limits, in a sentence or two."""
    training: str
    """What it was trained on and how, in a few sentences."""
    shipped_probes: tuple[str, ...] = ()
    """Names of the probes that come with the encoder, one per chip size: the cold start."""
    n_parameters: int = 0
    """Of encoder and decoder together; 0 where it was not counted."""
    n_layers: int = 0
    """Transformer blocks whose output can be asked for."""
    tokens_per_patch: int = 1
    """Tokens that share one footprint on one date, as SatMAE has one per group of bands; masks are drawn over all."""
    poolings: tuple[str, ...] = ("cls", "mean")
    """What `pooling` may be asked for."""
    checkpoint: str = ""
    """Name in `geoelle.encoders.checkpoints`; empty where the weights come with geoelle."""
    non_commercial: bool = False
    """Whether the weights' licence forbids commercial use: they are opened only once that is accepted."""
    trained_gsd_m: tuple[float, ...] = ()
    """Pixel sizes seen in pretraining, metres; empty: `gsd_m` alone."""
    differs: tuple[str, ...] = ()
    """Where what geoelle feeds it differs from what it was trained on, a sentence each."""
    validated: bool = False
    """Whether geoelle has run it with the real weights on real data of this sensor."""


@dataclass(frozen=True, slots=True)
class AssetRecord:
    """One band of one item: where it is and how its numbers become physical units."""

    key: str
    """Asset key in the item."""
    band_index: int
    """1-based band of the file; more than 1 only where one asset holds several bands."""
    n_bands: int
    """Bands that the asset declares."""
    href: str
    """Unsigned address."""
    nodata: float | None
    """As declared by the item; None where it declares none."""
    scale: float
    """Physical = digital number x scale + offset."""
    offset: float
    gsd_m: float | None = None
    """Edge of a pixel as the item declares it, metres; None where it does not."""


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """A STAC item, parsed once."""

    id: str
    collection: str
    sensor: str
    time: np.datetime64
    """Acquisition, or start of the interval of a composite; UTC, datetime64[ns]."""
    time_kind: TimeKind
    time_end: np.datetime64 | None
    """End of the interval of a composite."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees."""
    cloud_percent: float | None
    epsg: int | None
    mgrs_tile: str | None
    processing_baseline: str | None
    offset_applied: bool | None
    """Sentinel-2: whether the pixels already are free of the baseline 04.00 offset; None where it does not apply."""
    relative_orbit: int | None
    platform: str | None
    provider: str | None = None
    """Name of the provider in `geoelle.catalog.providers` that the item came from; None where it is not a known one."""
    datatake: str | None = None
    """What all tiles of one overpass share: its id, or the start of sensing; None where the item does not say."""
    processed: np.datetime64 | None = None
    """When the provider made the product, UTC, datetime64[ns]."""
    assets: dict[str, AssetRecord] = field(default_factory=dict)
    """By geoelle band name, quality layer included under its own name."""
    raw: dict[str, object] = field(default_factory=dict, repr=False, compare=False)
    """The item as STAC JSON with unsigned absolute hrefs, for the loader."""


@dataclass(frozen=True, slots=True)
class Scene:
    """All items of one solar day."""

    day: np.datetime64
    """Solar date, datetime64[ns] at 00:00: the label on the time axis of every store."""
    time: np.datetime64
    """Time of the earliest item, UTC."""
    time_kind: TimeKind
    items: tuple[ItemRecord, ...]

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Sorted ids of the items."""
        return tuple(sorted(item.id for item in self.items))


@dataclass(frozen=True, slots=True)
class JobResult:
    """What one job did; these add up to a run's summary."""

    job: str
    """`<day> tile <row>,<column>`."""
    outcome: Literal["done", "failed"]
    n_embedded: int = 0
    n_skipped_invalid: int = 0
    n_skipped_cloud: int = 0
    n_skipped_flat: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class EmbedSummary:
    """What a run of `embed` did, skipped and failed at."""

    store: str
    n_jobs: int
    """Jobs that the items and the area ask for."""
    n_unchanged: int
    """Already there, with the same digest."""
    n_done: int
    n_failed: int
    n_embedded: int
    """Chips embedded by this run."""
    n_skipped_invalid: int
    """Chips of this run left out for their share of invalid pixels."""
    n_skipped_cloud: int
    n_skipped_flat: int = 0
    """Chips of this run left out for lack of texture."""
    mask_sources: tuple[str, ...] = ()
    """What clouds were masked by, on the dates of the items: `scl`, `heuristic`, `none`, ..."""
    failures: tuple[str, ...] = ()
    """One sentence per failed job; the first hundred."""
