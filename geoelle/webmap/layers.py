"""What a map's rasters hold: the dates of each zone with something to show, one scale for all, and their images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import MapError
from geoelle.schema import SUPPORT_OUTSIDE

if TYPE_CHECKING:
    import xarray as xr

    from geoelle.webmap.overlays import Bounds, MercatorWarp
    from geoelle.webmap.page import RasterLayer
    from geoelle.webmap.palettes import ColourScale

# Colours come from the support alone where at least this share of values lies in it.
_MIN_INSIDE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Dated:
    """One variable of one zone's store, sorted by time, with the dates that have anything to show."""

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

    def on(self, date: str) -> int | None:
        """Index of a date; None where it has nothing to show."""
        return self.dates.index(date) if date in self.dates else None


@dataclass(frozen=True, slots=True)
class DatedZones:
    """One variable of all zones."""

    zones: Mapping[str, Dated]

    @property
    def dates(self) -> tuple[str, ...]:
        """Dates on which some zone has anything to show."""
        return tuple(sorted({date for zone in self.zones.values() for date in zone.dates}))

    @property
    def empty(self) -> tuple[str, ...]:
        """Dates on which none has."""
        return tuple(sorted({date for zone in self.zones.values() for date in zone.empty} - set(self.dates)))

    @property
    def any_outside(self) -> bool:
        """Whether the probe extrapolated anywhere."""
        return any(bool(zone.outside.any()) for zone in self.zones.values())

    @property
    def scaled_to_support(self) -> bool:
        """Whether enough lies inside the support to take the colour scale from that alone.

        A hazy date far outside it can be predicted at many times the usual level, and would leave one colour for
        everything else.
        """
        n = sum(int(np.isfinite(zone.values).sum()) for zone in self.zones.values())
        n_outside = sum(int(zone.outside.sum()) for zone in self.zones.values())
        return 0 < n_outside <= (1 - _MIN_INSIDE_SHARE) * n

    def left_out(self, zone: str) -> NDArray[np.bool_]:
        """(date, y, x): values of a zone that the scale does not look at."""
        dated = self.zones[zone]
        return dated.outside if self.scaled_to_support else np.zeros(dated.values.shape, dtype=np.bool_)


def dated_zones(zones: Mapping[str, xr.Dataset], name: str) -> DatedZones:
    """A variable of every zone.

    Raises:
        MapError: If two of a zone's time steps fall on one day.
    """
    return DatedZones({zone: _dated(ds, name) for zone, ds in zones.items()})


def _dated(ds: xr.Dataset, name: str) -> Dated:
    ordered = ds.sortby("time")
    values = np.asarray(ordered[name].values, dtype=np.float32)
    values = np.where(np.isfinite(values), values, np.float32(np.nan))
    dates = [str(t)[:10] for t in ordered["time"].values.astype("datetime64[s]")]
    if len(set(dates)) != len(dates):
        raise MapError(f"Two time steps of {name} fall on one day. Expected one scene per solar day.")
    full = np.isfinite(values).any(axis=(1, 2))
    support = np.asarray(ordered["support"].values)[full] if "support" in ordered else None
    return Dated(
        dates=tuple(d for d, f in zip(dates, full, strict=True) if f),
        values=values[full],
        support=support,
        empty=tuple(d for d, f in zip(dates, full, strict=True) if not f),
    )


@dataclass(frozen=True, slots=True)
class Drawn:
    """Every raster of a map."""

    rasters: list[RasterLayer]
    bounds: Bounds
    """Of all images together."""
    difficulty_scale: ColourScale
    delta_scale: ColourScale | None


