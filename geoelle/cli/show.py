"""What the command line says: progress while it works, and at the end what was done, skipped and why."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from geoelle.schema import COARSE_FACTOR, LOSS_NAMES, MIN_INDEPENDENT_BLOCKS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from geoelle.encoders.checkpoints import Checkpoint
    from geoelle.exporting import ExportSummary
    from geoelle.inspecting import StoreReport
    from geoelle.records import EmbedSummary, EncoderCard
    from geoelle.running import Progress
    from geoelle.simulate import Simulation
    from geoelle.updating import UpdateSummary
    from geoelle.webmap import MapSummary
    from geoelle.workflow import RunSummary, StageReporter


_WIDTH_IN_PIPES = 2000
_RIGHT = ("bands", "gsd", "dim", "values")
"""Columns of numbers."""
_WIDE, _ONLY_WIDE = 120, ("bands", "values", "licence")
"""From so many columns on, all of the encoders' table is shown; and what is not, below that."""
_TABLE_WIDTH = 100
"""Of tables that are read as they are, in pipes too."""


def line(text: str) -> None:
    """One line of result, on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line that is no result, on standard error."""
    sys.stderr.write(text + "\n")


def error(found: Exception) -> None:
    """One of our errors, as one sentence."""
    note("geoelle: " + " ".join(str(found).split()))


@contextmanager
def stages(quiet: bool) -> Iterator[StageReporter]:
    """Progress bars on standard error, one per stage."""
    from geoelle.running import no_progress

    if quiet or not sys.stderr.isatty():  # in a log or a pipe, bars are noise around the one line that counts
        yield lambda stage: no_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(stage: str) -> Progress:
            task = bars.add_task(stage, total=None)

            def progress(done: int, total: int) -> None:
                bars.update(task, completed=done, total=total)

            return progress

        yield report


def embed_summary(summary: EmbedSummary) -> None:
    """What `embed` did, skipped and failed at."""
    if not (summary.n_done or summary.n_failed):
        line(f"Embeddings: nothing to do, all {summary.n_jobs} jobs are in {summary.store} already.")
        return
    line(
        f"Embeddings: {summary.n_embedded} chips in {summary.n_done} of {summary.n_jobs} jobs"
        + (f" ({summary.n_unchanged} were there already)" if summary.n_unchanged else "")
        + f"; skipped {summary.n_skipped_invalid} chips with too little data, {summary.n_skipped_cloud} for cloud"
        + (f" and {summary.n_skipped_flat} as flat" if summary.n_skipped_flat else "")
        + f". In {summary.store}."
    )
    if "heuristic" in summary.mask_sources:
        note("Some imagery has no quality layer: its clouds were masked by a heuristic spectral test; look at them.")
    if "none" in summary.mask_sources:
        note("Some imagery has no quality layer and not the bands to test: its clouds were not masked.")
    for failure in summary.failures[:10]:
        note(f"geoelle: failed: {failure}")
    if summary.n_failed:
        note(f"geoelle: {summary.n_failed} jobs failed; the same command takes them up again.")


def resampled(store: str) -> None:
    """A word where the imagery is coarser than, or otherwise unlike, what the encoder was trained on."""
    from geoelle.store.zones import open_zones

    zones = open_zones(store, "embeddings").values()
    for text in next(iter(zones)).attrs.get("geoelle:encoder_notes", []):
        note(text)
    native = max((n for zone in zones if (n := zone.attrs.get("geoelle:native_gsd_m")) is not None), default=None)
    taken = next(iter(zones)).attrs["geoelle:encoder"]["gsd_m"]
    if native is not None and native > COARSE_FACTOR * taken:
        note(
            f"The imagery has pixels of {native:g} m and was resampled to the {taken:g} m that the encoder is fed: "
            "it is smoother than anything that was trained on, so levels are not to be trusted."
        )


def update_summary(summary: UpdateSummary) -> None:
    """What `update` found and did."""
    if summary.nothing_new:
        line("Nothing new: the store holds all that the catalog has.")
        return
    parts = {"new": summary.new, "late": summary.late, "reprocessed": summary.reprocessed}
    line("Items: " + ", ".join(f"{len(ids)} {word}" for word, ids in parts.items()) + ".")
    for word, ids in parts.items():
        if ids:
            note(f"{word}: {', '.join(ids[:5])}{' …' if len(ids) > 5 else ''}")
    embed_summary(summary.embedding)


