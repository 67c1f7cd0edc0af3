"""The verbs. Imports of the library stand inside them, so that `--help` stays quick."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from geoelle.cli import show
from geoelle.errors import ConfigError, GeoelleError
from geoelle.running import quiet_rasterio

app = typer.Typer(
    name="geoelle",
    help="How hard a place is for an Earth-observation foundation model, and whether that changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_INTERRUPTED = 130
_AOI_SUFFIXES = (".geojson", ".json", ".gpkg")

Aoi = Annotated[
    str, typer.Option("--aoi", help="GeoJSON or GeoPackage file, a place's name, or west,south,east,north in degrees.")
]
MaybeAoi = Annotated[
    str | None,
    typer.Option(
        "--aoi",
        help="GeoJSON or GeoPackage file, a place's name, or west,south,east,north; default: all the items cover.",
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Processes of the local Dask cluster; 1 is threads in this one.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler that runs already.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Ranges = Annotated[list[str] | None, typer.Option(help="START/END or a date; may be given again.")]
Dates = Annotated[list[datetime] | None, typer.Option(formats=["%Y-%m-%d"], help="May be given again.")]


def _example(text: str) -> str:
    return f"**Example:** `{text}`"


@app.command(epilog=_example("geoelle demo"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for scenes and results.")] = Path("demo"),
    workers: Workers = 1,
    quiet: Quiet = False,
) -> None:
    """Run everything on simulated scenes: no data, no network, one map to open."""
    from geoelle.workflow import demo as run_demo

    with show.stages(quiet) as report:
        summary, simulation = run_demo(out, workers=workers, report=report)
    show.run_summary(summary)
    show.simulated(simulation)


@app.command(
    epilog=_example(
        "geoelle search --aoi aoi.geojson --catalog catalog.json --collection sentinel-2-l2a "
        "--start 2020-01-01 --end 2020-12-31 --max-cloud 60 --out items.parquet"
    )
)
def search(
    aoi: Aoi,
    catalog: Annotated[str, typer.Option(help="URL of a STAC API or catalog, or path of a static catalog.")],
    collection: Annotated[list[str], typer.Option(help="Collection id; may be given again.")],
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")],
    end: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last day.")],
    out: Annotated[Path, typer.Option(help="Where the items go, as stac-geoparquet.")] = Path("items.parquet"),
    sensor: Annotated[str, typer.Option(help="Whose bands the items must hold.")] = "sentinel-2-l2a",
    max_cloud: Annotated[
        float | None, typer.Option(min=0, max=100, help="Percent; items declaring more are left out.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Item id to leave out; may be given again.")] = None,
) -> None:
    """Find the STAC items of an area and dates, and freeze them in a file."""
    from geoelle.searching import search as find

    found = find(
        _aoi(aoi), catalog=catalog, collections=collection, start=start.date(), end=end.date(), sensor=sensor,
        max_cloud_percent=max_cloud, exclude=exclude or (), out=out,
    )  # fmt: skip
    show.line(f"Items: {found.attrs['geoelle:filters']}. Wrote {out}.")


@app.command(epilog=_example("geoelle embed items.parquet --aoi aoi.geojson --out embeddings.zarr --workers 2"))
def embed(
    items: Annotated[Path, typer.Argument(help="File written by `geoelle search`.")],
    out: Annotated[Path, typer.Option(help="Zarr store to make, continue or add to.")] = Path("embeddings.zarr"),
    aoi: MaybeAoi = None,
    encoder: Annotated[str, typer.Option(help="Name as in `geoelle encoders`.")] = "compact-rgb",
    chip_size_m: Annotated[float, typer.Option(help="Edge of a chip, metres.")] = 640,
    stride_m: Annotated[float, typer.Option(help="Distance between chips, metres.")] = 320,
    tile_chips: Annotated[int, typer.Option(min=1, max=256, help="Edge of a job's tile, chips.")] = 16,
    max_invalid_fraction: Annotated[
        float, typer.Option(min=0, max=0.99, help="Chips with a larger share of invalid pixels are skipped.")
    ] = 0.1,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
) -> None:
    """Embed every chip of an area on every date. An interrupted run resumes; what is there is not done again."""
    from geoelle.embedding import embed as run_embed
    from geoelle.records import EmbedSummary

    with show.stages(quiet) as report:
        ds = run_embed(
            items, out=out, aoi=None if aoi is None else _aoi(aoi), encoder=encoder, chip_size_m=chip_size_m,
            stride_m=stride_m, tile_chips=tile_chips, max_invalid_fraction=max_invalid_fraction, workers=workers,
            scheduler=scheduler, progress=report("embed"),
        )  # fmt: skip
    summary = EmbedSummary(**ds.attrs["geoelle:summary"])
    show.embed_summary(summary)
    show.resampled(ds)
    if summary.n_failed:
        raise typer.Exit(1)


@app.command(
    epilog=_example("geoelle calibrate embeddings.zarr --items items.parquet --quiet-dates 2019-01-01/2020-01-10")
)
def calibrate(
    embeddings: Annotated[Path, typer.Argument(help="Store made by `geoelle embed`.")],
    items: Annotated[Path, typer.Option(help="The items it was made from.")] = Path("items.parquet"),
    out: Annotated[Path, typer.Option(help="Folder for the probe.")] = Path("probe"),
    pairs: Annotated[Path | None, typer.Option(help="GeoParquet for the pairs; default: beside the probe.")] = None,
    quiet_dates: Ranges = None,
    exclude_date: Dates = None,
    n: Annotated[int, typer.Option(min=10, help="Chips to sample.")] = 5000,
    masks: Annotated[int, typer.Option(min=2, max=64, help="Mask draws per chip (K).")] = 8,
    block_size_m: Annotated[float, typer.Option(help="Edge of a spatial block, metres.")] = 2000,
    allow_few: Annotated[bool, typer.Option("--allow-few", help="Fit with fewer than 30 blocks.")] = False,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
) -> None:
    """Measure the own loss of sampled chips on quiet dates, and fit the probe that predicts it."""
    from geoelle.calibration import calibrate as run_calibrate

    with show.stages(quiet) as report:
        found = run_calibrate(
            embeddings, items=items, out=out, pairs_out=pairs, quiet=_ranges(quiet_dates),
            exclude_dates=_days(exclude_date), n=n, masks=masks, block_size_m=block_size_m, allow_few=allow_few,
            workers=workers, scheduler=scheduler, progress=report("calibrate"),
        )  # fmt: skip
    show.calibration(found.attrs["geoelle:calibration"], out)


@app.command(epilog=_example("geoelle difficulty embeddings.zarr --probe probe --out difficulty.zarr"))
def difficulty(
    embeddings: Annotated[Path, typer.Argument(help="Store made by `geoelle embed`.")],
    out: Annotated[Path, typer.Option(help="Zarr store to write.")] = Path("difficulty.zarr"),
    probe: Annotated[
        Path | None, typer.Option(help="Probe made by `geoelle calibrate`; default: the shipped one (cold start).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Predict each chip's own loss, with its error and support, as a raster that GDAL opens."""
    from geoelle.mapping import difficulty as run_difficulty

    with show.stages(quiet) as report:
        ds = run_difficulty(embeddings, out=out, probe=probe, progress=report("difficulty"))
    show.difficulty(ds, out)