def draw_layers(
    zones: Mapping[str, xr.Dataset], levels: DatedZones, changes: DatedZones | None, middle_deg: float
) -> Drawn:
    """The images of all dates and zones, coloured by one scale each for difficulty and delta."""
    from geoelle.webmap.overlays import MercatorWarp, hatched_png
    from geoelle.webmap.palettes import diverging_scale, sequential_scale

    warps = {
        zone: MercatorWarp.covering(
            zones[zone], np.isfinite(dated.values).any(axis=0), stride_m(zones[zone]), middle_deg=middle_deg
        )
        for zone, dated in levels.zones.items()
        if dated.dates
    }
    corners = np.array([warp.bounds for warp in warps.values()])
    (south, west), (north, east) = corners[:, 0].min(axis=0).tolist(), corners[:, 1].max(axis=0).tolist()
    bounds = (south, west), (north, east)
    scale = sequential_scale(np.concatenate([d.values[~levels.left_out(z)] for z, d in levels.zones.items()]))
    layers = _layers("difficulty", levels, warps, scale, lambda warp, dated, i: hatched_png(warp, dated.outside[i]))
    if changes is None or not changes.dates:
        return Drawn(layers, bounds, scale, None)
    centred = diverging_scale(_counted_changes(levels, changes))
    layers += _layers("delta", changes, warps, centred, lambda warp, dated, i: None)
    return Drawn(layers, bounds, scale, centred)


def _layers(
    kind: str, dated_by_zone: DatedZones, warps: Mapping[str, MercatorWarp], scale: ColourScale, hatch: Any
) -> list[RasterLayer]:
    from geoelle.webmap.overlays import coloured_png
    from geoelle.webmap.page import Overlay, RasterLayer

    layers = []
    for date in dated_by_zone.dates:
        overlays = []
        for zone, dated in dated_by_zone.zones.items():
            i = dated.on(date)
            if i is not None and zone in warps:
                warp = warps[zone]
                png = coloured_png(warp, dated.values[i], scale)
                overlays.append(Overlay(png, hatch(warp, dated, i), warp.bounds))
        layers.append(RasterLayer(kind, date, tuple(overlays)))
    return layers


def _counted_changes(levels: DatedZones, changes: DatedZones) -> NDArray[np.float32]:
    """The changes that the scale of delta is taken from."""
    inside, outside = [], []
    for zone, dated in changes.zones.items():
        by_date = dict(zip(levels.zones[zone].dates, levels.left_out(zone), strict=True))
        nowhere = np.zeros(dated.values.shape[1:], dtype=np.bool_)
        for date, values in zip(dated.dates, dated.values, strict=True):
            left_out = by_date.get(date, nowhere)
            inside.append(values[~left_out])
            outside.append(values[left_out])
    counted = np.concatenate(inside)
    # Where every change lies outside, those are what there is to show.
    return counted if np.isfinite(counted).any() else np.concatenate(outside)


def stride_m(ds: xr.Dataset) -> float:
    """Edge of a cell of a store.

    Raises:
        MapError: If the store's grid does not say.
    """
    from geoelle.webmap.legend import mapping

    stride = mapping(ds.attrs, "geoelle:grid").get("stride_m")
    if not isinstance(stride, int | float) or not stride > 0:
        raise MapError(f"The store's grid has stride_m {stride!r}. Expected a positive number of metres.")
    return float(stride)


def middle_of(zones: Mapping[str, xr.Dataset], levels: DatedZones) -> float:
    """Longitude in the middle of the map: 180 where what it shows lies across the antimeridian, else 0."""
    from pyproj import Transformer

    from geoelle.webmap.overlays import crs_of

    lons = []
    for zone, dated in levels.zones.items():
        if dated.dates:
            ds, shown = zones[zone], np.isfinite(dated.values).any(axis=0)
            x = np.asarray(ds["x"].values, float)[shown.any(axis=0)]
            y = np.asarray(ds["y"].values, float)[shown.any(axis=1)]
            half = stride_m(ds) / 2
            corners = np.meshgrid([x.min() - half, x.max() + half], [y.min() - half, y.max() + half])
            lons.append(np.ravel(Transformer.from_crs(crs_of(ds), 4326, always_xy=True).transform(*corners)[0]))
    found = np.concatenate(lons)
    return 180.0 if np.ptp(found) > 180 and np.ptp(found % 360) < np.ptp(found) else 0.0
