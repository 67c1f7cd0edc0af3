"""The encoders that geoelle knows from the start. None of them is opened, and no network library imported, for that."""

from __future__ import annotations

from functools import partial

from geoelle.encoders import clay, dofa, presto, prithvi, satclip, satmae
from geoelle.encoders.compact_cards import register_compact
from geoelle.encoders.registry import register

_PRITHVI = {
    "prithvi-eo-1.0-100m": "load_1_0_100m",
    "prithvi-eo-2.0-300m": "load_2_0_300m",
    "prithvi-eo-2.0-300m-tl": "load_2_0_300m_tl",
    "prithvi-eo-2.0-tiny-tl": "load_2_0_tiny_tl",
}
_SATMAE = {"satmae-vitb": "load_vitb", "satmae-vitl": "load_vitl", "satmae-rgb-vitl": "load_rgb_vitl"}


def register_known() -> None:
    """Add them all to the registry."""
    register_compact()
    register(clay.NAME, card=clay.clay_card, factory="geoelle.encoders.clay:load_clay", variants=clay.SENSORS[1:])
    for name, loader in _PRITHVI.items():
        register(
            name,
            card=partial(prithvi.prithvi_card, name),
            factory=f"geoelle.encoders.prithvi:{loader}",
            variants=prithvi.SENSORS[1:],
        )
    for name, loader in _SATMAE.items():
        register(name, card=partial(satmae.satmae_card, name), factory=f"geoelle.encoders.satmae:{loader}")
    for name, card in dofa.CARDS.items():
        loader = f"load_{name.replace('-', '_')}"
        register(name, card=card, factory=f"geoelle.encoders.dofa:{loader}", variants=tuple(dofa.FEEDS)[1:])
    for name in satclip.NAMES:
        loader = f"load_{name.removeprefix('satclip-').replace('-', '_')}"
        register(
            name,
            card=partial(satclip.satclip_card, name),
            factory=f"geoelle.encoders.satclip:{loader}",
            variants=(satclip.COSINE,) if name.endswith("-l10") else (),
        )
    register(
        "presto", card=presto.presto_card, factory="geoelle.encoders.presto:load_presto", variants=("dynamic-world",)
    )
