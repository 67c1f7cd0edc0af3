"""`map`: from difficulty, delta and alerts to one HTML file on disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import MapError, SchemaError
from geoelle.schema import check_alerts, check_delta, check_difficulty
from geoelle.webmap.text import DIMENSIONLESS, LOSS_KIND_WORDS
from geoelle.webmap.vectors import alert_features, aoi_outline, bounds_of, default_title, n_alerts_by_date

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr

    from geoelle.webmap.layers import DatedZones
    from geoelle.webmap.legend import Legend
    from geoelle.webmap.page import RasterLayer


@dataclass(frozen=True, slots=True)
class MapSummary:
    """What a map has in it."""

    path: Path
    bytes: int
    n_dates: int
    """Dates whose difficulty is drawn."""
    n_delta_dates: int
    n_alerts_shown: int
    n_alerts: int
    self_contained: bool
    """Whether it opens in full with no network."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out, linked or not used."""


type Zones = xr.Dataset | xr.DataTree | Mapping[str, xr.Dataset]
"""A store that was opened: of one zone, or of several."""


def map(
    difficulty: Zones,
    *,
    delta: Zones | None = None,
    alerts: gpd.GeoDataFrame | None = None,
    out: str | os.PathLike[str],
    max_alerts: int = 500,
    cache_dir: str | os.PathLike[str] | None = None,
    allow_npm: bool = True,
    title: str | None = None,
    basemap: str | None = None,
) -> MapSummary:
    """Draw difficulty per date, delta per date and alerts into one HTML file.

    The file opens from disk with no network. It needs Leaflet, which is taken once from the cache folder, from where
    folium points, or through npm; where none of these has it the file links it and the summary's notes say so.
    The same input gives the same bytes. An existing file is replaced only when the new one is complete.

    Args:
        difficulty: What a difficulty store holds; of an area in several zones, as the verb returned it or by zone.
        delta: What a delta store holds, on the same grid and with the same zones.
        alerts: Alerts of that delta, ranked, in EPSG:4326.
        out: The HTML file. Missing folders are made.
        max_alerts: The highest-ranked ones that are drawn.
        cache_dir: Where Leaflet is kept; by default `$GEOELLE_CACHE/assets` or the user's cache folder.
        allow_npm: Whether the npm client may be asked.
        title: By default the AOI's name.
        basemap: A tile set that folium knows, such as `OpenStreetMap`, loaded from the network; by default none.

    Returns:
        What is in the map.

    Raises:
        StoreError: If `out` is a URL: a map is a local file.
        MapError: If there is nothing to draw or the parts do not belong together.
    """
    from geoelle.store.location import Location
    from geoelle.store.zones import zones_of
    from geoelle.webmap.assets import AssetResolver, default_cache_dir
    from geoelle.webmap.layers import dated_zones, draw_layers, middle_of
    from geoelle.webmap.legend import Legend, mapping, merged_attrs
    from geoelle.webmap.page import PageContent, render_page

    path = Location.of(os.fspath(out)).path
    if path.is_dir():
        raise MapError(f"{path} is a folder. Name an HTML file, for example {path / 'map.html'}.")
    if max_alerts < 0:
        raise MapError(f"max_alerts is {max_alerts}. Expected 0 or more.")
    zones, deltas = zones_of(difficulty), None if delta is None else zones_of(delta)
    _check(zones, deltas, alerts)
    levels = dated_zones(zones, "difficulty")
    changes = dated_zones(deltas, "delta") if deltas is not None else None
    if not levels.dates:
        raise MapError(
            "There is no finite difficulty on any date, so there is nothing to draw. Check that the embedding jobs "
            "are done and that clouds did not cover every date."
        )
    middle = middle_of(zones, levels)
    attrs = merged_attrs(zones)
    unit = _unit(next(iter(zones.values())))
    features = alert_features(alerts, unit, max_alerts, middle_deg=middle)
    _check_alert_dates(features, levels, changes)
    drawn = draw_layers(zones, levels, changes, middle)
    n_alerts = 0 if alerts is None else len(alerts)
    area = aoi_outline(attrs, middle)
    name = title or default_title(attrs)
    legend = Legend(
        difficulty_scale=drawn.difficulty_scale,
        delta_scale=drawn.delta_scale,
        unit=unit,
        any_outside_support=levels.any_outside,
        scaled_to_support=levels.scaled_to_support,
        n_alerts=n_alerts,
        n_alerts_shown=sum(len(f) for f in features.values()),
        has_aoi=area is not None,
    )
    head, side = _panels(name, legend, attrs, None if deltas is None else merged_attrs(deltas))
    content = PageContent(
        # The heading carries a badge; a browser's tab and bookmark have only this.
        title=f"SIMULATED: {name}" if attrs.get("geoelle:simulated") else name,
        head_html=head,
        side_html=side,
        attribution=str(attrs.get("geoelle:attribution") or "No attribution recorded"),
        rasters=drawn.rasters,
        shown=_first_shown(drawn.rasters, features),
        view_bounds=bounds_of(area) or drawn.bounds,
        aoi=area,
        alerts=features,
        n_alerts=n_alerts_by_date(alerts),
        basemap=basemap,
    )
    resolver = AssetResolver(Path(cache_dir) if cache_dir is not None else default_cache_dir(), allow_npm)
    page, links = render_page(content, resolver)
    notes = [*links, *resolver.refused]
    if basemap is not None:
        notes.append(f"The basemap {basemap} is loaded from the network when the map is open.")
    for what, dated in (("difficulty", levels), ("delta", changes)):
        if dated is not None and dated.empty:
            notes.append(f"Left out, for want of any {what}: {', '.join(dated.empty)}.")
    kind = str(mapping(attrs, "geoelle:encoder").get("loss_kind", "own"))
    if kind != "own":
        notes.append(f"The loss is {LOSS_KIND_WORDS.get(kind, kind)}.")
    size = _write(path, page)
    return MapSummary(
        path=path,
        bytes=size,
        n_dates=len(levels.dates),
        n_delta_dates=len(changes.dates) if changes is not None else 0,
        n_alerts_shown=sum(len(f) for f in features.values()),
        n_alerts=n_alerts,
        self_contained=not links and basemap is None,
        notes=tuple(notes),
    )


