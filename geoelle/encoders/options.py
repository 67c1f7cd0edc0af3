"""How an encoder is opened and read, beyond its name: what travels with every job to its worker."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

_OPENING = ("weights", "accept_license", "device", "precision")
_READING = ("pooling", "layer")


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """Choices of a user. All but where the weights lie decide the bytes of an embedding."""

    weights: str | None = None
    """File or folder of the checkpoint; None: where geoelle keeps it, downloaded on first use."""
    accept_license: bool = False
    """Whether the user accepts a non-commercial licence."""
    device: str = "auto"
    """`auto` is the GPU where a worker has one, else its CPU."""
    precision: str = "float32"
    """Of the products: `float32`, `bf16` or `fp16`."""
    pooling: str | None = None
    """One of the card's `poolings`; None: the card's choice."""
    layer: int | None = None
    """Transformer block whose output is taken; None: the encoder's own output."""
    factory: str = ""
    """What opens the encoder, found by the coordinator: a worker need not know of a user's registration."""

    def opening(self) -> dict[str, Any]:
        """What `load_encoder` has to be told: what differs from the default, as not every encoder knows all of it."""
        return self._changed(_OPENING)

    def reading(self) -> dict[str, Any]:
        """What `Encoder.embed` has to be told, likewise."""
        return self._changed(_READING)

    def _changed(self, names: tuple[str, ...]) -> dict[str, Any]:
        default = {f.name: f.default for f in fields(self)}
        return {name: value for name in names if (value := getattr(self, name)) != default[name]}


DEFAULT_OPTIONS = EncoderOptions()
