"""The delta stage: every look against what is normal at its place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
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
from geoelle.store import open_store
from geoelle.store.layout import Variable, extent_of, write_store

METHOD = (
    "difficulty minus the median of the reference looks; z by 1.4826 MAD, moderated towards the 5 x 5 neighbourhood "
    "and the scene; p two-sided among z of the reference looks, pooled over places"
)
P_KIND = "pooled-quiet-looks"


def delta(
    difficulty: str | Path,
    *,
    out: str | Path,
    reference: ReferenceKind = "median",
    window_days: int = 30,
    reference_dates: DateRanges = (),
    exclude_dates: Sequence[date | str] = (),
    dates: DateRanges = (),
    min_looks: int = 4,
    alert_z: float = 3.0,
    alerts: str | Path | None = None,
) -> xr.Dataset:
    """Compare each look with what is normal at its place.

    Args:
        difficulty: Store made by `geoelle.difficulty`.
        out: Folder of the Zarr store to write; left alone if it was made of the same.
        reference: `median` of earlier looks, or `surrounding`: looks before and after, for a study after the fact.
        window_days: `surrounding` leaves out looks up to this many days from the one judged.
        reference_dates: Only looks in these ranges may be references; empty allows all.
        exclude_dates: Looks that are neither references nor judged, for example cloudy or hazy ones.
        dates: Ranges of the looks to judge; empty judges all that have references enough.
        min_looks: Reference looks that a place needs to be judged.
        alert_z: A chip with |z| of at least this is an alert.
        alerts: Where to write the ranked alerts as GeoParquet; GeoJSON goes beside it.

    Returns:
        The store, opened lazily: `delta` in the unit of the loss, `z`, `p`, `state` and `reference_n` over
        (time, y, x); NaN and state 0 where a place was not judged.

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
    ds = open_store(difficulty, "difficulty", load=True)
    target = Path(out)
    options = {
        "kind": reference,
        "window_days": window_days if reference == "surrounding" else None,
        "reference_dates": [[str(a), str(b)] for a, b in reference_dates],
        "excluded_dates": [str(d) for d in exclude_dates],
        "judged_dates": [[str(a), str(b)] for a, b in dates],
        "min_looks": min_looks,
    }
    made_of = digest({"difficulty": ds.attrs["geoelle:made_of"], "options": options, "alert_z": alert_z})
    if not unchanged(target, "delta", made_of):
        data, floors = _judge(ds, options, reference_dates, exclude_dates, dates, alert_z)
        added = {
            "geoelle:reference": options,
            "geoelle:p_floor": floors,
            "geoelle:alert_z": alert_z,
            "geoelle:made_of": made_of,
        }
        _write(target, ds, data, added)
    result = open_store(target, "delta")
    if alerts is not None:
        write_alerts(rank_alerts(result, ds), alerts)
    return result


def _judge(
    ds: xr.Dataset,
    options: dict[str, Any],
    reference_dates: DateRanges,
    exclude_dates: Sequence[date | str],
    dates: DateRanges,
    alert_z: float,
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """The arrays of a delta store, and the smallest p possible on each date."""
    days = ds["time"].values
    allowed = select_days(days, reference_dates, exclude_dates)
    wanted = select_days(days, dates, exclude_dates)
    if not wanted.any():
        raise ConfigError(
            f"None of the {len(days)} looks, {_day(days[0])} to {_day(days[-1])}, is left to judge. "
            "Widen the dates or exclude fewer."
        )
    values: Floats = ds["difficulty"].values.astype(np.float64)
    usable = select_days(days, (), exclude_dates)
    kind, window, min_looks = options["kind"], options["window_days"] or 0, options["min_looks"]
    looks = [reference_looks(days, t, allowed, kind, window) for t in range(len(days))]
    _refuse_short(days, wanted, values, looks, options)
    references: list[Reference] = [reference_from(values, chosen, min_looks) for chosen in looks]
    # Excluded looks are judged by nobody, so they cannot serve as a quiet look's z either.
    z = np.stack([z_score(values[t], references[t]) if usable[t] else np.full(values.shape[1:], np.nan)
                  for t in range(len(days))])  # fmt: skip
    change = np.stack([values[t] - references[t].value for t in range(len(days))])
    floors = {_day(days[t]): 1 / (int(np.isfinite(z[looks[t]]).sum()) + 1) for t in range(len(days))}
    p = np.stack([p_values(z[t], z[looks[t]], references[t].n) for t in range(len(days))])
    judged = np.isfinite(z) & wanted[:, None, None]
    for array in (change, z, p):
        array[~judged] = np.nan
    data: dict[str, NDArray[Any]] = {
        "delta": change.astype(np.float32),
        "z": z.astype(np.float32),
        "p": p.astype(np.float32),
        "state": states(z, alert_z),
        "reference_n": np.stack([r.n for r in references]),
    }
    return data, floors


def _refuse_short(
    days: NDArray[np.datetime64],
    wanted: NDArray[np.bool_],
    values: Floats,
    looks: list[NDArray[np.bool_]],
    options: dict[str, Any],
) -> None:
    there = np.isfinite(values)
    # A reference helps only where the look to be judged saw the ground too.
    most = {
        t: int(np.where(there[t], there[looks[t]].sum(axis=0), 0).max(initial=0))
        for t in np.flatnonzero(wanted).tolist()
    }
    if max(most.values()) >= options["min_looks"]:
        return
    last = max(most, key=lambda t: (most[t], t))
    which = "earlier" if options["kind"] == "median" else "surrounding"
    remedy = (
        "Search further back; for a study after the fact, use --reference surrounding"
        if options["kind"] == "median"
        else "Search a longer span, or leave out a shorter window with --window-days"
    )
    raise HistoryTooShortError(
        f"The history is too short: {_day(days[last])} has {most[last]} {which} clear looks at the best place that "
        f"it sees, and no other date asked for has more. Expected at least {options['min_looks']}. {remedy}."
    )


def _day(day: np.datetime64) -> str:
    return str(np.datetime_as_string(day, "D"))


def _write(target: Path, ds: xr.Dataset, data: dict[str, NDArray[Any]], added: dict[str, Any]) -> None:
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
