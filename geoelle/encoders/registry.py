"""Which encoders there are. Listing them imports no network library; loading one does.

An encoder's full name is `NAME[:WHAT][@GSDm]`, for example `clay-v1.5`, `clay-v1.5:naip` or `compact-burn@20m`. WHAT is
the sensor or the bands that it is fed, GSD the pixel size that the imagery is read at: one set of weights, several
ways of feeding it, each with a card of its own.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from geoelle.encoders.protocol import Encoder
from geoelle.errors import EncoderError, EncoderInputError, UnknownEncoderError
from geoelle.records import EncoderCard

_NAME = re.compile(r"(?P<name>[^:@]+)(?::(?P<what>[^:@]+))?(?:@(?P<gsd>\d+(?:\.\d+)?)m)?")


@dataclass(frozen=True, slots=True)
class Variant:
    """How an encoder is fed."""

    what: str = ""
    """Sensor or comma-separated bands; empty: the encoder's default."""
    gsd_m: float | None = None
    """Pixel size that the imagery is read at, metres; None: the encoder's default."""

    def name(self, base: str) -> str:
        """The full name of this variant of the encoder `base`."""
        what = f":{self.what}" if self.what else ""
        return f"{base}{what}" + (f"@{self.gsd_m:g}m" if self.gsd_m is not None else "")


type CardOf = Callable[[Variant], EncoderCard]


@dataclass(frozen=True, slots=True)
class _Entry:
    card: CardOf
    factory: str
    variants: tuple[Variant, ...]


_ENTRIES: dict[str, _Entry] = {}


def register(name: str, *, card: CardOf, factory: str, variants: tuple[str, ...] = ()) -> None:
    """Add an encoder.

    Args:
        name: Its name, without `:` and `@`.
        card: Gives the card of a variant, named with the variant's full name, without importing a network library;
            raises `EncoderError` for one that there is not.
        factory: `module:attribute` of what `load_encoder` calls with `variant` and the options given to it.
        variants: What of the variants to list beside the default, e.g. `("naip", "sentinel-1-rtc")` or `("@20m",)`.

    Raises:
        EncoderError: If the name is taken or no name, or `factory` is not of that form.
    """
    if name in _ENTRIES:
        raise EncoderError(f"There is an encoder {name!r} already. Names are expected to be unique. Use another name.")
    if not name or set(name) & set(":@"):
        raise EncoderError(f"{name!r} is no name for an encoder. Expected one without ':' and '@'. Use another name.")
    module, _, attribute = factory.partition(":")
    if not module or not attribute:
        raise EncoderError(f"The factory {factory!r} names no attribute. Expected 'module:attribute'. Add it.")
    suffixes = (text if text.startswith("@") else f":{text}" for text in variants)
    _ENTRIES[name] = _Entry(card, factory, tuple(split_name(f"{name}{suffix}")[1] for suffix in suffixes))


def unregister(name: str) -> None:
    """Take an encoder out again.

    Raises:
        UnknownEncoderError: If there is none of this name.
    """
    _entry(name)
    del _ENTRIES[name]


def split_name(full_name: str) -> tuple[str, Variant]:
    """A full name as the encoder's name and the variant.

    Raises:
        UnknownEncoderError: If it is not of the form NAME[:WHAT][@GSDm].
    """
    match = _NAME.fullmatch(full_name)
    if match is None:
        raise UnknownEncoderError(
            f"{full_name!r} names no encoder. Expected NAME, NAME:SENSOR, NAME:BAND,BAND or one of these with @20m. "
            "See list_encoders()."
        )
    gsd = match["gsd"]
    return match["name"], Variant(match["what"] or "", None if gsd is None else float(gsd))


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        close = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.3) or sorted(_ENTRIES)
        raise UnknownEncoderError(
            f"There is no encoder {name!r}. Expected one from list_encoders(). Did you mean {' or '.join(close)}?"
        )
    return _ENTRIES[name]


def _shortest(entry: _Entry, variant: Variant) -> Variant:
    """The variant, without sensor, bands or pixel size where these are what the encoder takes by default.

    A store and a probe name their encoder to the letter, so that one way of feeding it has one name.
    """

    def meant(feed: Variant) -> EncoderCard:
        # The probes are listed by name, so they are no part of what is compared.
        return replace(entry.card(feed), name="", shipped_probes=())

    wanted, shorter = meant(variant), (Variant(), Variant("", variant.gsd_m), Variant(variant.what))
    for candidate in shorter:
        with contextlib.suppress(EncoderError):
            if meant(candidate) == wanted:
                return candidate
    return variant


def get_card(full_name: str) -> EncoderCard:
    """The card of an encoder, fed as its full name says.

    The card bears the shortest name of that: `compact-rgb` for `compact-rgb@10m`.

    Raises:
        UnknownEncoderError: If there is none of this name; the message names the closest ones.
        EncoderError: If it cannot be fed so; the message names the ways there are.
    """
    name, variant = split_name(full_name)
    entry = _entry(name)
    return entry.card(_shortest(entry, variant))


def list_encoders(sensor: str | None = None) -> list[EncoderCard]:
    """Cards of all encoders, by name, each as it is fed by default; with a sensor, all that it can feed."""
    if sensor is None:
        return [entry.card(Variant()) for _, entry in sorted(_ENTRIES.items())]
    cards = [card for name in sorted(_ENTRIES) for card in variants_of(name)]
    return [card for card in cards if card.sensor == sensor]


def variants_of(name: str) -> list[EncoderCard]:
    """Cards of every listed way to feed the encoder `name`, the default first.

    Raises:
        UnknownEncoderError: If there is no such encoder.
    """
    entry = _entry(split_name(name)[0])
    return [entry.card(variant) for variant in (Variant(), *entry.variants)]


def load_encoder(full_name: str, **options: Any) -> Encoder:
    """Load an encoder.

    Args:
        full_name: One from `list_encoders()`, or a variant of it.
        options: Passed on to the encoder, e.g. `threads=4`; `runtime="torch"` for the compact encoder;
            `weights=PATH` and `accept_license=True` for those with a checkpoint.

    Raises:
        UnknownEncoderError: If there is no such encoder; the message names the closest ones.
        WeightsError: If its weights are missing or damaged.
        EncoderInputError: If the encoder has no such option.
    """
    name, variant = split_name(full_name)
    entry = _entry(name)
    # A variant that there is not is told before a network library is imported.
    return open_by_factory(entry.factory, _shortest(entry, variant).name(name), **options)


def factory_of(full_name: str) -> str:
    """`module:attribute` of what opens an encoder: all that a worker needs, where nobody registered it.

    Raises:
        UnknownEncoderError: If there is no such encoder.
    """
    return _entry(split_name(full_name)[0]).factory


def open_by_factory(factory: str, full_name: str, **options: Any) -> Encoder:
    """Open an encoder with what `factory_of` gave.

    Raises:
        WeightsError: If its weights are missing or damaged.
        EncoderInputError: If the encoder has no such option.
    """
    module, _, attribute = factory.partition(":")
    make = getattr(importlib.import_module(module), attribute)
    try:
        return cast(Encoder, make(variant=split_name(full_name)[1], **options))
    except TypeError as error:
        unknown = [option for option in options if f"unexpected keyword argument {option!r}" in str(error)]
        if not unknown:
            raise
        raise EncoderInputError(f"{full_name} knows no option {unknown[0]!r}. Leave it out.") from None
