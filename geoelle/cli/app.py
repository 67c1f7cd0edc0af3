"""The verbs. Imports of the library stand inside them, so that `--help` stays quick."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from geoelle.cli import show
from geoelle.cli.options import (
    AcceptLicense,
    Aoi,
    CloudMask,
    Dates,
    Device,
    Dtype,
    EncoderPrecision,
    MaybeAoi,
    Precision,
    Quiet,
    Ranges,
    Scheduler,
    Weights,
    Workers,
    app,
    as_aoi,
    as_days,
    as_ranges,
    example,
)
from geoelle.errors import ConfigError, GeoelleError
from geoelle.running import quiet_rasterio

_INTERRUPTED = 130
__all__ = ("app", "main")


@app.command(epilog=example("geoelle demo"))
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
    epilog=example(
        "geoelle search --aoi aoi.geojson --catalog catalog.json --collection sentinel-2-l2a "
        "--start 2020-01-01 --end 2020-12-31 --max-cloud 60 --out items.parquet"
    )
)
def search(
    aoi: Aoi,
    catalog: Annotated[
        str,
        typer.Option(
            help="planetary-computer, earth-search, a STAC API's or catalog's URL, or a path (also .parquet)."
        ),
    ],
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")],
    end: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Last day.")],
    out: Annotated[Path, typer.Option(help="Where the items go, as stac-geoparquet.")] = Path("items.parquet"),
    collection: Annotated[
        list[str] | None,
        typer.Option(help="Collection id; may be given again; default: the provider's for the sensor."),
    ] = None,
    sensor: Annotated[
        str, typer.Option(help="Whose bands the items must hold; a name or a YAML file.")
    ] = "sentinel-2-l2a",
    band: Annotated[
        list[str] | None, typer.Option(help="Band without which items are left out; may be given again.")
    ] = None,
    max_cloud: Annotated[
        float | None, typer.Option(min=0, max=100, help="Percent; items declaring more are left out.")
    ] = None,
    month: Annotated[
        list[int] | None, typer.Option(min=1, max=12, help="Month of the year; may be given again.")
    ] = None,
    orbit: Annotated[list[int] | None, typer.Option(help="Relative orbit; may be given again.")] = None,
    platform: Annotated[list[str] | None, typer.Option(help="Satellite; may be given again.")] = None,
    min_coverage: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the AOI that a day's items must cover.")
    ] = 0.0,
    exclude: Annotated[list[str] | None, typer.Option(help="Item id to leave out; may be given again.")] = None,
    fallback: Annotated[str | None, typer.Option(help="Provider to ask where the first does not answer.")] = None,
) -> None:
    """Find the STAC items of an area and dates, and freeze them in a file."""
    from geoelle.searching import search as find

    found = find(
        as_aoi(aoi), catalog=catalog, collections=collection or (), start=start.date(), end=end.date(), sensor=sensor,
        bands=band or (), max_cloud_percent=max_cloud, months=month or (), relative_orbits=orbit or (),
        platforms=platform or (), min_aoi_coverage_fraction=min_coverage, exclude=exclude or (), fallback=fallback,
        out=out,
    )  # fmt: skip
    show.line(f"Items: {found.attrs['geoelle:filters']}. Wrote {out}.")


@app.command(epilog=example("geoelle embed items.parquet --aoi aoi.geojson --out embeddings.zarr --workers 2"))
def embed(
    items: Annotated[Path, typer.Argument(help="File written by `geoelle search`.")],
    out: Annotated[str, typer.Option(help="Zarr store to make, continue or add to.")] = "embeddings.zarr",
    aoi: MaybeAoi = None,
    encoder: Annotated[str, typer.Option(help="Name as in `geoelle encoders`.")] = "compact-rgb",
    weights: Weights = None,
    accept_license: AcceptLicense = False,
    device: Device = "auto",
    precision: EncoderPrecision = Precision.float32,
    pooling: Annotated[
        str | None, typer.Option(help="How tokens become one embedding, e.g. cls or mean; default: the encoder's.")
    ] = None,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Transformer block whose output is taken; default: the last, normed.")
    ] = None,
    chip_size_m: Annotated[float, typer.Option(help="Edge of a chip, metres.")] = 640,
    stride_m: Annotated[float, typer.Option(help="Distance between chips, metres.")] = 320,
    tile_chips: Annotated[int, typer.Option(min=1, max=256, help="Edge of a job's tile, chips.")] = 16,
    max_invalid_fraction: Annotated[
        float, typer.Option(min=0, max=0.99, help="Chips with a larger share of invalid pixels are skipped.")
    ] = 0.1,
    max_cloud_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Chips with a larger share of cloud and its shadow are skipped.")
    ] = None,
    min_contrast: Annotated[
        float | None, typer.Option(min=0, help="Chips with a smaller standard deviation are skipped as flat.")
    ] = None,
    cloud_mask: Annotated[
        CloudMask, typer.Option(help="auto: the source's quality layer, else the heuristic test, else none.")
    ] = CloudMask.auto,
    dtype: Annotated[Dtype, typer.Option(help="How embeddings are stored.")] = Dtype.float32,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
) -> None:
    """Embed every chip of an area on every date. An interrupted run resumes; what is there is not done again."""
    from geoelle.embedding import embed as run_embed
    from geoelle.records import EmbedSummary

    with show.stages(quiet) as report:
        ds = run_embed(
            items, out=out, aoi=None if aoi is None else as_aoi(aoi), encoder=encoder, weights=weights,
            accept_license=accept_license, device=device, precision=precision.value, pooling=pooling, layer=layer,
            chip_size_m=chip_size_m, stride_m=stride_m, tile_chips=tile_chips,
            max_invalid_fraction=max_invalid_fraction, max_cloud_fraction=max_cloud_fraction,
            min_contrast=min_contrast, cloud_mask=cloud_mask.value,
            dtype=dtype.value, workers=workers, scheduler=scheduler, progress=report("embed"),
        )  # fmt: skip
    summary = EmbedSummary(**ds.attrs["geoelle:summary"])
    show.embed_summary(summary)
    show.resampled(out)
    if summary.n_failed:
        raise typer.Exit(1)


@app.command(
    epilog=example("geoelle calibrate embeddings.zarr --items items.parquet --quiet-dates 2019-01-01/2020-01-10")
)
def calibrate(
    embeddings: Annotated[str, typer.Argument(help="Store made by `geoelle embed`.")],
    items: Annotated[Path, typer.Option(help="The items it was made from.")] = Path("items.parquet"),
    out: Annotated[str, typer.Option(help="Folder for the probe.")] = "probe",
    pairs: Annotated[str | None, typer.Option(help="GeoParquet for the pairs; default: beside the probe.")] = None,
    quiet_dates: Ranges = None,
    exclude_date: Dates = None,
    n: Annotated[int, typer.Option(min=10, help="Chips to sample.")] = 5000,
    masks: Annotated[
        int, typer.Option(min=1, max=64, help="Mask draws per chip (K); 1 only where the loss draws none.")
    ] = 8,
    block_size_m: Annotated[
        float | None,
        typer.Option(help="Edge of a spatial block, metres; default: 2000, or four chips over 1 km."),
    ] = None,
    allow_few: Annotated[bool, typer.Option("--allow-few", help="Fit with fewer than 30 blocks.")] = False,
    weights: Weights = None,
    accept_license: AcceptLicense = False,
    device: Device = "auto",
    precision: EncoderPrecision = Precision.float32,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
) -> None:
    """Measure the own loss of sampled chips on quiet dates, and fit the probe that predicts it."""
    from geoelle.calibration import calibrate as run_calibrate

    with show.stages(quiet) as report:
        found = run_calibrate(
            embeddings, items=items, out=out, pairs_out=pairs, quiet=as_ranges(quiet_dates),
            exclude_dates=as_days(exclude_date), n=n, masks=masks, block_size_m=block_size_m, allow_few=allow_few,
            weights=weights, accept_license=accept_license, device=device, precision=precision.value,
            workers=workers, scheduler=scheduler, progress=report("calibrate"),
        )  # fmt: skip
    show.calibration(found.attrs["geoelle:calibration"], out)


@app.command(epilog=example("geoelle difficulty embeddings.zarr --probe probe --out difficulty.zarr"))
def difficulty(
    embeddings: Annotated[str, typer.Argument(help="Store made by `geoelle embed`.")],
    out: Annotated[str, typer.Option(help="Zarr store to write.")] = "difficulty.zarr",
    probe: Annotated[
        str | None, typer.Option(help="Probe made by `geoelle calibrate`; default: the shipped one (cold start).")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Predict each chip's own loss, with its error and support, as a raster that GDAL opens."""
    from geoelle.mapping import difficulty as run_difficulty

    with show.stages(quiet) as report:
        ds = run_difficulty(embeddings, out=out, probe=probe, progress=report("difficulty"))
    show.difficulty(ds, out)