def store_report(report: StoreReport) -> None:
    """What is in a store."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # In a pipe or a log nobody scrolls a table: addresses stay whole there.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_PIPES)
    for title, (columns, rows) in report.tables().items():
        table = Table(title=title, title_justify="left")
        for name in columns:
            table.add_column(name, no_wrap=name in ("zone", "date"))
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        console.print(table)


def export_summary(summary: ExportSummary) -> None:
    """What `export` wrote."""
    line(
        f"Wrote {len(summary.files)} files, {summary.n_rows} rows and {summary.n_items} STAC items to {summary.folder}."
    )
    if summary.n_empty:
        note(f"{summary.n_empty} dates hold nothing and were left out.")


def calibration(found: Mapping[str, Any], out: str) -> None:
    """What `calibrate` found."""
    unclaimed = f"no ceiling of r is claimed: {found['why_no_ceiling']}"
    ceiling = unclaimed if found["why_no_ceiling"] else f"ceiling of r {_figure(found['ceiling'])}"
    line(
        f"Calibration: {found['n_pairs']} pairs from {found['n_blocks']} independent blocks of "
        f"{found['block_size_m']:g} m and {found['n_scenes']} scenes{_of_loss(found['loss_kind'])}; {ceiling}."
    )
    if found["n_without_loss"]:
        note(f"{found['n_without_loss']} chips have no loss, as gaps lie in all that a mask hides; they were left out.")
    if not found["quiet_declared"]:
        note("No quiet dates were named, so all dates were used, those of an event among them; see --quiet-dates.")
    worth = (
        f"r {_figure(found['scores'].get('r'))}, partial r beyond texture {_figure(found['partial_r'])}, "
        f"r of change at a place {_figure(found['delta_fidelity'])}"
    )
    if found["fitted"]:
        line(f"Probe: held out by block {worth}. In {out}.")
        if found["n_blocks"] < MIN_INDEPENDENT_BLOCKS:
            note(
                f"It stands on {found['n_blocks']} blocks, fewer than {MIN_INDEPENDENT_BLOCKS}: trust its scores "
                "little."
            )
        return
    line(
        f"No local probe: {found['why']}. The shipped probe serves as cold start: on these pairs {worth}, mean "
        f"difficulty {found['level_ratio']:.2f} of the mean loss."
    )


def _of_loss(kind: str) -> str:
    """Words for a line whose figures come from a loss that is not, or not wholly, that of pretraining."""
    return f", {LOSS_NAMES[kind]}" if kind in ("own-partial", "proxy") else ""


def _figure(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"


def difficulty(ds: Any, out: str) -> None:
    """What `difficulty` wrote."""
    from geoelle.store.zones import zones_of

    zones = list(zones_of(ds).values())
    origin = zones[0].attrs["geoelle:probe_origin"]
    blocks = zones[0].attrs["geoelle:probe"]["n_blocks"]
    start = "cold start: the probe shipped with the encoder" if origin == "shipped" else f"local probe, {blocks} blocks"
    inside, outside = (sum(int((zone["support"].values == s).sum()) for zone in zones) for s in (1, 0))
    n_dates = len({day for zone in zones for day in zone["time"].values})
    share = f"{100 * inside / (inside + outside):.0f} %" if inside + outside else "none"
    line(
        f"Difficulty: {inside + outside} chips on {n_dates} dates, {share} inside the probe's support "
        f"({start}{_of_loss(zones[0].attrs['geoelle:encoder']['loss_kind'])}). In {out}."
    )


def delta(ds: Any, out: str, alerts: str) -> None:
    """What `delta` wrote."""
    from geoelle.store.location import Location
    from geoelle.store.zones import zones_of

    zones = list(zones_of(ds).values())
    days = {day for zone in zones for day in zone["time"].values}
    judged = {
        day for zone in zones
        for day, seen in zip(zone["time"].values, (zone["state"].values > 0).any(axis=(1, 2)), strict=True) if seen
    }  # fmt: skip
    alerting = sum(int(((zone["state"].values >= 2) & (zone["state"].values <= 4)).sum()) for zone in zones)
    kind = zones[0].attrs["geoelle:reference"]["kind"]
    loss = _of_loss(zones[0].attrs["geoelle:encoder"]["loss_kind"])
    line(
        f"Delta: {len(judged)} of {len(days)} dates judged (reference: {kind}{loss}), {alerting} alerts. "
        f"In {out}, {alerts} and {Location.of(alerts).with_suffix('.geojson')}."
    )


def map_summary(drawn: MapSummary) -> None:
    """What is in a map."""
    line(
        f"Map: {drawn.path} ({drawn.bytes / 1e6:.1f} MB): difficulty on {drawn.n_dates} dates, delta on "
        f"{drawn.n_delta_dates}, {drawn.n_alerts_shown} of {drawn.n_alerts} alerts"
        + ("; opens with no network." if drawn.self_contained else "; needs the network to open.")
    )
    for text in drawn.notes:
        note(text)


def run_summary(summary: RunSummary) -> None:
    """What the whole chain did."""
    from dataclasses import asdict

    line(f"Items: {summary.items}.")
    embed_summary(summary.embedding)
    calibration(asdict(summary.calibration), str(summary.folder / "probe"))
    line(f"Alerts: {summary.n_alerts}, in {summary.folder / 'alerts.parquet'} and alerts.geojson.")
    map_summary(summary.map)


def simulated(simulation: Simulation) -> None:
    """What the demo's scenes hold."""
    events = ", ".join(f"a {event.kind} on {event.date}" for event in simulation.events)
    line(f"Everything in this demo is simulated: {len(simulation.dates)} dates with {events}.")


