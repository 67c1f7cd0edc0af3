"""How embeddings are stored: as float32, as float16, or as int8 with one scale per chip. In memory they are float32.

int8 is symmetric per chip: scale = max |feature| / 127, stored number = feature / scale rounded half to even, so what
is read back is off by at most half a scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoelle import schema
from geoelle.errors import ConfigError
from geoelle.store.layout import Variable, read_values

SCALE = schema.EMBEDDING_SCALE
_LEVELS = 127


def stored_variables(n_features: int, dtype: str, inner_chunk: int) -> list[Variable]:
    """The arrays that hold embeddings of one dtype.

    Raises:
        ConfigError: If the dtype is none of `schema.EMBEDDING_DTYPES`.
    """
    if dtype not in schema.EMBEDDING_DTYPES:
        raise ConfigError(
            f"Embeddings cannot be stored as {dtype!r}. Expected one of {', '.join(schema.EMBEDDING_DTYPES)}."
        )
    nan = float("nan")
    attrs: dict[str, Any] = {"long_name": "embedding", "units": "1"}
    if dtype != "int8":
        return [Variable("embedding", dtype, nan, {"feature": n_features}, attrs, inner_chunk, crc32c=True)]
    attrs["comment"] = f"embedding = stored number x {SCALE}"
    scale = {"long_name": "what the stored embedding is multiplied by", "units": "1"}
    return [
        Variable("embedding", "int8", 0, {"feature": n_features}, attrs, inner_chunk, crc32c=True),
        Variable(SCALE, "float32", nan, {}, scale, crc32c=True),
    ]


def encode_embedding(data: Mapping[str, NDArray[Any]], dtype: str) -> dict[str, NDArray[Any]]:
    """A job's data with its `embedding` (y, x, feature) float32, if it has one, as the store keeps it.

    Raises:
        ConfigError: If a feature is too large for float16.
    """
    stored = dict(data)
    if "embedding" not in stored or dtype == "float32":
        return stored
    embedding = np.asarray(stored["embedding"], dtype=np.float32)
    if dtype == "float16":
        largest = float(np.nanmax(np.abs(embedding), initial=0))
        if largest > float(np.finfo(np.float16).max):
            raise ConfigError(
                f"A feature of {largest:g} does not fit float16. Store the embeddings as float32 or int8."
            )
        stored["embedding"] = embedding.astype(np.float16)
        return stored
    stored["embedding"], stored[SCALE] = to_int8(embedding)
    return stored


def to_int8(embedding: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Numbers and scales of embeddings (…, feature); a scale is NaN, and the numbers 0, where any feature is NaN."""
    scale = (np.abs(embedding).max(axis=-1) / np.float32(_LEVELS)).astype(np.float32)
    divisor = np.where(scale > 0, scale, np.float32(1))[..., None]  # NaN > 0 is False
    levels = np.rint(np.where(np.isfinite(scale)[..., None], embedding, 0) / divisor)
    return np.clip(levels, -_LEVELS, _LEVELS).astype(np.int8), scale


def from_int8(numbers: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embeddings (…, feature) from numbers and scales."""
    return numbers.astype(np.float32) * scale[..., None]


def read_embedding(ds: xr.Dataset, time_index: int | None = None) -> NDArray[np.float32]:
    """Embeddings of an open store, whatever they are stored as; NaN where a chip's status is not done.

    Args:
        ds: The embedding store, or a part of it.
        time_index: One date of it; None reads all.

    Returns:
        (y, x, feature) of one date, or with all the dimensions that `ds` has.

    Raises:
        StoreError: If a chunk is damaged.
    """
    part = ds if time_index is None else ds.isel(time=time_index)
    values = read_values(part["embedding"])
    embedding = from_int8(values, read_values(part[SCALE])) if SCALE in part else values.astype(np.float32)
    embedding[read_values(part["status"]) != schema.DONE] = np.nan
    return embedding
