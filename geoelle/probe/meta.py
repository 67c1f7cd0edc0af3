"""What a probe predicts, for which embeddings, and how well: everything about it that is not an array."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from geoelle.errors import ProbeError
from geoelle.provenance import digest
from geoelle.records import EncoderCard, LossKind

Transform = Literal["none", "sqrt", "log"]
"""Whether the probe was fitted to the loss, to its square root or to its logarithm."""

Origin = Literal["local", "shipped"]
"""`local`: fitted on pairs of the run's own area. `shipped`: came with the encoder, the cold start."""

_CHOSEN = ("pooling", "layer")
_UNIT = re.compile(r"Unit: ([^.]+)\.")

FORMAT = 1
"""Raised when a stored probe can no longer be read as before."""


@dataclass(frozen=True, slots=True)
class ProbeMeta:
    """The JSON half of a probe. `fit_probe` fills the part below the line; the caller knows the rest."""

    target: str
    """What is predicted, in one sentence."""
    unit: str
    """Unit of the loss, hence of difficulty."""
    loss_kind: LossKind
    encoder: str
    """Name on the encoder's card."""
    encoder_card_digest: str
    """For the record; a card's wording may change, so it is no ground for refusal."""
    weights_sha256: str
    """Of the encoder's weights file."""
    bands: tuple[str, ...]
    """In the encoder's order."""
    chip_size_px: int
    chip_size_m: float
    gsd_m: float
    mask_ratio: float
    n_masks: int
    """K: masks drawn per chip for the loss."""
    holdout: str
    """Scheme behind the scores, e.g. `block` or `random`."""
    fold_digest: str
    origin: Origin
    trained_on: str
    """Where and when the pairs come from, in a phrase a map can show."""
    # ---- filled by fit_probe
    transform: Transform = "none"
    smearing: float = 1.0
    """Retransformation after Duan (1983), from held-out residuals e: mean of exp(e), which multiplies exp(fitted),
    for a log; mean of e squared, which is added to fitted squared, for a root; 1 and unused without a transform."""
    nonnegative: bool = True
    """Whether the loss cannot be negative, so that difficulty is cut off at 0."""
    n_train: int = 0
    n_blocks: int = 0
    n_scenes: int = 0
    n_folds: int = 0
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Held-out r, r2, rmse, slope, spearman in units of the loss; None where undefined."""
    format: int = FORMAT
    pooling: str | None = None
    """How tokens were pooled where it was not the card's choice."""
    layer: int | None = None
    """Transformer block whose output the embeddings are; None: the encoder's own output."""

    @classmethod
    def for_encoder(
        cls,
        card: EncoderCard,
        *,
        chip_size_px: int,
        gsd_m: float,
        n_masks: int,
        holdout: str,
        fold_digest: str,
        origin: Origin,
        trained_on: str,
        unit: str | None = None,
        pooling: str | None = None,
        layer: int | None = None,
    ) -> Self:
        """What a probe for this encoder's own loss has to say of itself before it is fitted.

        Args:
            card: The encoder's card.
            chip_size_px: Edge of a chip, pixels.
            gsd_m: Edge of a pixel, metres.
            n_masks: Masks drawn per chip.
            holdout: Scheme behind the folds.
            fold_digest: Digest of the folds, of `geoelle.holdout.fold_digest`.
            origin: Whether the pairs are the run's own.
            trained_on: Where and when the pairs come from.
            unit: Unit of the loss; None takes what the card's loss definition names after `Unit:`.
            pooling: Of the embeddings, where it is not the card's choice.
            layer: Of the embeddings, where it is not the encoder's own output.
        """
        return cls(
            target=card.loss_definition,
            unit=_unit_of(card) if unit is None else unit,
            loss_kind=card.loss_kind,
            encoder=card.name,
            encoder_card_digest=digest(card),
            weights_sha256=card.weights_sha256,
            bands=card.bands,
            chip_size_px=chip_size_px,
            chip_size_m=chip_size_px * gsd_m,
            gsd_m=gsd_m,
            mask_ratio=card.mask_ratio,
            n_masks=n_masks,
            holdout=holdout,
            fold_digest=fold_digest,
            origin=origin,
            trained_on=trained_on,
            pooling=pooling,
            layer=layer,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types. Pooling and layer only where they were chosen, so that other probes read as before."""
        said = {**asdict(self), "bands": list(self.bands), "scores": dict(self.scores)}
        return {name: value for name, value in said.items() if name not in _CHOSEN or value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ProbeError: If keys are missing or unknown, or the format is another.
        """
        names = {f.name for f in fields(cls)}
        missing, unknown = sorted(names - set(values) - set(_CHOSEN)), sorted(set(values) - names)
        if values.get("format") != FORMAT or missing or unknown:
            raise ProbeError(
                f"The probe's metadata is of format {values.get('format')!r}, lacks {missing} and has "
                f"unknown {unknown}. Expected format {FORMAT} with every field. Fit the probe again with "
                "this version of geoelle."
            )
        if values["transform"] not in ("none", "sqrt", "log") or values["origin"] not in ("local", "shipped"):
            raise ProbeError(
                f"The probe has transform {values['transform']!r} and origin {values['origin']!r}. "
                "Expected none or log, and local or shipped. Fit the probe again."
            )
        return cls(**{**values, "bands": tuple(values["bands"]), "scores": dict(values["scores"])})


def _unit_of(card: EncoderCard) -> str:
    found = _UNIT.search(card.loss_definition)
    return found[1] if found else "encoder loss"