@app.command(
    epilog=_example("geoelle delta difficulty.zarr --reference surrounding --window-days 30 --alerts alerts.parquet")
)
def delta(
    difficulty: Annotated[Path, typer.Argument(help="Store made by `geoelle difficulty`.")],
    out: Annotated[Path, typer.Option(help="Zarr store to write.")] = Path("delta.zarr"),
    reference: Annotated[
        str, typer.Option(help="`median` of earlier looks, or `surrounding` looks, after the fact.")
    ] = "median",
    window_days: Annotated[int, typer.Option(min=0, help="surrounding: days left out to each side.")] = 30,
    reference_dates: Ranges = None,
    exclude_date: Dates = None,
    dates: Ranges = None,
    min_looks: Annotated[int, typer.Option(min=2, help="Reference looks that a place needs.")] = 4,
    alert_z: Annotated[float, typer.Option(help="A chip with |z| of at least this is an alert.")] = 3.0,
    alerts: Annotated[Path, typer.Option(help="GeoParquet for the ranked alerts; GeoJSON goes beside it.")] = Path(
        "alerts.parquet"
    ),
) -> None:
    """Compare each look with what is normal at its place, and rank the alerts."""
    from geoelle.change import delta as run_delta

    if reference not in ("median", "surrounding"):
        raise typer.BadParameter(f"{reference!r} is not one of 'median', 'surrounding'.", param_hint="--reference")
    ds = run_delta(
        difficulty, out=out, reference=reference, window_days=window_days,  # type: ignore[arg-type]
        reference_dates=_ranges(reference_dates), exclude_dates=_days(exclude_date), dates=_ranges(dates),
        min_looks=min_looks, alert_z=alert_z, alerts=alerts,
    )  # fmt: skip
    show.delta(ds, out, alerts)


