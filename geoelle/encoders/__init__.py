"""Encoders: frozen networks behind one protocol, and the registry that lists them.

Importing this package imports neither torch nor onnxruntime.
"""

from geoelle.encoders.clay import NAME as CLAY
from geoelle.encoders.clay import SENSORS as CLAY_SENSORS
from geoelle.encoders.clay import clay_card
from geoelle.encoders.compact import compact_rgb_card
from geoelle.encoders.inputs import check_batch
from geoelle.encoders.masks import fixed_masks
from geoelle.encoders.protocol import Encoder
from geoelle.encoders.registry import (
    Variant,
    get_card,
    list_encoders,
    load_encoder,
    register,
    split_name,
    unregister,
    variants_of,
)

__all__ = [
    "Encoder",
    "Variant",
    "check_batch",
    "fixed_masks",
    "get_card",
    "list_encoders",
    "load_encoder",
    "register",
    "split_name",
    "unregister",
    "variants_of",
]

register("compact-rgb", card=compact_rgb_card, factory="geoelle.encoders.compact:load_compact_rgb")
register(CLAY, card=clay_card, factory="geoelle.encoders.clay:load_clay", variants=CLAY_SENSORS[1:])
