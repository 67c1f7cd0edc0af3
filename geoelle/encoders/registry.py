"""Which encoders there are. Listing them imports no network library; loading one does."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from geoelle.encoders.protocol import Encoder
from geoelle.errors import EncoderError, UnknownEncoderError
from geoelle.records import EncoderCard


@dataclass(frozen=True, slots=True)
class _Entry:
    card: Callable[[], EncoderCard]
    factory: str


_ENTRIES: dict[str, _Entry] = {}


def register(name: str, *, card: Callable[[], EncoderCard], factory: str) -> None:
    """Add an encoder.

    Args:
        name: Its name; that of its card.
        card: Gives its card without importing a network library.
        factory: `module:attribute` of what `load_encoder` calls with the options given to it.

    Raises:
        EncoderError: If the name is taken, or `factory` is not of that form.
    """
    if name in _ENTRIES:
        raise EncoderError(f"There is an encoder {name!r} already. Names are expected to be unique. Use another name.")
    module, _, attribute = factory.partition(":")
    if not module or not attribute:
        raise EncoderError(f"The factory {factory!r} names no attribute. Expected 'module:attribute'. Add it.")
    _ENTRIES[name] = _Entry(card, factory)


def unregister(name: str) -> None:
    """Take an encoder out again.

    Raises:
        UnknownEncoderError: If there is none of this name.
    """
    _entry(name)
    del _ENTRIES[name]


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.3) or sorted(_ENTRIES)
        raise UnknownEncoderError(
            f"There is no encoder {name!r}. Expected one from list_encoders(). Did you mean {' or '.join(close)}?"
        )
    return _ENTRIES[name]


def get_card(name: str) -> EncoderCard:
    """The card of the encoder called `name`.

    Raises:
        UnknownEncoderError: If there is none; the message names the closest ones.
    """
    return _entry(name).card()


def list_encoders(sensor: str | None = None) -> list[EncoderCard]:
    """Cards of all encoders, by name; only those for `sensor` where one is given."""
    cards = [_ENTRIES[name].card() for name in sorted(_ENTRIES)]
    return [card for card in cards if sensor is None or card.sensor == sensor]


def load_encoder(name: str, **options: Any) -> Encoder:
    """Load an encoder.

    Args:
        name: One from `list_encoders()`.
        options: Passed on to the encoder, e.g. `threads=4` or `runtime="torch"` for `compact-rgb`.

    Raises:
        UnknownEncoderError: If there is no such encoder; the message names the closest ones.
        WeightsError: If its weights are missing or damaged.
    """
    module, _, attribute = _entry(name).factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    return cast(Encoder, factory(**options))
