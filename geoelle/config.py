"""The typed run configuration: one YAML file for the whole chain, unknown keys refused, digests over its content."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoelle.errors import ConfigError, NotFoundError


def _ordered(found: tuple[date, date]) -> tuple[date, date]:
    if found[1] < found[0]:
        raise ValueError(f"the last day {found[1]} lies before the first, {found[0]}; give the earlier date first")
    return found


DateRange = Annotated[tuple[date, date], AfterValidator(_ordered)]
"""First and last day, both included."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SearchConfig(_Section):
    """Which items."""

    catalog: str = Field(
        description="Name of a provider, URL of a STAC API or static catalog, path of a static catalog or "
        "stac-geoparquet file."
    )
    collections: tuple[str, ...] = Field(
        (), description="Collection ids; empty: those the provider has for the sensor."
    )
    start: date = Field(description="First day.")
    end: date = Field(description="Last day.")
    sensor: str = Field("sentinel-2-l2a", description="Sensor whose bands the items must hold, or its YAML file.")
    bands: tuple[str, ...] = Field(
        (), description="Bands without which items are left out; empty: any of the sensor's."
    )
    max_cloud_percent: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="Items declaring more cloud are left out."
    )
    months: tuple[Annotated[int, Field(ge=1, le=12)], ...] = Field((), description="Months of the year; empty: all.")
    relative_orbits: tuple[int, ...] = Field((), description="Relative orbits; empty: all.")
    platforms: tuple[str, ...] = Field((), description="Satellites, as the items name them; empty: all.")
    min_aoi_coverage_fraction: float = Field(
        0, ge=0, le=1, description="Share of the AOI that a day's items must cover."
    )
    fallback: str | None = Field(None, description="Provider to ask where the first does not answer.")
    exclude: tuple[str, ...] = Field((), description="Item ids to leave out.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end < self.start:
            raise ValueError(
                f"search.end {self.end} lies before search.start {self.start}; give the earlier date first"
            )
        return self


class EmbedConfig(_Section):
    """Which chips, through which encoder."""

    encoder: str = Field("compact-rgb", description="Name as in `geoelle encoders`.")
    weights: str | None = Field(
        None, description="File or folder of the encoder's checkpoint; none: where geoelle keeps it, downloaded first."
    )
    accept_license: bool = Field(False, description="Accept the licence of non-commercial weights.")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto: the GPU, if there is one.")
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="Of the encoder's products.")
    pooling: str | None = Field(None, description="How tokens become one embedding; none: as the encoder's card says.")
    layer: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Transformer block whose output is taken; none: the encoder's own output."
    )
    chip_size_m: float = Field(640, gt=0, description="Edge of a chip, metres.")
    stride_m: float = Field(320, gt=0, description="Distance between chips, metres; at most the chip size.")
    tile_chips: int = Field(16, ge=1, le=256, description="Edge of a job's tile, chips.")
    max_invalid_fraction: float = Field(0.1, ge=0, lt=1, description="Chips with more invalid pixels are skipped.")
    max_cloud_fraction: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Chips with more cloud and cloud shadow are skipped; none: as for invalid pixels."
    )
    min_contrast: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Chips with a smaller standard deviation are skipped as flat (open ocean); none: not."
    )
    cloud_mask: Literal["auto", "quality", "heuristic", "omnicloudmask", "none"] = Field(
        "auto", description="auto: the source's quality layer, else the heuristic test, else none."
    )
    dtype: Literal["float32", "float16", "int8"] = Field("float32", description="How embeddings are stored.")


class CalibrateConfig(_Section):
    """The probe."""

    quiet: tuple[DateRange, ...] = Field((), description="Date ranges without events; empty means all dates.")
    exclude_dates: tuple[date, ...] = Field((), description="Dates to leave out, for example cloudy ones.")
    n: int = Field(5000, ge=10, description="Chips to sample.")
    masks: int = Field(8, ge=1, le=64, description="Mask draws per chip (K); 1 only where the loss draws no mask.")
    block_size_m: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Edge of a spatial block, metres; none: 2000, or four chips over 1 km."
    )
    allow_few: bool = Field(False, description="Fit even with fewer than 30 independent blocks.")


class DeltaConfig(_Section):
    """What is normal here, and what counts as a change."""

    reference: Literal["median", "surrounding"] = Field(
        "median", description="median: of earlier looks. surrounding: looks before and after, a window left out."
    )
    window_days: int = Field(30, ge=0, description="surrounding: days to each side of a date that are left out.")
    reference_dates: tuple[DateRange, ...] = Field((), description="Only looks in these ranges may be references.")
    exclude_dates: tuple[date, ...] = Field((), description="Looks that are neither references nor judged.")
    dates: tuple[DateRange, ...] = Field((), description="Dates to judge; empty means all that can be.")
    min_looks: int = Field(4, ge=2, description="Reference looks that a place needs.")
    alert_z: float = Field(3.0, gt=0, description="A chip with |z| of at least this is an alert.")


class MapConfig(_Section):
    """The web map."""

    title: str | None = Field(None, description="Heading; by default the AOI's name.")
    max_alerts: int = Field(500, ge=1, description="Alerts drawn, best rank first.")


class RunConfig(_Section):
    """The whole chain. Paths are relative to the file they stand in."""

    name: str = Field(min_length=1, pattern=r"^\w[\w.-]*$", description="Name of the run and of its folder.")
    aoi: str | tuple[float, float, float, float] | None = Field(
        None, description="GeoJSON file or west, south, east, north; by default the whole of the items found."
    )
    out: str | None = Field(None, description="Folder of the outputs; by default runs/<name> where the run is started.")
    search: SearchConfig
    embed: EmbedConfig = EmbedConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    delta: DeltaConfig = DeltaConfig()
    map: MapConfig = MapConfig()


def load_config(path: str | Path) -> RunConfig:
    """A run configuration from YAML.

    Raises:
        NotFoundError: If there is no such file.
        ConfigError: If it is not YAML, or has keys or values that make no sense; names each of them.
    """
    source = Path(path)
    try:
        document = yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"There is no config {source}. See pipelines/ for examples.") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{source} is not YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{source} holds {type(document).__name__}. Expected keys and values; see pipelines/.")
    return parse_config(document, source.name)


def parse_config(document: dict[str, Any], name: str) -> RunConfig:
    """A run configuration from plain data; `name` is what errors call it.

    Raises:
        ConfigError: If keys or values make no sense.
    """
    try:
        return RunConfig.model_validate(document)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}"
            + ("" if e["type"] in ("missing", "value_error", "extra_forbidden") else f" (found {e['input']!r})")
            for e in error.errors()[:5]
        )
        raise ConfigError(f"{name} cannot be used. {said}.") from None
