"""The verbs around the chain: looking after stores, and taking them elsewhere."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from geoelle.cli import show
from geoelle.cli.options import (
    AcceptLicense,
    ExportFormat,
    Quiet,
    Ranges,
    Scheduler,
    Weights,
    Workers,
    app,
    as_ranges,
    example,
)


@app.command(epilog=example("geoelle update embeddings.zarr --items items.parquet"))
def update(
    embeddings: Annotated[str, typer.Argument(help="Store made by `geoelle embed`.")],
    items: Annotated[Path, typer.Option(help="The items it was made from; replaced by the longer list.")] = Path(
        "items.parquet"
    ),
    end: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day to look for; default: today, UTC.")
    ] = None,
    catalog: Annotated[str | None, typer.Option(help="Where to look instead of where the items were found.")] = None,
    weights: Weights = None,
    accept_license: AcceptLicense = False,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    quiet: Quiet = False,
) -> None:
    """Look for new, late and reprocessed items, and do only their jobs: what a cron job calls."""
    from geoelle.updating import update as run_update

    with show.stages(quiet) as report:
        summary = run_update(
            embeddings, items=items, end=None if end is None else end.date(), catalog=catalog, weights=weights,
            accept_license=accept_license, workers=workers, scheduler=scheduler, progress=report("update"),
        )  # fmt: skip
    show.update_summary(summary)
    if summary.embedding.n_failed:
        raise typer.Exit(1)


@app.command(epilog=example("geoelle inspect embeddings.zarr --verify"))
def inspect(
    store: Annotated[str, typer.Argument(help="A store of any kind.")],
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every chunk, to find damaged ones; exit 1 if any, or any job is missing."),
    ] = False,
) -> None:
    """Say what is in a store, what is missing, and what failed and why."""
    from geoelle.inspecting import inspect as look

    report = look(store, verify=verify)
    show.store_report(report)
    if verify and not report.is_whole:
        raise typer.Exit(1)


@app.command(epilog=example("geoelle export difficulty.zarr embeddings.zarr --items items.parquet --out exports"))
def export(
    stores: Annotated[list[str], typer.Argument(help="Stores made by `embed`, `difficulty` or `delta`.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("exports"),
    format: Annotated[list[ExportFormat] | None, typer.Option(help="May be given again; default: all of them.")] = None,
    dates: Ranges = None,
    items: Annotated[Path | None, typer.Option(help="The items the stores were made from.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write stores as COG and GeoParquet, one per date and UTM zone, with a STAC catalog over them."""
    from geoelle.exporting import export as run_export

    formats: Any = tuple(f.value for f in format or ExportFormat)
    with show.stages(quiet) as report:
        summary = run_export(
            stores, out=out, formats=formats, dates=as_ranges(dates), items=items, progress=report("export")
        )
    show.export_summary(summary)
