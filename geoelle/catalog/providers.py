"""Who serves items, and in what words: STAC APIs by name or address, and the properties that each writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import SplitResult, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from geoelle.errors import ConfigError
from geoelle.sensors import AssetPlace, Sensor, get_sensor, list_sensors

Word = Literal[
    "cloud_percent", "processing_baseline", "relative_orbit", "orbit_state", "platform", "datatake", "mgrs_tile",
    "processed", "offset_applied",
]  # fmt: skip
"""What geoelle asks of an item beyond STAC's core."""

ServerFilter = Literal["query", "filter"]
"""STAC API extensions by which a server filters on properties: `query`, or `filter` with CQL2."""

DEFAULT_PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "cloud_percent": ("eo:cloud_cover", "landsat:cloud_cover_land"),
    "processing_baseline": ("s2:processing_baseline", "sentinel:processing_baseline", "processing:version"),
    "relative_orbit": ("sat:relative_orbit", "landsat:wrs_path"),
    "orbit_state": ("sat:orbit_state",),
    "platform": ("platform",),
    "datatake": ("s2:datatake_id", "s1:datatake_id", "eopf:datatake_id"),
    "mgrs_tile": ("s2:mgrs_tile", "grid:code"),
    "processed": ("s2:generation_time", "processing:datetime", "updated", "created"),
    "offset_applied": ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"),
}
"""Property names tried, in order, where the provider is not known: the union of what providers write."""

_FILE = Path(__file__).with_name("providers.yaml")
_LARGEST_FILE = 100_000
_PORTS = {"http": 80, "https": 443}

_Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class Provider:
    """A STAC API, and how it words what geoelle asks."""

    name: str
    url: str
    """Its landing page, without a slash at the end."""
    collections: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Sensor name -> ids of the collections that carry it here."""
    properties: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """geoelle's word -> property names, tried in order. A word left out is looked up in DEFAULT_PROPERTIES."""
    signing: Literal["planetary-computer"] | None = None
    """How addresses are signed at the moment they are read."""
    fallback: str | None = None
    """Name, address or file of the provider to ask where this one fails."""
    server_filters: tuple[ServerFilter, ...] = ()
    """Filters on properties that the server is known to answer."""
    assets: Mapping[str, Mapping[str, AssetPlace]] = field(default_factory=dict, hash=False)
    """Sensor name -> band -> where it is, for what the sensor's own file does not say."""

    def collections_of(self, sensor: Sensor) -> tuple[str, ...]:
        """Ids of the collections that carry a sensor here; empty where none is known."""
        source = sensor.source(self.name)
        return self.collections.get(sensor.name) or (source.collections if source else ())

    def property_names(self, word: Word) -> tuple[str, ...]:
        """Property names for one of geoelle's words, in the order in which they are tried."""
        return self.properties.get(word, DEFAULT_PROPERTIES[word])

    def place(self, sensor: Sensor, band: str) -> AssetPlace | None:
        """Where a band of a sensor is kept here; None where only the sensor's aliases can tell."""
        return self.places(sensor).get(band)

    def places(self, sensor: Sensor) -> dict[str, AssetPlace]:
        """Where the bands of a sensor are kept here, as far as that is known."""
        source = sensor.source(self.name)
        return {**(dict(source.assets) if source else {}), **self.assets.get(sensor.name, {})}

    def serves(self, address: str) -> bool:
        """Whether an address lies at this provider: scheme, host, port and the start of the path are its own."""
        mine, other = _split(self.url), _split(address)
        if mine is None or other is None or other.username is not None or ".." in other.path.split("/"):
            return False
        path = mine.path.rstrip("/")
        return _origin(mine) == _origin(other) and (other.path == path or other.path.startswith(path + "/"))


def list_providers() -> list[str]:
    """Names of the providers that geoelle knows, sorted."""
    return sorted(_built_in())


