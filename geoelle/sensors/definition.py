"""A sensor as plain data: the YAML file it is written in, checked key by key, and the dictionary a store keeps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from geoelle.errors import SensorError
from geoelle.sensors.specs import ALL_BITS, AssetPlace, BandSpec, QualitySpec, QualityTests, Sensor, SensorSource

SPEED_OF_LIGHT_UM_GHZ = 299_792.458
"""Micrometres times gigahertz: a carrier's wavelength is this over its frequency."""
_LARGEST_FILE = 100_000
_MEANINGS = ("invalid", "cloud", "shadow", "snow", "water")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]
Key = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Bit = Annotated[int, Field(ge=0, le=15)]
Number = Annotated[int, Field(ge=0, le=ALL_BITS)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BandDefinition(_Part):
    """One band."""

    name: Name
    aliases: tuple[Key, ...] = ()
    wavelength_um: float | None = Field(None, gt=0)
    frequency_ghz: float | None = Field(None, gt=0)
    gsd_m: float = Field(gt=0)

    @model_validator(mode="after")
    def _has_one_place_in_the_spectrum(self) -> Self:
        if (self.wavelength_um is None) == (self.frequency_ghz is None):
            raise ValueError(f"give band {self.name} either wavelength_um (optical) or frequency_ghz (radar)")
        return self

    def spec(self) -> BandSpec:
        """The band as the record that flows."""
        wavelength = self.wavelength_um
        if wavelength is None:
            assert self.frequency_ghz is not None  # noqa: S101  for the type checker; the validator says so
            wavelength = SPEED_OF_LIGHT_UM_GHZ / self.frequency_ghz
        return BandSpec(self.name, self.aliases or (self.name,), wavelength, self.gsd_m, self.frequency_ghz)


class BitTests(_Part):
    """What says yes in a bit field: any of these bits, these whole numbers, or these (mask, value) pairs."""

    bits: tuple[Bit, ...] = ()
    values: tuple[Number, ...] = ()
    fields: tuple[tuple[Number, Number], ...] = ()

    def tests(self) -> QualityTests:
        """As (mask, value) pairs."""
        return (*((1 << b, 1 << b) for b in self.bits), *_classes(self.values), *self.fields)


class QualityDefinition(_Part):
    """The quality layer: `classes` (one number, one meaning) or `bits` (one bit, one meaning)."""

    name: Name
    aliases: tuple[Key, ...] = ()
    encoding: Literal["classes", "bits"]
    nodata: Number
    invalid: tuple[Number, ...] | BitTests
    cloud: tuple[Number, ...] | BitTests
    shadow: tuple[Number, ...] | BitTests = ()
    snow: tuple[Number, ...] | BitTests = ()
    water: tuple[Number, ...] | BitTests = ()

    @model_validator(mode="after")
    def _meanings_are_in_its_encoding(self) -> Self:
        for meaning in _MEANINGS:
            tests = getattr(self, meaning)
            if tests and isinstance(tests, BitTests) != (self.encoding == "bits"):
                wanted = "{bits: [...]} or {values: [...]}" if self.encoding == "bits" else "a list of classes"
                raise ValueError(f"{meaning} must be {wanted}, as the encoding is {self.encoding}")
        return self

    def spec(self) -> QualitySpec:
        """The layer as the record that flows."""
        found = {
            meaning: tests.tests() if isinstance(tests, BitTests) else _classes(tests)
            for meaning in _MEANINGS
            for tests in (getattr(self, meaning),)
        }
        return QualitySpec(self.name, self.aliases or (self.name,), self.nodata, **found)


class PlaceDefinition(_Part):
    """A band of an asset that holds several."""

    asset: Key
    band: int = Field(ge=1, le=1000)


class SourceDefinition(_Part):
    """How one provider offers the sensor."""

    collections: tuple[Key, ...] = Field(min_length=1)
    assets: dict[Name, Key | PlaceDefinition] = Field(default_factory=dict)

    def source(self, provider: str) -> SensorSource:
        """As the record that flows."""
        places = tuple(
            (band, AssetPlace(place) if isinstance(place, str) else AssetPlace(place.asset, place.band))
            for band, place in sorted(self.assets.items())
        )
        return SensorSource(provider, self.collections, places)


class SensorDefinition(_Part):
    """A sensor, as its file says it."""

    name: Name
    units: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    offset_rule: Literal["sentinel-2-l2a"] | None = None
    attribution: str = Field(min_length=1, max_length=500)
    collections: tuple[Key, ...] = ()
    bands: tuple[BandDefinition, ...] = Field(min_length=1, max_length=500)
    quality: QualityDefinition | None = None
    providers: dict[Name, SourceDefinition] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_are_clear(self) -> Self:
        if self.scale == 0:
            raise ValueError("scale is 0, which would make every pixel the same")
        layers = (*self.bands, *((self.quality,) if self.quality else ()))
        owner: dict[str, str] = {}
        for layer in layers:
            for name in {layer.name, *layer.aliases}:
                if owner.setdefault(name, layer.name) != layer.name:
                    raise ValueError(f"{name!r} stands for both {owner[name]} and {layer.name}")
        names = [layer.name for layer in layers]
        if len(set(names)) < len(names):
            raise ValueError(f"a band or layer is named twice among {', '.join(names)}")
        for provider, source in self.providers.items():
            unknown = sorted(set(source.assets) - set(names))
            if unknown:
                raise ValueError(f"providers.{provider}.assets names {unknown[0]!r}, which is no band of the sensor")
        return self

    def sensor(self) -> Sensor:
        """As the record that flows."""
        sources = tuple(source.source(name) for name, source in sorted(self.providers.items()))
        collections = dict.fromkeys((*(c for s in sources for c in s.collections), *self.collections))
        return Sensor(
            name=self.name, collections=tuple(collections), units=self.units, scale=self.scale,
            bands=tuple(band.spec() for band in self.bands), quality=self.quality.spec() if self.quality else None,
            attribution=self.attribution, offset=self.offset, nodata=self.nodata, offset_rule=self.offset_rule,
            sources=sources,
        )  # fmt: skip


def load_sensor(path: str | Path) -> Sensor:
    """The sensor that a YAML file defines; `geoelle/sensors/*.yaml` are examples.

    Raises:
        SensorError: If there is no such file, or it does not define a sensor; names the file and the field.
    """
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
        if len(text) > _LARGEST_FILE:
            raise ValueError(f"it has {len(text)} characters")
        document = yaml.safe_load(text)
    except FileNotFoundError:
        raise SensorError(f"There is no sensor file {source}. Give a YAML file, or one of list_sensors().") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise SensorError(f"{source} is not YAML that defines a sensor ({' '.join(str(error).split())}).") from None
    return sensor_from_definition(document, str(source))


def sensor_from_definition(definition: Any, where: str = "The sensor's definition") -> Sensor:
    """The sensor that plain data defines; the inverse of `sensor_definition`.

    Args:
        definition: As in a sensor's YAML file.
        where: What errors call it.

    Raises:
        SensorError: If keys or values make no sense; names the field.
    """
    if not isinstance(definition, dict):
        raise SensorError(f"{where} holds {type(definition).__name__}. Expected keys and values: name, units, bands.")
    try:
        return SensorDefinition.model_validate(definition).sensor()
    except (ValidationError, RecursionError, OverflowError) as error:
        raise SensorError(f"{where} does not define a sensor: {_faults(error)}.") from None


def _faults(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return type(error).__name__
    return "; ".join(
        f"{'.'.join(str(step) for step in fault['loc']) or 'as a whole'}: {fault['msg']}"
        for fault in error.errors(include_input=False, include_url=False, include_context=False)[:3]
    )


def sensor_definition(sensor: Sensor) -> dict[str, Any]:
    """A sensor as plain data that JSON can hold: `sensor_from_definition` gives an equal sensor back."""
    from_sources = {c for source in sensor.sources for c in source.collections}
    return {
        "name": sensor.name, "units": sensor.units, "scale": sensor.scale, "offset": sensor.offset,
        "nodata": sensor.nodata, "offset_rule": sensor.offset_rule, "attribution": sensor.attribution,
        "collections": [c for c in sensor.collections if c not in from_sources],
        "bands": [_band_definition(band) for band in sensor.bands],
        "quality": None if sensor.quality is None else _quality_definition(sensor.quality),
        "providers": {source.provider: _source_definition(source) for source in sensor.sources},
    }  # fmt: skip


def _band_definition(band: BandSpec) -> dict[str, Any]:
    of_light = {"wavelength_um": band.wavelength_um}
    of_radar = {"frequency_ghz": band.frequency_ghz}
    place = of_light if band.frequency_ghz is None else of_radar
    return {"name": band.name, "aliases": list(band.aliases), **place, "gsd_m": band.gsd_m}


def _quality_definition(quality: QualitySpec) -> dict[str, Any]:
    tests: dict[str, QualityTests] = {meaning: getattr(quality, meaning) for meaning in _MEANINGS}
    as_classes = all(mask == ALL_BITS for pairs in tests.values() for mask, _ in pairs)
    return {
        "name": quality.name, "aliases": list(quality.aliases), "nodata": quality.nodata,
        "encoding": "classes" if as_classes else "bits",
        **{m: [v for _, v in pairs] if as_classes else _bit_tests(pairs) for m, pairs in tests.items()},
    }  # fmt: skip


def _bit_tests(pairs: QualityTests) -> dict[str, Any]:
    bits = [mask.bit_length() - 1 for mask, value in pairs if mask == value and mask.bit_count() == 1]
    values = [value for mask, value in pairs if mask == ALL_BITS]
    if BitTests(bits=tuple(bits), values=tuple(values)).tests() == pairs:
        return {"bits": bits, "values": values}
    return {"fields": [list(pair) for pair in pairs]}


def _source_definition(source: SensorSource) -> dict[str, Any]:
    assets = {band: {"asset": place.key, "band": place.band_index} for band, place in source.assets}
    return {"collections": list(source.collections), "assets": assets}


def _classes(numbers: Iterable[int]) -> QualityTests:
    return tuple((ALL_BITS, number) for number in numbers)
