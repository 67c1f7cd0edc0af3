"""Encoders: frozen networks behind one protocol, and the registry that lists them.

Importing this package imports neither torch nor onnxruntime.
"""

from geoelle.encoders.inputs import check_batch
from geoelle.encoders.known import register_known
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
from geoelle.encoders.resampling import Resampling, resample_batch

__all__ = [
    "Encoder",
    "Resampling",
    "Variant",
    "check_batch",
    "fixed_masks",
    "get_card",
    "list_encoders",
    "load_encoder",
    "register",
    "resample_batch",
    "split_name",
    "unregister",
    "variants_of",
]

register_known()
