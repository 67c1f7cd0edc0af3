"""What to simulate: one frozen record, checked once, from which every pixel follows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, Literal, get_args

from geoelle.errors import ConfigError
from geoelle.sensors import SENTINEL_2_L2A

Layout = Literal["two-zones", "single", "lonlat"]
"""`two-zones`: two granules in adjacent UTM zones; `single`: one UTM granule; `lonlat`: one grid in EPSG:4326."""

EventKind = Literal["burn", "flood", "clearing"]

_DEFAULT_DATES = (
    "2021-06-04", "2021-07-14", "2021-08-23", "2021-10-02",
    "2022-04-20", "2022-06-04", "2022-07-14", "2022-08-23", "2022-10-02",
    "2023-06-04", "2023-07-14", "2023-08-23", "2023-09-12", "2023-10-02",
)  # fmt: skip
"""Three growing seasons. The same days each year, 365 being 73 x 5: so every year is seen from the same orbit."""

_MAX_SIDE_PX = 20_000
_MIN_SIDE_PX = 16


@dataclass(frozen=True, slots=True)
class EventSpec:
    """One event to put into the landscape."""

    kind: EventKind
    date: str | None = None
    """ISO day on which it happens; None: a few days before the second or third look from the end."""
    offset_m: tuple[float, float] | None = None
    """Metres east and north of the centre; None: where the landscape suits it."""
    radius_m: float | None = None
    """Rough radius; None: fitting the kind and the size of the area."""


DEFAULT_EVENTS = (EventSpec("burn"), EventSpec("flood"), EventSpec("clearing"))


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """Everything a simulation depends on. The same config gives the same pixels and the same JSON."""

    seed: int = 4966
    """The default was chosen for its sky: the looks at the events, and enough of those before, are nearly clear."""
    centre_lon: float = 5.9905
    """Degrees. Two granules in two zones need the area to straddle a multiple of 6 degrees."""
    centre_lat: float = 48.4041
    width_px: int = 1244
    """Size of the area of interest; granules reach a little beyond it. With its centre on a corner of the 2 km
    blocks of EPSG:6933, the default holds 8 x 4 whole ones: enough for a probe of its own."""
    height_px: int = 1120
    gsd_m: float = 10.0
    dates: tuple[str, ...] | None = _DEFAULT_DATES
    """ISO days, ascending; None: from `start`, `years` and `cadence_days`."""
    start: str = "2021-04-20"
    years: float = 2.5
    cadence_days: int = 60
    bands: tuple[str, ...] = ("blue", "green", "red", "nir")
    """geoelle band names of Sentinel-2."""
    events: tuple[EventSpec, ...] = DEFAULT_EVENTS
    cloud_share: float | tuple[float, ...] = 0.12
    """Mean share of cloud over all dates, drawn per date; or one share per date."""
    haze_share: float = 0.2
    """Share of dates with cirrus or haze."""
    edge_share: float = 0.2
    """Share of dates on which the swath's edge crosses the area."""
    layout: Layout = "two-zones"
    overlap_m: float = 320.0
    """How far each of the two granules reaches beyond the zone boundary."""
    scl: bool = True
    nodata: int | None = 0
    """Declared nodata; None: outside pixels are 0 and nothing says so."""
    offset_dn: int = 0
    """Added to every digital number, as baseline 04.00 does with 1000; declared as `raster:bands` offset."""
    collection: str = "simulated-s2-l2a"

    @classmethod
    def small(cls, **changes: Any) -> SimulationConfig:
        """A 128 x 96 px, three-date, single-granule, cloudless, eventless config for tests, with `changes`."""
        base = cls(
            width_px=128,
            height_px=96,
            dates=("2022-04-20", "2022-06-04", "2022-07-14"),
            bands=("blue", "green", "red", "nir"),
            events=(),
            cloud_share=0.0,
            haze_share=0.0,
            edge_share=0.0,
            layout="single",
            centre_lon=4.3,
            overlap_m=200.0,
        )
        return replace(base, **changes)

    @property
    def days(self) -> tuple[date, ...]:
        """The dates, whichever way they were given."""
        if self.dates is not None:
            return tuple(date.fromisoformat(text) for text in self.dates)
        first = date.fromisoformat(self.start)
        n_days = round(self.years * 365.25)
        return tuple(first + timedelta(days=k) for k in range(0, n_days, self.cadence_days))

    @property
    def width_m(self) -> float:
        return self.width_px * self.gsd_m

    @property
    def height_m(self) -> float:
        return self.height_px * self.gsd_m


