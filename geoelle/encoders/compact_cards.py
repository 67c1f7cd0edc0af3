"""Cards of the compact encoder: one set of weights, a card for every set of bands and pixel size that it is fed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from geoelle.encoders.cards import CARD_FILE, parse_card, read_card_file
from geoelle.encoders.registry import Variant, register
from geoelle.errors import EncoderError, WeightsError
from geoelle.records import EncoderCard

WEIGHTS_FOLDER = Path(__file__).parent / "weights" / "compact"

BAND_SETS = {
    "compact-rgb": ("red", "green", "blue"),
    "compact-rgbn": ("red", "green", "blue", "nir"),
    "compact-burn": ("blue", "green", "red", "nir", "swir22"),
    "compact-s2": (
        "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22",
    ),
}  # fmt: skip
"""Bands of the encoders with names of their own; `compact` takes any of the last one's."""

GSDS_M = (10.0, 20.0)
"""Pixel sizes of training."""

INT8 = "int8"
"""What `compact-rgb:int8` asks for: the encoder with weights of 8 bits."""


def compact_card(
    name: str, bands: tuple[str, ...], gsd_m: float = 10.0, *, int8: bool = False, folder: str | Path | None = None
) -> EncoderCard:
    """The card of the compact encoder, fed with some of its bands, read without loading weights or a runtime.

    Args:
        name: Full name that the card bears.
        bands: At least one of those in the card file, each once; the order is that of the pixels.
        gsd_m: Pixel size, metres.
        int8: Whether weights are those of 8 bits.
        folder: Where the card file lies; None is what geoelle ships.

    Raises:
        EncoderError: If bands or pixel size are not among those of training.
        WeightsError: If the card file is missing or damaged.
    """
    content = read_card_file((Path(folder) if folder is not None else WEIGHTS_FOLDER) / CARD_FILE)
    whole = parse_card(content["card"])
    unknown = [band for band in bands if band not in whole.bands]
    if unknown or not bands or len(set(bands)) != len(bands):
        raise EncoderError(
            f"{name} was asked for with the bands {', '.join(bands) or 'none'}. Expected at least one of "
            f"{', '.join(whole.bands)}, each once. Correct the list."
        )
    if gsd_m not in whole.trained_gsd_m:
        sizes = " or ".join(f"{gsd:g}" for gsd in whole.trained_gsd_m)
        raise EncoderError(f"{name} was asked for at {gsd_m:g} m. It takes pixels of {sizes} m. Use one of these.")
    order = [whole.bands.index(band) for band in bands]
    # A probe names its encoder to the letter, so it is listed for the name that it was fitted under.
    fits = not int8 and name == full_name(bands, gsd_m)
    probes = tuple(p for p in whole.shipped_probes if fits and _is_for(p, bands, gsd_m))
    card = replace(
        whole,
        name=name,
        bands=bands,
        wavelength_um=tuple(whole.wavelength_um[i] for i in order),
        mean=tuple(whole.mean[i] for i in order),
        std=tuple(whole.std[i] for i in order),
        gsd_m=gsd_m,
        shipped_probes=probes,
    )
    if not int8:
        return card
    if INT8 not in content:
        raise WeightsError(f"{name} asks for weights of 8 bits, but none lie beside the card. Install geoelle anew.")
    return replace(
        card,
        weights=content[INT8]["weights"],
        weights_sha256=content[INT8]["sha256"],
        differs=("Embeddings come from weights of 8 bits, losses from those of 32 bits.",),
    )


def full_name(bands: tuple[str, ...], gsd_m: float, int8: bool = False) -> str:
    """The shortest name that the registry knows for these bands and this pixel size."""
    base = next((name for name, members in BAND_SETS.items() if members == bands), None)
    what = (INT8 if int8 else "") if base else ",".join(bands)
    return Variant(what, None if gsd_m == GSDS_M[0] else gsd_m).name(base or "compact")


def probe_name(encoder: str, chip_size_px: int, gsd_m: float) -> str:
    """Name of a shipped probe's folder, e.g. `probe-burn-32px-20m` for `compact-burn`."""
    return f"probe-{encoder.removeprefix('compact-')}-{chip_size_px}px-{gsd_m:g}m"


def _is_for(probe: str, bands: tuple[str, ...], gsd_m: float) -> bool:
    names = (name for name, members in BAND_SETS.items() if members == bands)
    starts = tuple(f"probe-{name.removeprefix('compact-')}-" for name in names)
    return bool(starts) and probe.startswith(starts) and probe.endswith(f"px-{gsd_m:g}m")


def split_variant(base: str, variant: Variant) -> tuple[tuple[str, ...], float, bool]:
    """Bands, pixel size and whether 8 bits, of a registered name with a variant.

    Raises:
        EncoderError: If a set of bands with a name of its own is asked for with other bands.
    """
    gsd = 10.0 if variant.gsd_m is None else variant.gsd_m
    if base == "compact":
        bands = tuple(band.strip() for band in variant.what.split(",")) if variant.what else BAND_SETS["compact-s2"]
        return bands, gsd, False
    if variant.what not in ("", INT8):
        raise EncoderError(
            f"There is no {variant.name(base)}: {base} takes {', '.join(BAND_SETS[base])}. "
            f"Use compact:{variant.what} for other bands."
        )
    return BAND_SETS[base], gsd, variant.what == INT8


def register_compact() -> None:
    """Put the compact encoder's names into the registry."""
    for base in ("compact", *BAND_SETS):

        def card(variant: Variant, base: str = base) -> EncoderCard:
            bands, gsd_m, int8 = split_variant(base, variant)
            return compact_card(variant.name(base), bands, gsd_m, int8=int8)

        variants = ("@20m",) if base == "compact" else ("@20m", INT8)
        register(base, card=card, factory=f"geoelle.encoders.compact:load_{base.replace('-', '_')}", variants=variants)
