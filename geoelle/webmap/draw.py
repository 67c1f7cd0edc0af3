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
from geoelle.schema import SUPPORT_OUTSIDE, check_alerts, check_delta, check_difficulty
from geoelle.webmap.text import DIMENSIONLESS
from geoelle.webmap.vectors import alert_features, aoi_outline, bounds_of, default_title, n_alerts_by_date

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr

    from geoelle.webmap.overlays import MercatorWarp
    from geoelle.webmap.page import RasterLayer
    from geoelle.webmap.palettes import ColourScale


# Colours come from the support alone where at least this share of values lies in it.
_MIN_INSIDE_SHARE = 0.1


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


@dataclass(frozen=True, slots=True)
class _Dated:
    """One variable of a store, sorted by time, with the dates that have anything to show."""

    dates: tuple[str, ...]
    values: NDArray[np.float32]
    """(date, y, x)."""
    support: NDArray[np.uint8] | None
    empty: tuple[str, ...]
    """Dates without one finite value."""

    @property
    def outside(self) -> NDArray[np.bool_]:
        """(date, y, x): values that the probe extrapolated to."""
        if self.support is None:
            return np.zeros(self.values.shape, dtype=np.bool_)
        return np.asarray((self.support == SUPPORT_OUTSIDE) & np.isfinite(self.values), dtype=np.bool_)

    @property
    def scaled_to_support(self) -> bool:
        """Whether enough lies inside the support to take the colour scale from that alone.

        A hazy date far outside it can be predicted at many times the usual level, and would leave one colour for
        everything else.
        """
        n = int(np.isfinite(self.values).sum())
        n_outside = int(self.outside.sum())
        return 0 < n_outside <= (1 - _MIN_INSIDE_SHARE) * n