def _check(
    zones: Mapping[str, xr.Dataset], deltas: Mapping[str, xr.Dataset] | None, alerts: gpd.GeoDataFrame | None
) -> None:
    try:
        for ds in zones.values():
            check_difficulty(ds)
        for ds in (deltas or {}).values():
            check_delta(ds)
        if alerts is not None:
            check_alerts(alerts)
    except SchemaError as error:
        raise MapError(f"No map can be drawn. {error}") from error
    if deltas is None:
        return
    if zones.keys() != deltas.keys():
        raise MapError(
            f"Difficulty has the zones {', '.join(zones)}, delta {', '.join(deltas)}. Compute delta from this "
            "difficulty."
        )
    for zone, ds in zones.items():
        _check_same_grid(ds, deltas[zone])


def _check_same_grid(difficulty: xr.Dataset, delta: xr.Dataset) -> None:
    from geoelle.webmap.overlays import crs_of

    for axis in ("y", "x"):
        mine, other = difficulty[axis].values, delta[axis].values
        if mine.shape != other.shape or not np.array_equal(mine, other):
            raise MapError(
                f"Difficulty and delta lie on different grids: coordinate {axis!r} has {mine.size} values from "
                f"{_first(mine)} in one and {other.size} from {_first(other)} in the other. "
                "Compute delta from this difficulty."
            )
    if crs_of(difficulty) != crs_of(delta):
        raise MapError("Difficulty and delta lie in different CRSs. Compute delta from this difficulty.")


def _first(values: NDArray[Any]) -> str:
    return f"{values[0]:g}" if values.size else "nothing"


def _unit(ds: xr.Dataset) -> str | None:
    unit = ds["difficulty"].attrs.get("units") or ds.attrs.get("geoelle:unit")
    return (DIMENSIONLESS if str(unit) == "1" else str(unit)) if unit else None


def _panels(
    title: str, legend: Legend, attrs: Mapping[str, Any], delta_attrs: Mapping[str, Any] | None
) -> tuple[str, str]:
    from geoelle.webmap.legend import header_html, mapping, side_html

    head = header_html(
        title,
        simulated=bool(attrs.get("geoelle:simulated")),
        loss_kind=str(mapping(attrs, "geoelle:encoder").get("loss_kind", "own")),
        origin=str(attrs.get("geoelle:probe_origin")),
    )
    return head, side_html(legend, attrs, delta_attrs)


def _first_shown(rasters: Sequence[RasterLayer], features: Mapping[str, Sequence[Any]]) -> RasterLayer:
    """Difficulty on the day of the first-ranked alert, else on the last day."""
    best = min(((f["id"], date) for date, fs in features.items() for f in fs), default=(0, ""))[1]
    levels = [r for r in rasters if r.kind == "difficulty"]
    return next((r for r in levels if r.date == best), levels[-1])


def _check_alert_dates(features: Mapping[str, Any], levels: DatedZones, changes: DatedZones | None) -> None:
    known = set(levels.dates) | set(changes.dates if changes is not None else ())
    strange = sorted(set(features) - known)
    if strange:
        raise MapError(
            f"Alerts are dated {', '.join(strange)}, where the difficulty has nothing to show. "
            "Give the alerts that were computed from this difficulty."
        )


def _write(path: Path, page: str) -> int:
    """Write beside the target and move over it, so that the old map stays until the new one is whole."""
    data = page.encode("utf-8")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise MapError(f"{path} cannot be written ({error.strerror or error}). Choose another --out.") from error
    return len(data)
