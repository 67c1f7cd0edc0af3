"""Sensors as data: bands, wavelengths, ground sampling distance, scaling, quality layer, and who offers them how.

One YAML file per sensor lies beside this one. A user's sensor is a file of the same form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geoelle.sensors.registry import get_sensor, list_sensors, register_sensor, sensors_of_collection
from geoelle.sensors.specs import (
    ALL_BITS,
    AssetPlace,
    BandSpec,
    QualitySpec,
    QualityTests,
    Sensor,
    SensorSource,
)

__all__ = (
    "ALL_BITS",
    "SENTINEL_2_L2A",
    "AssetPlace",
    "BandSpec",
    "QualitySpec",
    "QualityTests",
    "Sensor",
    "SensorSource",
    "get_sensor",
    "list_sensors",
    "load_sensor",
    "register_sensor",
    "sensor_definition",
    "sensor_from_definition",
    "sensors_of_collection",
)

SENTINEL_2_L2A: Sensor
"""The one that simulations and the compact encoder are made for; read from its file when first asked for."""


def __getattr__(name: str) -> Any:
    if name == "SENTINEL_2_L2A":
        return get_sensor("sentinel-2-l2a")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_sensor(path: str | Path) -> Sensor:
    """The sensor that a YAML file defines.

    Raises:
        SensorError: If there is no such file, or it does not define a sensor; names the file and the field.
    """
    from geoelle.sensors import definition  # pydantic is not loaded before it is needed

    return definition.load_sensor(path)


def sensor_from_definition(document: Any) -> Sensor:
    """The sensor that plain data defines: the inverse of `sensor_definition`. It is not registered.

    Raises:
        SensorError: If keys or values make no sense; names the field.
    """
    from geoelle.sensors import definition

    return definition.sensor_from_definition(document)


def sensor_definition(sensor: Sensor) -> dict[str, Any]:
    """A sensor as plain data that JSON can hold, for an items file that must carry a user's sensor along."""
    from geoelle.sensors import definition

    return definition.sensor_definition(sensor)