@app.command(
    epilog=example("geoelle delta difficulty.zarr --reference surrounding --window-days 30 --alerts alerts.parquet")
)
def delta(
    difficulty: Annotated[str, typer.Argument(help="Store made by `geoelle difficulty`.")],
    out: Annotated[str, typer.Option(help="Zarr store to write.")] = "delta.zarr",
    reference: Annotated[
        str, typer.Option(help="`median` of earlier looks, or `surrounding` looks, after the fact.")
    ] = "median",
    window_days: Annotated[int, typer.Option(min=0, help="surrounding: days left out to each side.")] = 30,
    reference_dates: Ranges = None,
    exclude_date: Dates = None,
    dates: Ranges = None,
    min_looks: Annotated[int, typer.Option(min=2, help="Reference looks that a place needs.")] = 4,
    alert_z: Annotated[float, typer.Option(help="A chip with |z| of at least this is an alert.")] = 3.0,
    alerts: Annotated[
        str, typer.Option(help="GeoParquet for the ranked alerts; GeoJSON goes beside it.")
    ] = "alerts.parquet",
) -> None:
    """Compare each look with what is normal at its place, and rank the alerts."""
    from geoelle.change import delta as run_delta

    if reference not in ("median", "surrounding"):
        raise typer.BadParameter(f"{reference!r} is not one of 'median', 'surrounding'.", param_hint="--reference")
    ds = run_delta(
        difficulty, out=out, reference=reference, window_days=window_days,  # type: ignore[arg-type]
        reference_dates=as_ranges(reference_dates), exclude_dates=as_days(exclude_date), dates=as_ranges(dates),
        min_looks=min_looks, alert_z=alert_z, alerts=alerts,
    )  # fmt: skip
    show.delta(ds, out, alerts)


