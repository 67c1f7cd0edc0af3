"""The delta stage: every look against what is normal at its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoelle import schema
from geoelle.change.alerts import check_alerts_place, rank_alerts, write_alerts
from geoelle.change.scoring import (
    Floats,
    Reference,
    ReferenceKind,
    looks_about,
    p_values,
    reference_from,
    reference_looks,
    states,
    z_score,
)
from geoelle.days import DateRanges, select_days
from geoelle.errors import ConfigError, HistoryTooShortError
from geoelle.mapping import unchanged
from geoelle.provenance import digest
from geoelle.store.layout import Variable, extent_of, is_stored, write_store
from geoelle.store.location import Location, StorePath
from geoelle.store.zones import open_area, open_zones, paths_like

METHOD = (
    "difficulty minus the median of the reference looks; z by 1.4826 MAD, moderated towards the 5 x 5 neighbourhood "
    "and the scene; p two-sided among z of the reference looks, pooled over places"
)
P_KIND = "pooled-quiet-looks"


def delta(
    difficulty: StorePath,
    *,
    out: StorePath,
    reference: ReferenceKind = "median",
    window_days: int = 30,
    reference_dates: DateRanges = (),
    exclude_dates: Sequence[date | str] = (),
    dates: DateRanges = (),
    min_looks: int = 4,
    alert_z: float = 3.0,
    alerts: StorePath | None = None,
) -> xr.Dataset | xr.DataTree:
    """Compare each look with what is normal at its place.

    Of an area in several zones each zone is judged by itself; p counts among the quiet looks of all zones, and the
    alerts of all are ranked together.

    Args:
        difficulty: Store made by `geoelle.difficulty`, a path or the URL of an object store.
        out: Folder or URL of the Zarr store to write; left alone if it was made of the same.
        reference: `median` of earlier looks, or `surrounding`: looks before and after, for a study after the fact.
        window_days: `surrounding` leaves out looks up to this many days from the one judged.
        reference_dates: Only looks in these ranges may be references; empty allows all.
        exclude_dates: Looks that are neither references nor judged, for example cloudy or hazy ones.
        dates: Ranges of the looks to judge; empty judges all that have references enough.
        min_looks: Reference looks that a place needs to be judged.
        alert_z: A chip with |z| of at least this is an alert.
        alerts: Path or URL to write the ranked alerts to as GeoParquet; GeoJSON goes beside it.

    Returns:
        The store, opened lazily: `delta` in the unit of the loss, `z`, `p`, `state` and `reference_n` over
        (time, y, x); NaN and state 0 where a place was not judged. Of several zones a DataTree with one child each.

    Raises:
        HistoryTooShortError: If no look asked for has references enough anywhere.
        ConfigError: If no look is left to judge, or an option makes no sense.
        StoreError: If the store cannot be read.
    """
    if reference not in get_args(ReferenceKind):
        raise ConfigError(f"reference is {reference!r}. Expected {' or '.join(get_args(ReferenceKind))}.")
    if min_looks < 2 or not 0 < alert_z < np.inf or window_days < 0:
        raise ConfigError(
            f"min_looks is {min_looks}, alert_z {alert_z}, window_days {window_days}. Expected at least 2, above 0, "
            "and not negative."
        )
    if alerts is not None:
        check_alerts_place(alerts)
    zones = open_zones(difficulty, "difficulty", load=True)
    options = {
        "kind": reference,
        "window_days": window_days if reference == "surrounding" else None,
        "reference_dates": [[str(a), str(b)] for a, b in reference_dates],
        "excluded_dates": [str(d) for d in exclude_dates],
        "judged_dates": [[str(a), str(b)] for a, b in dates],
        "min_looks": min_looks,
    }
    made_of = {zone: _made_of(zone, zones, options, alert_z) for zone in zones}
    there = paths_like(out, "delta", list(zones)) if is_stored(out) else {}
    todo = [zone for zone in zones if zone not in there or not unchanged(there[zone], "delta", made_of[zone])]
    # Judged before anything is made at `out`: there may be too little history.
    judged = _judge(zones, options, reference_dates, exclude_dates, dates, alert_z) if todo else {}
    targets = paths_like(out, "delta", list(zones))
    for zone in todo:
        data, floors = judged[zone]
        added = {
            "geoelle:reference": options,
            "geoelle:p_floor": floors,
            "geoelle:alert_z": alert_z,
            "geoelle:made_of": made_of[zone],
        }
        _write(targets[zone], zones[zone], data, added)
    result = open_area(out, "delta")
    if alerts is not None:
        write_alerts(rank_alerts(result, zones), alerts)
    return result


def _made_of(zone: str, zones: Mapping[str, xr.Dataset], options: dict[str, Any], alert_z: float) -> str:
    """Digest of what a zone's delta comes from; with several, p comes from the looks of them all."""
    made_of = {name: ds.attrs["geoelle:made_of"] for name, ds in zones.items()}
    others = {} if list(zones) == [""] else {"zones": made_of}
    return digest({"difficulty": made_of[zone], "options": options, "alert_z": alert_z, **others})