def check_config(config: SimulationConfig) -> None:
    """Refuse what cannot be simulated.

    Raises:
        ConfigError: One sentence that names the field, what it holds and what it may hold.
    """
    for name in ("width_px", "height_px"):
        side = getattr(config, name)
        if not isinstance(side, int) or not _MIN_SIDE_PX <= side <= _MAX_SIDE_PX:
            raise ConfigError(
                f"{name} is {side!r}; give a whole number of pixels from {_MIN_SIDE_PX} to {_MAX_SIDE_PX}."
            )
    if not 1.0 <= config.gsd_m <= 100.0:
        raise ConfigError(f"gsd_m is {config.gsd_m}; give metres from 1 to 100.")
    if not (-180.0 < config.centre_lon < 180.0 and -70.0 <= config.centre_lat <= 70.0):
        raise ConfigError(
            f"The centre is longitude {config.centre_lon}, latitude {config.centre_lat}; "
            "give a longitude within 180 degrees and a latitude within 70 degrees."
        )
    _check_dates(config)
    known = [band.name for band in SENTINEL_2_L2A.bands]
    unknown = [name for name in config.bands if name not in known]
    if not config.bands or unknown or len(set(config.bands)) != len(config.bands):
        raise ConfigError(
            f"bands is {', '.join(config.bands) or 'empty'}; name each of these at most once: {', '.join(known)}."
        )
    if config.layout not in get_args(Layout):
        raise ConfigError(f"layout is {config.layout!r}; choose one of {', '.join(get_args(Layout))}.")
    if config.layout == "two-zones" and not config.overlap_m > 0:
        raise ConfigError(f"overlap_m is {config.overlap_m}; give more than 0 metres.")
    if config.nodata not in (None, 0, 65535):
        raise ConfigError(f"nodata is {config.nodata}; give 0, 65535 or None, so that it is no reflectance.")
    if not 0 <= config.offset_dn <= 2000:
        raise ConfigError(f"offset_dn is {config.offset_dn}; give 0 to 2000.")
    name = config.collection
    if not name or any(not (c.isalnum() or c in "-_") for c in name) or name == "truth":
        raise ConfigError(f"collection is {name!r}; use letters, digits, - and _, and not the name truth.")
    _check_shares(config)
    _check_events(config)


def _check_dates(config: SimulationConfig) -> None:
    try:
        if config.dates is None and config.cadence_days < 1:
            raise ConfigError(f"cadence_days is {config.cadence_days}; give at least 1.")
        days = config.days
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"A date cannot be read ({error}); write dates as YYYY-MM-DD.") from None
    if not days:
        raise ConfigError("There is not a single date; give dates, or start, years and cadence_days.")
    if any(later <= earlier for earlier, later in pairwise(days)):
        raise ConfigError("The dates are not ascending or one occurs twice; sort them and keep one of each.")


def _check_shares(config: SimulationConfig) -> None:
    shares = config.cloud_share if isinstance(config.cloud_share, tuple) else (config.cloud_share,)
    if isinstance(config.cloud_share, tuple) and len(shares) != len(config.days):
        raise ConfigError(f"cloud_share has {len(shares)} entries for {len(config.days)} dates; give one each.")
    for name, value in [("cloud_share", s) for s in shares] + [
        ("haze_share", config.haze_share),
        ("edge_share", config.edge_share),
    ]:
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"{name} is {value}; give a share from 0 to 1.")


def _check_events(config: SimulationConfig) -> None:
    for spec in config.events:
        if spec.kind not in get_args(EventKind):
            raise ConfigError(f"There is no event kind {spec.kind!r}; choose {', '.join(get_args(EventKind))}.")
        if spec.date is not None:
            try:
                day = date.fromisoformat(spec.date)
            except ValueError:
                raise ConfigError(f"The {spec.kind}'s date {spec.date!r} is not YYYY-MM-DD.") from None
            if day > config.days[-1]:
                raise ConfigError(f"The {spec.kind} of {spec.date} is after the last look, {config.days[-1]}.")
        if spec.radius_m is not None and not 2 * config.gsd_m <= spec.radius_m:
            raise ConfigError(f"The {spec.kind}'s radius is {spec.radius_m} m; give at least two pixels.")
        if spec.offset_m is not None and (
            abs(spec.offset_m[0]) > config.width_m / 2 or abs(spec.offset_m[1]) > config.height_m / 2
        ):
            raise ConfigError(f"The {spec.kind} is centred {spec.offset_m} m off the centre: outside the area.")