@app.command(epilog=_example("geoelle map difficulty.zarr --delta delta.zarr --alerts alerts.parquet --out map.html"))
def map(
    difficulty: Annotated[Path, typer.Argument(help="Store made by `geoelle difficulty`.")],
    delta: Annotated[Path | None, typer.Option(help="Store made by `geoelle delta`.")] = None,
    alerts: Annotated[Path | None, typer.Option(help="Alerts written by `geoelle delta`.")] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("map.html"),
    title: Annotated[str | None, typer.Option(help="Heading; default: the AOI's name.")] = None,
    max_alerts: Annotated[int, typer.Option(min=1, help="Alerts drawn, best rank first.")] = 500,
) -> None:
    """Draw difficulty, delta and alerts into one HTML file that opens with no network."""
    from geoelle.store import open_area
    from geoelle.store.tables import read_table
    from geoelle.webmap import map as draw

    drawn = draw(
        open_area(difficulty, "difficulty", load=True),
        delta=None if delta is None else open_area(delta, "delta", load=True),
        alerts=None if alerts is None else read_table(alerts),
        out=out,
        title=title,
        max_alerts=max_alerts,
    )
    show.map_summary(drawn)


@app.command(epilog=_example("geoelle run pipelines/boadella.yaml"))
def run(
    config: Annotated[Path, typer.Argument(help="YAML file; see pipelines/.")],
    workers: Workers = 1,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
) -> None:
    """Do the whole chain from one config: search, embed, calibrate, difficulty, delta, map."""
    from geoelle.store import open_area
    from geoelle.workflow import run as run_chain

    with show.stages(quiet) as report:
        summary = run_chain(config, workers=workers, scheduler=scheduler, report=report)
    show.run_summary(summary)
    show.resampled(open_area(summary.folder / "embeddings.zarr", "embeddings"))
    if summary.embedding.n_failed:
        raise typer.Exit(1)


@app.command(epilog=_example("geoelle encoders"))
def encoders(
    sensor: Annotated[str | None, typer.Option(help="Only encoders for this sensor.")] = None,
) -> None:
    """List the encoders: what they take, what their loss is, and under which licence."""
    from geoelle.encoders import list_encoders

    show.encoders(list_encoders(sensor))


def _aoi(text: str) -> Any:
    parts = text.split(",")
    if len(parts) == 1 or Path(text).exists() or (len(parts) != 4 and Path(parts[-1]).suffix in _AOI_SUFFIXES):
        return text
    try:
        west, south, east, north = (float(p) for p in parts)  # also where there are more or fewer than four
    except ValueError:
        raise ConfigError(f"--aoi {text!r} is neither a file nor four numbers west,south,east,north.") from None
    return west, south, east, north


def _ranges(texts: list[str] | None) -> list[tuple[str, str]]:
    ranges = []
    for text in texts or ():
        first, _, last = text.partition("/")
        try:
            days = [datetime.strptime(day, "%Y-%m-%d").date() for day in (first, last or first)]
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not START/END with dates like 2020-01-31.") from None
        ranges.append((str(days[0]), str(days[1])))
    return ranges


def _days(moments: list[datetime] | None) -> list[str]:
    return [str(moment.date()) for moment in moments or ()]


def main() -> None:
    """Entry point of the `geoelle` command: our errors are one sentence and exit code 1."""
    quiet_rasterio()
    try:
        app()
    except GeoelleError as error:
        show.error(error)
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission, a file where a folder should be
        show.error(ConfigError(f"Cannot read or write: {error}. Check the path, its permissions and the disk."))
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer takes the KeyboardInterrupt itself
            show.note("Interrupted. The same command takes up where this one stopped.")
        raise
