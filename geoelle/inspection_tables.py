"""A store's report as plain text in columns, for whoever shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from geoelle.schema import STATE_NAMES, STATUS_MEANINGS

if TYPE_CHECKING:
    from geoelle.inspecting import DateReport, StoreReport, ZoneReport

type Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]
"""Names of the columns, and the rows."""

_LONGEST = 200
_ORDER = (*STATUS_MEANINGS.split(), "inside", "outside", "no_data", *STATE_NAMES)
"""Of the columns; each kind of store has its own of these."""


def report_tables(report: StoreReport) -> dict[str, Table]:
    """Tables by title: the store, its zones, its dates, and what failed, is damaged or cannot be read, if anything."""
    tables: dict[str, Table] = {
        "Store": (("what", "value"), _store_rows(report)),
        "Zones": (("zone", "chips (y, x)", "chip, stride", "dates", "files", "size"), _zone_rows(report)),
        "Dates": _dates(report),
    }
    if report.failures:
        rows = [(failure.job, failure.error, failure.run) for failure in report.failures]
        n_failed = report.last_run.get("n_failed")
        if isinstance(n_failed, int) and n_failed > len(rows):
            rows.append((f"and {n_failed - len(rows):,} more", "not in the log, which keeps the first", rows[0][2]))
        tables["Failed jobs"] = (("job", "why", "tried last"), rows)
    damaged = [(z.zone, c.array, c.file, c.error) for z in report.zones for c in z.damaged or ()]
    if damaged:
        tables["Damaged chunks"] = (("zone", "array", "file", "what is wrong"), damaged)
    trouble = [(zone.zone, text) for zone in report.zones for text in zone.trouble]
    if trouble:
        tables["Cannot be read"] = (("zone", "what is wrong"), trouble)
    return tables


def human_bytes(n: float) -> str:
    """A size in B, kB, MB, GB or TB (powers of 1,000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:,.0f} {unit}" if unit == "B" else f"{n:,.1f} {unit}"
        n /= 1000
    return f"{n:,.1f} TB"


def _store_rows(report: StoreReport) -> list[tuple[str, ...]]:
    encoder = report.encoder
    rows: list[tuple[str, ...]] = [("store", report.store), ("kind", report.kind)]
    if encoder:
        size = f"{encoder.get('n_features', '?')} features, chips of {encoder.get('chip_size_px', '?')} px"
        rows.append(("encoder", f"{encoder.get('name', '?')} ({size})"))
        read = [f"{name} {encoder[name]}" for name in ("pooling", "layer") if name in encoder]
        rows += [("read by", ", ".join(read))] if read else []
        rows.append(("loss", _short(f"{encoder.get('loss_kind', '?')}: {encoder.get('loss_definition', '?')}")))
    if report.dtype:
        rows.append(("stored as", report.dtype))
    rows.append(("chips with a value", f"{report.n_chips:,}"))
    rows.append(("size", human_bytes(report.n_bytes)))
    if report.n_chips:
        rows.append(("bytes per chip", f"{report.bytes_per_chip:,.0f}"))
    if report.kind == "embeddings":
        rows.append(("jobs", ", ".join(f"{n:,} {name}" for name, n in report.jobs.items())))
        rows.append(("runs", f"{report.runs}, the last at {report.last_run.get('time', 'an unknown time')}"))
    rows.append(("software", ", ".join(f"{k} {v}" for k, v in sorted(report.software.items())) or "not recorded"))
    if report.masks:
        rows.append(("clouds masked by", ", ".join(f"{by} ({n:,} dates)" for by, n in report.masks.items())))
    rows += [(name.removeprefix("geoelle:"), _short(value)) for name, value in report.provenance.items()]
    return rows


def _zone_rows(report: StoreReport) -> list[tuple[str, ...]]:
    return [
        (
            _zone_name(zone),
            f"{zone.shape[0]:,} × {zone.shape[1]:,}",
            f"{zone.grid.get('chip_size_m', '?')} m, {zone.grid.get('stride_m', '?')} m",
            f"{len(zone.dates):,}",
            f"{zone.n_files:,}",
            human_bytes(zone.n_bytes),
        )
        for zone in report.zones
    ]


def _dates(report: StoreReport) -> Table:
    """One row a date: its chips by what became of them, in columns that some date has, and its jobs."""
    dates = [(zone, date) for zone in report.zones for date in zone.dates]
    states = sorted({name for _, date in dates for name in date.chips}, key=_place)
    with_jobs = report.kind == "embeddings"
    columns = ("zone", "date", "items", *(s.replace("_", " ") for s in states), *(["jobs"] if with_jobs else []))
    rows = [
        (
            _zone_name(zone),
            date.date,
            f"{len(date.items):,}",
            *(f"{date.chips.get(state, 0):,}" for state in states),
            *([_jobs(date)] if with_jobs else []),
        )
        for zone, date in dates
    ]
    return columns, rows


def _place(state: str) -> tuple[int, str]:
    """Where a state's column stands; numbers that mean nothing, as a damaged store may hold, come last."""
    return (_ORDER.index(state) if state in _ORDER else len(_ORDER)), state


def _jobs(date: DateReport) -> str:
    said = [f"{date.jobs_done:,} done"]
    said += [f"{date.jobs_failed:,} failed"] if date.jobs_failed else []
    said += [f"{date.jobs_missing:,} missing"] if date.jobs_missing else []
    return ", ".join(said)


def _zone_name(zone: ZoneReport) -> str:
    return str(zone.zone or zone.grid.get("epsg", "?"))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
