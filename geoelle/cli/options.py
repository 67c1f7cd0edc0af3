"""Options that several verbs share, and how their texts are read."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from geoelle.errors import ConfigError

app = typer.Typer(
    name="geoelle",
    help="How hard a place is for an Earth-observation foundation model, and whether that changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CloudMask(StrEnum):
    """Where clouds are known from."""

    auto = "auto"
    quality = "quality"
    heuristic = "heuristic"
    omnicloudmask = "omnicloudmask"
    none = "none"


class Dtype(StrEnum):
    """How embeddings are stored."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class Precision(StrEnum):
    """Of an encoder's products."""

    float32 = "float32"
    bf16 = "bf16"
    fp16 = "fp16"


class ExportFormat(StrEnum):
    """What a store is exported as."""

    cog = "cog"
    geoparquet = "geoparquet"
    stac = "stac"


_AOI = "GeoJSON or GeoPackage, west,south,east,north in degrees, or the name of a place in aoi/."
Aoi = Annotated[str, typer.Option("--aoi", help=_AOI)]
MaybeAoi = Annotated[str | None, typer.Option("--aoi", help=f"{_AOI} Default: all that the items cover.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes of the local Dask cluster; 1 is threads in this one.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler that runs already.")]
Weights = Annotated[
    Path | None, typer.Option(help="File or folder of the encoder's checkpoint; default: geoelle's cache, or download.")
]
AcceptLicense = Annotated[bool, typer.Option("--accept-license", help="Accept the licence of non-commercial weights.")]
Device = Annotated[str, typer.Option(help="auto is the GPU where there is one; or cpu, cuda, cuda:1.")]
EncoderPrecision = Annotated[Precision, typer.Option("--precision", help="Of the encoder's products.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Ranges = Annotated[list[str] | None, typer.Option(help="START/END or a date; may be given again.")]
Dates = Annotated[list[datetime] | None, typer.Option(formats=["%Y-%m-%d"], help="May be given again.")]


def example(text: str) -> str:
    return f"**Example:** `{text}`"


def as_aoi(text: str) -> Any:
    parts = text.split(",")
    if (
        len(parts) == 1
        or Path(text).exists()
        or (len(parts) != 4 and Path(parts[-1]).suffix in (".geojson", ".json", ".gpkg"))
    ):
        return text
    try:
        west, south, east, north = (float(p) for p in parts)  # also where there are more or fewer than four
    except ValueError:
        raise ConfigError(f"--aoi {text!r} is neither a file nor four numbers west,south,east,north.") from None
    return west, south, east, north


def as_ranges(texts: list[str] | None) -> list[tuple[str, str]]:
    ranges = []
    for text in texts or ():
        first, _, last = text.partition("/")
        try:
            days = [datetime.strptime(day, "%Y-%m-%d").date() for day in (first, last or first)]
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not START/END with dates like 2020-01-31.") from None
        ranges.append((str(days[0]), str(days[1])))
    return ranges


def as_days(moments: list[datetime] | None) -> list[str]:
    return [str(moment.date()) for moment in moments or ()]
