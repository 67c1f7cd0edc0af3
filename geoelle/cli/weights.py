"""`geoelle weights`: the checkpoints of the encoders, on this machine and elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geoelle.cli import show
from geoelle.cli.options import Quiet, app, example

if TYPE_CHECKING:
    from geoelle.encoders.checkpoints import Progress
    from geoelle.encoders.conversion import VerifiedWeights

weights_app = typer.Typer(
    help="Look after the encoders' checkpoints: list, download, check and slim them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(weights_app, name="weights", epilog=example("geoelle weights get prithvi-eo-2.0-tiny-tl"))

Name = Annotated[str, typer.Argument(help="Checkpoint or encoder, as in `geoelle weights list`.")]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="File or folder that holds it; default: $GEOELLE_WEIGHTS, else geoelle's cache."),
]
AcceptLicense = Annotated[
    bool, typer.Option("--accept-license", help="Accept a licence that forbids commercial use; asked for each time.")
]


@weights_app.command("list", epilog=example("geoelle weights list"))
def list_() -> None:
    """List the checkpoints: size, licence, how they are checked, and whether they are here."""
    from geoelle.encoders.checkpoints import list_checkpoints

    show.checkpoints(list_checkpoints())


@weights_app.command(epilog=example("geoelle weights get prithvi-eo-2.0-tiny-tl"))
def get(
    name: Name,
    accept_license: AcceptLicense = False,
    quiet: Quiet = False,
) -> None:
    """Download a checkpoint into geoelle's cache, or go on with a download that broke off, and check it."""
    from geoelle.encoders.checkpoints import checkpoint_of, fetch_weights, size_of

    checkpoint = checkpoint_of(name)
    with _bytes("download", quiet) as progress:
        found = fetch_weights(checkpoint, accept_license=accept_license, progress=progress)
    show.line(f"{checkpoint.name}: {found.path}, {size_of(found.path.stat().st_size)}, sha256 {found.sha256}.")
    show.note(f"Licence: {checkpoint.licence}. From {checkpoint.source}.")


@weights_app.command(epilog=example("geoelle weights convert clay-v1.5 --out clay-v1.5.safetensors"))
def convert(
    name: Name,
    weights: Weights = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write, .safetensors; default: in the cache, where it is found first.")
    ] = None,
    accept_license: AcceptLicense = False,
    quiet: Quiet = False,
) -> None:
    """Write what the encoder needs of a checkpoint as safetensors: Clay's 5.16 GB become 1.3 GB."""
    from geoelle.encoders.checkpoints import size_of, summary_of
    from geoelle.encoders.conversion import convert_weights

    with _bytes("convert", quiet) as progress:
        made = convert_weights(name, out, weights=weights, accept_license=accept_license, progress=progress)
    show.line(
        f"{made.checkpoint}: wrote {made.n_tensors} tensors, {size_of(made.n_bytes)}, to {made.path}, sha256 "
        f"{made.sha256}, from a file with sha256 {made.source_sha256}."
    )
    show.note(f"Left out: {summary_of(made.dropped) or 'nothing'}.")


@weights_app.command(epilog=example("geoelle weights verify prithvi-eo-2.0-tiny-tl"))
def verify(
    name: Name,
    weights: Weights = None,
    accept_license: AcceptLicense = False,
) -> None:
    """Read a checkpoint's file anew, check it, and open it safely; exit 1 if it is not as it should be."""
    from geoelle.encoders.checkpoints import size_of, summary_of
    from geoelle.encoders.conversion import verify_weights

    found = verify_weights(name, weights=weights, accept_license=accept_license)
    show.line(
        f"{found.checkpoint}: {found.path} is whole, {size_of(found.n_bytes)}, sha256 {found.sha256}; "
        f"{found.n_tensors} tensors of {found.n_values / 1e6:.1f} million values."
    )
    for text in _vouched(found):
        show.note(text)
    show.note(f"Left out when loaded: {summary_of(found.dropped) or 'nothing'}.")


def _vouched(found: VerifiedWeights) -> Iterator[str]:
    """What else than a published sha256 says that the file is the one it should be."""
    if found.converted:
        yield "It was converted: the sha256 is that of the file it says it was made from, which is its own word only."
    unpublished = "" if found.published else "; no sha256 is published"
    if found.fits:
        yield f"Names and shapes of {found.n_tensors} tensors fit {found.fits}{unpublished}."
    elif not found.published:
        yield "No sha256 is published, and no encoder here takes these weights: names and shapes were not compared."


@contextmanager
def _bytes(what: str, quiet: bool) -> Iterator[Progress | None]:
    """A bar on standard error that counts bytes; none in a log or a pipe."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=None)

        def progress(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total or None)

        yield progress