def map(
    difficulty: xr.Dataset,
    *,
    delta: xr.Dataset | None = None,
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
        difficulty: What a difficulty store holds.
        delta: What a delta store holds, on the same grid.
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
        MapError: If there is nothing to draw or the parts do not belong together.
    """
    from geoelle.webmap.assets import AssetResolver, default_cache_dir
    from geoelle.webmap.page import PageContent, render_page

    path = Path(out)
    if path.is_dir():
        raise MapError(f"{path} is a folder. Name an HTML file, for example {path / 'map.html'}.")
    if max_alerts < 0:
        raise MapError(f"max_alerts is {max_alerts}. Expected 0 or more.")
    _check(difficulty, delta, alerts)
    levels = _dated(difficulty, "difficulty")
    changes = _dated(delta, "delta") if delta is not None else None
    if not levels.dates:
        raise MapError(
            "There is no finite difficulty on any date, so there is nothing to draw. Check that the embedding jobs "
            "are done and that clouds did not cover every date."
        )
    features = alert_features(alerts, _unit(difficulty), max_alerts)
    _check_alert_dates(features, levels, changes)
    rasters, warp, scales = _rasters(difficulty, levels, changes)
    n_alerts = 0 if alerts is None else len(alerts)
    attrs = _attributes(difficulty)
    area = aoi_outline(attrs)
    name = title or default_title(attrs)
    head, side = _panels(name, difficulty, delta, scales, levels, n_alerts, sum(len(f) for f in features.values()))
    content = PageContent(
        # The heading carries a badge; a browser's tab and bookmark have only this.
        title=f"SIMULATED: {name}" if attrs.get("geoelle:simulated") else name,
        head_html=head,
        side_html=side,
        attribution=str(attrs.get("geoelle:attribution") or "No attribution recorded"),
        rasters=rasters,
        shown=_first_shown(rasters, features),
        image_bounds=warp.bounds,
        view_bounds=bounds_of(area) or warp.bounds,
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


def _check(difficulty: xr.Dataset, delta: xr.Dataset | None, alerts: gpd.GeoDataFrame | None) -> None:
    from geoelle.webmap.overlays import crs_of

    try:
        check_difficulty(difficulty)
        if delta is not None:
            check_delta(delta)
        if alerts is not None:
            check_alerts(alerts)
    except SchemaError as error:
        raise MapError(f"No map can be drawn. {error}") from error
    if delta is None:
        return
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


def _dated(ds: xr.Dataset, name: str) -> _Dated:
    ordered = ds.sortby("time")
    values = np.asarray(ordered[name].values, dtype=np.float32)
    values = np.where(np.isfinite(values), values, np.float32(np.nan))
    dates = [str(t)[:10] for t in ordered["time"].values.astype("datetime64[s]")]
    if len(set(dates)) != len(dates):
        raise MapError(f"Two time steps of {name} fall on one day. Expected one scene per solar day.")
    full = np.isfinite(values).any(axis=(1, 2))
    support = np.asarray(ordered["support"].values)[full] if "support" in ordered else None
    return _Dated(
        dates=tuple(d for d, f in zip(dates, full, strict=True) if f),
        values=values[full],
        support=support,
        empty=tuple(d for d, f in zip(dates, full, strict=True) if not f),
    )


def _attributes(ds: xr.Dataset) -> dict[str, Any]:
    return {str(k): v for k, v in ds.attrs.items()}


def _unit(ds: xr.Dataset) -> str | None:
    unit = ds["difficulty"].attrs.get("units") or ds.attrs.get("geoelle:unit")
    return (DIMENSIONLESS if str(unit) == "1" else str(unit)) if unit else None


def _stride_m(ds: xr.Dataset) -> float:
    from geoelle.webmap.legend import mapping

    stride = mapping(ds.attrs, "geoelle:grid").get("stride_m")
    if not isinstance(stride, int | float) or not stride > 0:
        raise MapError(f"The store's grid has stride_m {stride!r}. Expected a positive number of metres.")
    return float(stride)


def _rasters(
    ds: xr.Dataset, levels: _Dated, changes: _Dated | None
) -> tuple[list[RasterLayer], MercatorWarp, tuple[ColourScale, ColourScale | None]]:
    from geoelle.webmap.overlays import MercatorWarp, coloured_png, hatched_png
    from geoelle.webmap.page import RasterLayer
    from geoelle.webmap.palettes import diverging_scale, sequential_scale

    warp = MercatorWarp.covering(ds, np.isfinite(levels.values).any(axis=0), _stride_m(ds))
    left_out = levels.outside if levels.scaled_to_support else np.zeros(levels.values.shape, dtype=np.bool_)
    scale = sequential_scale(levels.values[~left_out])
    layers = []
    for i, date in enumerate(levels.dates):
        hatch = hatched_png(warp, levels.outside[i])
        layers.append(RasterLayer("difficulty", date, coloured_png(warp, levels.values[i], scale), hatch))
    if changes is None or not changes.dates:
        return layers, warp, (scale, None)
    by_date = dict(zip(levels.dates, left_out, strict=True))
    nowhere = np.zeros(levels.values.shape[1:], dtype=np.bool_)
    counted = ~np.stack([by_date.get(date, nowhere) for date in changes.dates])
    # Where every change lies outside, those are what there is to show.
    counted = counted if np.isfinite(changes.values[counted]).any() else ~counted
    centred = diverging_scale(changes.values[counted])
    layers += [
        RasterLayer("delta", date, coloured_png(warp, values, centred), None)
        for date, values in zip(changes.dates, changes.values, strict=True)
    ]
    return layers, warp, (scale, centred)


def _panels(
    title: str,
    difficulty: xr.Dataset,
    delta: xr.Dataset | None,
    scales: tuple[ColourScale, ColourScale | None],
    levels: _Dated,
    n_alerts: int,
    n_shown: int,
) -> tuple[str, str]:
    from geoelle.webmap.legend import Legend, header_html, mapping, side_html

    attrs = _attributes(difficulty)
    legend = Legend(
        difficulty_scale=scales[0],
        delta_scale=scales[1],
        unit=_unit(difficulty),
        any_outside_support=bool(levels.outside.any()),
        scaled_to_support=levels.scaled_to_support,
        n_alerts=n_alerts,
        n_alerts_shown=n_shown,
        has_aoi=aoi_outline(attrs) is not None,
    )
    head = header_html(
        title,
        simulated=bool(attrs.get("geoelle:simulated")),
        loss_kind=str(mapping(attrs, "geoelle:encoder").get("loss_kind", "own")),
        origin=str(attrs.get("geoelle:probe_origin")),
    )
    return head, side_html(legend, attrs, _attributes(delta) if delta is not None else None)


def _first_shown(rasters: Sequence[RasterLayer], features: Mapping[str, Sequence[Any]]) -> RasterLayer:
    """Difficulty on the day of the first-ranked alert, else on the last day."""
    best = min(((f["id"], date) for date, fs in features.items() for f in fs), default=(0, ""))[1]
    levels = [r for r in rasters if r.kind == "difficulty"]
    return next((r for r in levels if r.date == best), levels[-1])


def _check_alert_dates(features: Mapping[str, Any], levels: _Dated, changes: _Dated | None) -> None:
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