def encoders(cards: Sequence[EncoderCard]) -> None:
    """One line for each encoder."""
    from rich.console import Console
    from rich.table import Table

    from geoelle.encoders.checkpoints import weights_state
    from geoelle.encoders.weights_cache import WEIGHTS

    # In a pipe nothing is cut: what reads it may want every word.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_IN_PIPES)
    wide = console.width >= _WIDE
    table = Table(box=None, padding=(0, 1, 0, 0))
    names = ("encoder", "sensor", "bands", "px", "gsd", "dim", "loss", "values", "licence", "weights")
    for name in names if wide else (name for name in names if name not in _ONLY_WIDE):
        table.add_column(name, no_wrap=True, justify="right" if name in _RIGHT else "left")
    for card in cards:
        sizes, state = sorted(card.chip_sizes_px), weights_state(card.checkpoint)
        chip = "-".join(str(px) for px in dict.fromkeys((sizes[0], sizes[-1])))
        values = f"{card.n_parameters / 1e6:.1f} M" if card.n_parameters else "–"
        weights = state.removeprefix("to download").partition(";")[0].strip() or "–"
        if weights.startswith("not in"):  # with the folder behind it, which the note names
            weights = "missing"
        if card.non_commercial:
            weights += " NC"
        cells = [
            card.name, card.sensor, str(len(card.bands)), chip, f"{card.gsd_m:g} m", str(card.n_features),
            card.loss_kind, values, _short(card.licence), weights,
        ]  # fmt: skip
        if not wide:
            cells = [cell for name, cell in zip(names, cells, strict=True) if name not in _ONLY_WIDE]
        table.add_row(*cells)
    console.print(table)
    note(
        "px: edge of a chip. weights: shipped, here, or the size of what is yet to be downloaded; NC: --accept-license."
    )
    if folder := os.environ.get(WEIGHTS):
        note(f"{WEIGHTS} is {folder}: weights are looked for there and nowhere else.")
    if not wide:
        note(f"A terminal of {_WIDE} columns shows bands, values and licences too.")
    note("Other sensors, pixel sizes and all facts of one: geoelle encoders NAME (or --long for all of them).")


def encoder_cards(cards: Sequence[EncoderCard]) -> None:
    """All that the cards say."""
    from rich.table import Table

    from geoelle.describing import trained_at
    from geoelle.encoders.checkpoints import weights_state

    console, table = _table("encoder", "values", "features", "loss", "licence", "weights")
    for card in cards:
        values = f"{card.n_parameters / 1e6:.1f} M" if card.n_parameters else "–"
        state = weights_state(card.checkpoint)
        table.add_row(card.name, values, str(card.n_features), card.loss_kind, _short(card.licence), state)
    console.print(table)
    for card in cards:
        facts = Table(title=card.name, show_header=False, box=None, title_justify="left", padding=(0, 2, 0, 0))
        for what, said in (
            ("takes", _taken(card)),
            ("loss", card.loss_definition),
            ("trained on", card.training),
            ("trained at", trained_at(card)),
            ("not good for", card.not_good_for),
            ("licence", card.licence),
            ("source", card.source),
            ("fed as", _ways(card)),
            ("unlike its training", " ".join(card.differs) or "nothing known"),
            ("probes", ", ".join(card.shipped_probes) or "none shipped"),
        ):
            facts.add_row(what, said)
        console.print(facts)


def _ways(card: EncoderCard) -> str:
    """Every way to feed the card's encoder, the sensor behind each name."""
    from geoelle.encoders import split_name, variants_of

    return ", ".join(f"{way.name} ({way.sensor})" for way in variants_of(split_name(card.name)[0]))


def _taken(card: EncoderCard) -> str:
    chips = ", ".join(f"{px * card.gsd_m:g} m ({px} px)" for px in card.chip_sizes_px)
    return f"{card.sensor}: {', '.join(card.bands)}; chips of {chips}"


def checkpoints(known: Sequence[Checkpoint]) -> None:
    """The checkpoints, and whether they are here."""
    from geoelle.encoders.checkpoints import checked_by, weights_state

    console, table = _table("checkpoint", "licence", "checked by", "weights")
    for checkpoint in known:
        state = weights_state(checkpoint.name)
        table.add_row(checkpoint.name, _short(checkpoint.licence), checked_by(checkpoint), state)
    console.print(table)


def _table(name: str, *columns: str) -> tuple[Console, Table]:
    """A table whose first column is never cut, and what prints it."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column)
    return Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH), table


def _short(licence: str) -> str:
    """The licence without its remarks."""
    return licence.partition(" (")[0].partition(";")[0]