@dataclass(frozen=True, slots=True)
class _Scored:
    """One zone's looks against their references; arrays begin with time."""

    days: NDArray[Any]
    wanted: NDArray[np.bool_]
    allowed: NDArray[np.bool_]
    references: list[Reference]
    change: Floats
    z: Floats


def _judge(
    zones: Mapping[str, xr.Dataset],
    options: dict[str, Any],
    reference_dates: DateRanges,
    exclude_dates: Sequence[date | str],
    dates: DateRanges,
    alert_z: float,
) -> dict[str, tuple[dict[str, NDArray[Any]], dict[str, float]]]:
    """By zone: the arrays of its delta store, and the smallest p possible on each date."""
    days = np.unique(np.concatenate([ds["time"].values for ds in zones.values()]))
    if not select_days(days, dates, exclude_dates).any():
        raise ConfigError(
            f"None of the {len(days)} looks, {_day(days[0])} to {_day(days[-1])}, is left to judge. "
            "Widen the dates or exclude fewer."
        )
    _refuse_short(zones, options, reference_dates, exclude_dates, dates)
    scored = {zone: _score(ds, options, reference_dates, exclude_dates, dates) for zone, ds in zones.items()}
    return {zone: _with_p(s, list(scored.values()), options, alert_z) for zone, s in scored.items()}


def _score(
    ds: xr.Dataset,
    options: dict[str, Any],
    reference_dates: DateRanges,
    exclude_dates: Sequence[date | str],
    dates: DateRanges,
) -> _Scored:
    days = ds["time"].values
    allowed, usable = select_days(days, reference_dates, exclude_dates), select_days(days, (), exclude_dates)
    values: Floats = ds["difficulty"].values.astype(np.float64)
    kind, window, min_looks = options["kind"], options["window_days"] or 0, options["min_looks"]
    references: list[Reference] = [
        reference_from(values, reference_looks(days, t, allowed, kind, window), min_looks) for t in range(len(days))
    ]
    # Excluded looks are judged by nobody, so they cannot serve as a quiet look's z either.
    z = np.stack([z_score(values[t], references[t]) if usable[t] else np.full(values.shape[1:], np.nan)
                  for t in range(len(days))])  # fmt: skip
    change = np.stack([values[t] - references[t].value for t in range(len(days))])
    return _Scored(days, select_days(days, dates, exclude_dates), allowed, references, change, z)


