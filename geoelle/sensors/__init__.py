"""Sensors as data: bands, wavelengths, ground sampling distance, scaling, quality layer."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from geoelle.errors import SensorError


@dataclass(frozen=True, slots=True)
class BandSpec:
    """One band of a sensor."""

    name: str
    """geoelle's name, after the STAC `eo` extension's common names."""
    aliases: tuple[str, ...]
    """Asset keys under which providers offer it, best first."""
    wavelength_um: float
    gsd_m: float


type QualityTests = tuple[tuple[int, int], ...]
"""(mask, value) pairs: a pixel has the meaning if `number & mask == value` for any of them.

A class of a classification is (all bits, class); a flag of a bit field is (its bits, their value when set).
"""

ALL_BITS = 0xFFFF


@dataclass(frozen=True, slots=True)
class QualitySpec:
    """The quality layer of a sensor: a scene classification or a bit field, and what its numbers mean."""

    name: str
    """geoelle's name of the layer: `scl`, `qa_pixel`, `fmask`."""
    aliases: tuple[str, ...]
    """Asset keys under which providers offer it, best first."""
    nodata: int
    """The number that says "no data": where items overlap, it never wins over what another item saw."""
    invalid: QualityTests
    """Pixels that hold no observation."""
    cloud: QualityTests
    """Pixels that see cloud or cirrus instead of the ground."""
    shadow: QualityTests = ()
    """Pixels in the shadow of a cloud."""
    snow: QualityTests = ()
    water: QualityTests = ()


@dataclass(frozen=True, slots=True)
class Sensor:
    """What geoelle has to know about a sensor to read it."""

    name: str
    collections: tuple[str, ...]
    """Collection ids that carry it, at the providers known."""
    units: str
    scale: float
    """Physical = digital number x scale + offset, where an item does not say otherwise."""
    bands: tuple[BandSpec, ...]
    quality: QualitySpec | None
    attribution: str

    def band(self, name: str) -> BandSpec:
        """The band called `name`, by geoelle's name or a provider's key.

        Raises:
            SensorError: If the sensor has no such band.
        """
        for spec in self.bands:
            if name == spec.name or name in spec.aliases:
                return spec
        known = ", ".join(b.name for b in self.bands)
        raise SensorError(f"{self.name} has no band {name!r}. Its bands are {known}.")


def _band(name: str, key: str, wavelength_um: float, gsd_m: float, *more: str) -> BandSpec:
    return BandSpec(name, (key, name, *more), wavelength_um, gsd_m)


def _classes(*classes: int) -> QualityTests:
    return tuple((ALL_BITS, c) for c in classes)


# Central wavelengths of Sentinel-2A: ESA, Sentinel-2 MSI spectral responses, rounded to a nanometre.
SENTINEL_2_L2A = Sensor(
    name="sentinel-2-l2a",
    collections=("sentinel-2-l2a", "sentinel-2-c1-l2a"),
    units="reflectance",
    scale=1e-4,
    bands=(
        _band("coastal", "B01", 0.443, 60),
        _band("blue", "B02", 0.493, 10),
        _band("green", "B03", 0.560, 10),
        _band("red", "B04", 0.665, 10),
        _band("rededge1", "B05", 0.704, 20),
        _band("rededge2", "B06", 0.740, 20),
        _band("rededge3", "B07", 0.783, 20),
        _band("nir", "B08", 0.833, 10),
        _band("nir08", "B8A", 0.865, 20),
        _band("nir09", "B09", 0.945, 60),
        _band("swir16", "B11", 1.614, 20),
        _band("swir22", "B12", 2.202, 20),
    ),
    # Sen2Cor's scene classification: 0 no data, 1 saturated or defective, 3 cloud shadow, 6 water,
    # 8 and 9 cloud of medium and high probability, 10 thin cirrus, 11 snow or ice.
    quality=QualitySpec(
        "scl",
        ("SCL", "scl"),
        nodata=0,
        invalid=_classes(0, 1),
        cloud=_classes(8, 9, 10),
        shadow=_classes(3),
        snow=_classes(11),
        water=_classes(6),
    ),
    attribution="Contains modified Copernicus Sentinel data",
)

SENSORS: dict[str, Sensor] = {SENTINEL_2_L2A.name: SENTINEL_2_L2A}


def get_sensor(name: str) -> Sensor:
    """The sensor called `name`.

    Raises:
        SensorError: If it is unknown; the message names the closest ones.
    """
    try:
        return SENSORS[name]
    except KeyError:
        close = difflib.get_close_matches(name, SENSORS, n=3, cutoff=0.3) or sorted(SENSORS)
        raise SensorError(f"There is no sensor {name!r}. Did you mean {' or '.join(close)}?") from None