@app.command(epilog=example("geoelle map difficulty.zarr --delta delta.zarr --alerts alerts.parquet --out map.html"))
def map(
    difficulty: Annotated[str, typer.Argument(help="Store made by `geoelle difficulty`.")],
    delta: Annotated[str | None, typer.Option(help="Store made by `geoelle delta`.")] = None,
    alerts: Annotated[str | None, typer.Option(help="Alerts written by `geoelle delta`.")] = None,
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


@app.command(epilog=example("geoelle run pipelines/boadella.yaml"))
def run(
    config: Annotated[Path, typer.Argument(help="YAML file; see pipelines/.")],
    workers: Workers = 1,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
) -> None:
    """Do the whole chain from one config: search, embed, calibrate, difficulty, delta, map."""
    from geoelle.workflow import run as run_chain

    with show.stages(quiet) as report:
        summary = run_chain(config, workers=workers, scheduler=scheduler, report=report)
    show.run_summary(summary)
    show.resampled(str(summary.folder / "embeddings.zarr"))
    if summary.embedding.n_failed:
        raise typer.Exit(1)


@app.command(epilog=example("geoelle encoders clay-v1.5:naip"))
def encoders(
    name: Annotated[str | None, typer.Argument(help="Show this one's card alone.")] = None,
    sensor: Annotated[str | None, typer.Option(help="Only encoders for this sensor.")] = None,
    long: Annotated[bool, typer.Option("--long", help="Whole cards, not a line each.")] = False,
) -> None:
    """List the encoders, a line each; with a name, all there is to know about one."""
    from geoelle.encoders import get_card, list_encoders
    from geoelle.sensors import get_sensor

    cards = list_encoders(sensor)
    if name is not None:
        if sensor is not None:
            raise typer.BadParameter("A name is one encoder's card; --sensor lists those of a sensor. Use one of them.")
        cards = [get_card(name)]
    if sensor is not None and not cards:
        show.note(f"No encoder takes {get_sensor(sensor).name} as it is.")
        return
    (show.encoder_cards if long or name is not None else show.encoders)(cards)


def main() -> None:
    """Entry point of the `geoelle` command: our errors are one sentence and exit code 1."""
    quiet_rasterio()
    try:
        with _quiet_interrupt():
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


@contextmanager
def _quiet_interrupt() -> Iterator[None]:
    """On Ctrl-C, keep the cluster that is taken down from telling about each task that it gives up."""

    def interrupted(number: int, frame: object) -> None:
        logging.disable(logging.CRITICAL)
        sys.unraisablehook = lambda _: None  # of Dask's atexit, whose workers are gone
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # who ignores it means to
        yield
        return
    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