def get_provider(address: str | Path) -> Provider | None:
    """The provider of that name, at that address, or that a YAML file defines.

    Args:
        address: `planetary-computer`, an http(s) address, or the path of a `.yaml` file with `name`, `url` and, as
            far as they are known, the other fields of `Provider`.

    Returns:
        None where geoelle does not know who serves the address: then DEFAULT_PROPERTIES and aliases have to do.

    Raises:
        ConfigError: If the file is not there or does not define a provider; names the field.
    """
    text = str(address)
    if text in _built_in():
        return _built_in()[text]
    if _split(text) is not None:
        return next((provider for provider in _built_in().values() if provider.serves(text)), None)
    if text.lower().endswith((".yaml", ".yml")):
        return load_provider(text)
    return None


def load_provider(path: str | Path) -> Provider:
    """The provider that a YAML file defines.

    Raises:
        ConfigError: If the file is not there or does not define a provider; names the field.
    """
    document = _read(Path(path))
    name = document.pop("name", None)
    if not isinstance(name, str) or not name or name in _built_in():
        raise ConfigError(
            f"{path} calls its provider {str(name)[:80]!r}. Give it a name of its own, beside {', '.join(_built_in())}."
        )
    return _define(name, document, str(path))


class _PlaceDefinition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    asset: _Text
    band: int = Field(ge=1, le=1000)


class _Definition(BaseModel):
    """A provider, as its file says it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: _Text
    collections: dict[_Text, tuple[_Text, ...]] = Field(default_factory=dict)
    properties: dict[Word, tuple[_Text, ...]] = Field(default_factory=dict)
    signing: Literal["planetary-computer"] | None = None
    fallback: _Text | None = None
    server_filters: tuple[ServerFilter, ...] = ()
    assets: dict[_Text, dict[_Text, _Text | _PlaceDefinition]] = Field(default_factory=dict)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = _split(url)
        if parts is None or parts.username is not None or parts.query or parts.fragment:
            raise ValueError("give the http(s) address of a STAC API's landing page, without user, query or fragment")
        return url.rstrip("/")


def _define(name: str, document: Any, where: str) -> Provider:
    try:
        definition = _Definition.model_validate(document)
    except (ValidationError, RecursionError) as error:
        said = type(error).__name__
        if isinstance(error, ValidationError):
            faults = error.errors(include_input=False, include_url=False, include_context=False)[:3]
            said = "; ".join(f"{'.'.join(map(str, f['loc'])) or 'as a whole'}: {f['msg']}" for f in faults)
        raise ConfigError(f"{where} does not define provider {name}: {said}.") from None
    places = {
        sensor: {b: AssetPlace(p) if isinstance(p, str) else AssetPlace(p.asset, p.band) for b, p in bands.items()}
        for sensor, bands in definition.assets.items()
    }
    fields = {key: getattr(definition, key) for key in ("url", "properties", "signing", "fallback", "server_filters")}
    return Provider(name=name, collections=definition.collections, assets=places, **fields)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _LARGEST_FILE:
            raise ValueError(f"it has {len(text)} characters")
        document = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"There is no provider file {path}. Give a YAML file, a name or an address.") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is not YAML that defines a provider ({' '.join(str(error).split())}).") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds {type(document).__name__}. Expected keys and values: name, url, properties.")
    return document


@cache
def _built_in() -> dict[str, Provider]:
    found: dict[str, Provider] = {}
    for name, document in _read(_FILE).items():
        sources = {sensor: get_sensor(sensor).source(name) for sensor in list_sensors()}
        collections = {sensor: list(source.collections) for sensor, source in sources.items() if source}
        found[name] = _define(name, {**document, "collections": collections}, _FILE.name)
        missing = set(get_args(Word)) - set(found[name].properties)
        if missing:
            raise ConfigError(f"{_FILE.name} says nothing of {', '.join(sorted(missing))} at {name}.")
    return found


def _split(address: str) -> SplitResult | None:
    """The parts of an http(s) address; None of anything else."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in _PORTS or not parts.hostname or parts.port == 0:
            return None
    except ValueError:
        return None
    return parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    host = (parts.hostname or "").rstrip(".")
    return parts.scheme, host, parts.port or _PORTS[parts.scheme]
