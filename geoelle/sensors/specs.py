"""What geoelle has to know about a sensor: frozen records, equal by value, picklable and hashable."""

from __future__ import annotations

from dataclasses import dataclass

from geoelle.errors import SensorError


@dataclass(frozen=True, slots=True)
class BandSpec:
    """One band of a sensor."""

    name: str
    """geoelle's name, after the STAC `eo` extension's common names; of radar, its polarisation."""
    aliases: tuple[str, ...]
    """Asset keys under which providers offer it, best first."""
    wavelength_um: float
    """Centre wavelength, micrometres; of radar, that of the carrier."""
    gsd_m: float
    frequency_ghz: float | None = None
    """Carrier of a radar band; None of an optical one."""


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
class AssetPlace:
    """Where a provider keeps a band: an asset, and the band of its file."""

    key: str
    band_index: int = 1
    """1-based."""


@dataclass(frozen=True, slots=True)
class SensorSource:
    """How one provider offers a sensor."""

    provider: str
    """Name as in `geoelle.catalog.providers`."""
    collections: tuple[str, ...]
    assets: tuple[tuple[str, AssetPlace], ...] = ()
    """(band, where) of the bands whose asset is known; the others are found by their aliases."""

    def place(self, band: str) -> AssetPlace | None:
        """Where the provider keeps a band; None where only its aliases can tell."""
        return dict(self.assets).get(band)


@dataclass(frozen=True, slots=True)
class Sensor:
    """What geoelle has to know about a sensor to read it."""

    name: str
    collections: tuple[str, ...]
    """Collection ids that carry it, at the providers known."""
    units: str
    """Of the pixels once scaled: `reflectance`, `linear` (power) or `dn` (the numbers as they are)."""
    scale: float
    """Physical = digital number x scale + offset, where an item does not say otherwise."""
    bands: tuple[BandSpec, ...]
    quality: QualitySpec | None
    attribution: str
    offset: float = 0.0
    nodata: float | None = None
    """The number that says "no data" in the bands of `collections` (of any, if none is known), where neither item nor
    file says."""
    offset_rule: str | None = None
    """Name of the rule in `geoelle.catalog.scaling` by which an item's offset is decided; None: as declared."""
    sources: tuple[SensorSource, ...] = ()

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

    def source(self, provider: str) -> SensorSource | None:
        """How a provider offers the sensor; None where it is not known to."""
        return next((s for s in self.sources if s.provider == provider), None)
