"""Sensors by name: those that come with geoelle, read from their files when first asked for, and the user's."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

from geoelle.errors import SensorError
from geoelle.sensors.specs import Sensor

_FOLDER = Path(__file__).parent
_registered: dict[str, Sensor] = {}
"""Sensors that a user added to this process."""


def list_sensors() -> list[str]:
    """Names of all sensors known, sorted."""
    return sorted({*_built_in(), *_registered})


def get_sensor(name_or_path: str | Path) -> Sensor:
    """The sensor of that name, or the one that a YAML file defines, which is then known by its name too.

    Raises:
        SensorError: If it is unknown (the message names the closest ones), or the file does not define a sensor.
    """
    name = str(name_or_path)
    if isinstance(name_or_path, Path) or name.lower().endswith((".yaml", ".yml")):
        from geoelle.sensors.definition import load_sensor

        return register_sensor(load_sensor(name_or_path))
    if name in _registered:
        return _registered[name]
    if name in _built_in():
        return _load_built_in(name)
    known = list_sensors()
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
    raise SensorError(
        f"There is no sensor {name[:80]!r}. Did you mean {' or '.join(close)}? A sensor of your own is a YAML file."
    )


def register_sensor(sensor: Sensor) -> Sensor:
    """Make a sensor known by its name in this process; again with the same definition does nothing.

    Raises:
        SensorError: If another sensor has this name.
    """
    known = _registered.get(sensor.name) or (_load_built_in(sensor.name) if sensor.name in _built_in() else None)
    if known is None:
        _registered[sensor.name] = sensor
    elif known != sensor:
        raise SensorError(
            f"There is a sensor {sensor.name!r} already, with another definition. Give yours a name of its own."
        )
    return sensor if known is None else known


def sensors_of_collection(collection: str) -> tuple[str, ...]:
    """Names of geoelle's own sensors that a collection id is known to carry."""
    return _by_collection().get(collection, ())


@cache
def _built_in() -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


@cache
def _load_built_in(name: str) -> Sensor:
    from geoelle.sensors.definition import load_sensor

    return load_sensor(_FOLDER / f"{name}.yaml")


@cache
def _by_collection() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in _built_in():
        for collection in _load_built_in(name).collections:
            found[collection] = (*found.get(collection, ()), name)
    return found