def _with_p(
    scored: _Scored, zones: Sequence[_Scored], options: dict[str, Any], alert_z: float
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """p among the z of the reference looks of all zones, and what of it all is shown."""
    kind, window = options["kind"], options["window_days"] or 0
    change, z, p, floors = scored.change, scored.z, np.empty_like(scored.z), {}
    for t, day in enumerate(scored.days):
        null = np.concatenate([s.z[looks_about(s.days, day, s.allowed, kind, window)].ravel() for s in zones])
        floors[_day(day)] = 1 / (int(np.isfinite(null).sum()) + 1)
        p[t] = p_values(z[t], null, scored.references[t].n)
    judged = np.isfinite(z) & scored.wanted[:, None, None]
    # The z of looks that were not asked for stay: they are the null of other zones' looks.
    shown = {name: np.where(judged, array, np.nan) for name, array in (("delta", change), ("z", z), ("p", p))}
    data: dict[str, NDArray[Any]] = {
        **{name: array.astype(np.float32) for name, array in shown.items()},
        "state": states(shown["z"], alert_z),
        "reference_n": np.stack([r.n for r in scored.references]),
    }
    return data, floors


def _refuse_short(
    zones: Mapping[str, xr.Dataset],
    options: dict[str, Any],
    reference_dates: DateRanges,
    exclude_dates: Sequence[date | str],
    dates: DateRanges,
) -> None:
    """Refuse a history in which no place of any zone has references enough on any look asked for."""
    most: dict[np.datetime64, int] = {}
    for ds in zones.values():
        days, there = ds["time"].values, np.isfinite(ds["difficulty"].values)
        allowed = select_days(days, reference_dates, exclude_dates)
        for t in np.flatnonzero(select_days(days, dates, exclude_dates)).tolist():
            looks = reference_looks(days, t, allowed, options["kind"], options["window_days"] or 0)
            # A reference helps only where the look to be judged saw the ground too.
            n = int(np.where(there[t], there[looks].sum(axis=0), 0).max(initial=0))
            most[days[t]] = max(n, most.get(days[t], 0))
    if max(most.values()) >= options["min_looks"]:
        return
    last = max(most, key=lambda day: (most[day], day))
    which = "earlier" if options["kind"] == "median" else "surrounding"
    remedy = (
        "Search further back; for a study after the fact, use --reference surrounding"
        if options["kind"] == "median"
        else "Search a longer span, or leave out a shorter window with --window-days"
    )
    raise HistoryTooShortError(
        f"The history is too short: {_day(last)} has {most[last]} {which} clear looks at the best place that "
        f"it sees, and no other date asked for has more. Expected at least {options['min_looks']}. {remedy}."
    )


def _day(day: np.datetime64) -> str:
    return str(np.datetime_as_string(day, "D"))


def _write(target: Location, ds: xr.Dataset, data: dict[str, NDArray[Any]], added: dict[str, Any]) -> None:
    unit = str(ds["difficulty"].attrs.get("units", "encoder loss"))
    nan = float("nan")
    flags = {"flag_values": list(range(len(schema.STATE_NAMES))), "flag_meanings": schema.STATE_MEANINGS}
    variables = [
        Variable("delta", "float32", nan, {}, {"long_name": "difficulty minus reference", "units": unit}),
        Variable("z", "float32", nan, {}, {"long_name": "delta over its usual spread", "units": "1"}),
        Variable("p", "float32", nan, {}, {"long_name": "share of quiet looks as unusual", "units": "1"}),
        Variable("state", "uint8", schema.NO_LOOK, {}, {"long_name": "state of the alert", **flags}),
        Variable("reference_n", "uint16", 0, {}, {"long_name": "looks behind the reference", "units": "1"}),
    ]
    attrs = {
        **{name: value for name, value in ds.attrs.items() if str(name).startswith("geoelle:")},
        "geoelle:kind": "delta",
        "geoelle:p_kind": P_KIND,
        "geoelle:method": METHOD,
        **added,
    }
    days = list(ds["time"].values)
    per_date = ({name: array[t] for name, array in data.items()} for t in range(len(days)))
    write_store(target, extent_of(ds.attrs), days, variables, per_date, attrs)
