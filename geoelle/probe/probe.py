"""A fitted probe: difficulty from embeddings, with its standard error and support."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from geoelle.errors import ProbeError
from geoelle.probe.meta import ProbeMeta
from geoelle.probe.support import nearest_distance
from geoelle.provenance import digest
from geoelle.records import EncoderCard
from geoelle.schema import SUPPORT_INSIDE, SUPPORT_NO_DATA, SUPPORT_OUTSIDE

_CHUNK_ROWS = 4096
# exp of more than this has no place in float32, with room for the smearing factor and a spread on top.
_MAX_LOG = 80.0
_MAX_ROOT = 1e18
_SCALARS = ("intercept", "alpha", "residual_sd", "distance_threshold")


class ProbeScores(NamedTuple):
    """What `Probe.predict_with_error` gives; each array has the embedding's leading shape."""

    difficulty: NDArray[np.float32]
    """Predicted loss; NaN without an embedding."""
    difficulty_se: NDArray[np.float32]
    """Standard error of a single chip's loss about its difficulty, in units of the loss."""
    support: NDArray[np.uint8]
    """1: no further from the stored training embeddings than the threshold; 0: further; 255: no data."""
    distance_ratio: NDArray[np.float32]
    """Distance to the nearest stored training embedding over the threshold; up to 1 is inside."""


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear map from one encoder's embedding to that encoder's own pretraining loss."""

    weights: NDArray[np.float64]
    """(feature,), in units of the embedding: the scaler is folded in."""
    intercept: float
    centre: NDArray[np.float64]
    """(feature,): mean of the training embeddings."""
    scale: NDArray[np.float64]
    """(feature,): their population standard deviation, 1 for a constant feature."""
    alpha: float
    """Ridge penalty, on standardised features."""
    residual_sd: float
    """Standard deviation of the noise about the probe, from held-out errors, in fitted units."""
    cholesky: NDArray[np.float64]
    """(feature, feature): lower factor L of Z'Z + alpha I, Z the standardised training embeddings."""
    stored: NDArray[np.float32]
    """(stored, feature): training embeddings kept for support, chosen by content hash of their keys."""
    distance_threshold: float
    """Largest standardised distance to the nearest of `stored` that still counts as inside."""
    meta: ProbeMeta

    def __post_init__(self) -> None:
        d = self.n_features
        expected = {
            "weights": (d,),
            "centre": (d,),
            "scale": (d,),
            "cholesky": (d, d),
            "stored": (len(self.stored), d),
        }
        for name, shape in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.size == 0:
                raise _damaged(f"{name} has shape {array.shape}", f"{shape} and not empty")
            if not np.isfinite(array).all():
                raise _damaged(f"{name} holds NaN or infinity", "finite numbers")
        for name in _SCALARS:
            if not np.isfinite(getattr(self, name)):
                raise _damaged(f"{name} is {getattr(self, name)}", "a finite number")
        if not (self.scale > 0).all() or not (self.cholesky.diagonal() > 0).all() or self.meta.n_train < 1:
            raise _damaged("scale, Cholesky factor or n_train is not positive", "positive numbers")
        if min(self.alpha, self.meta.smearing) <= 0 or min(self.residual_sd, self.distance_threshold) < 0:
            raise _damaged("alpha, smearing, residual_sd or distance_threshold is negative", "positive numbers")

    @property
    def n_features(self) -> int:
        """Length of the embeddings it takes."""
        return int(self.weights.size)

    @cached_property
    def _weights32(self) -> NDArray[np.float32]:
        return self.weights.astype(np.float32)

    @cached_property
    def _stored_z(self) -> NDArray[np.float32]:
        return ((self.stored - self.centre) / self.scale).astype(np.float32)

    @cached_property
    def _threshold32(self) -> np.float32:
        # All training embeddings alike gives a threshold of 0; then only a copy of them is inside.
        return np.float32(max(self.distance_threshold, float(np.finfo(np.float32).tiny)))

    def predict(self, embedding: ArrayLike) -> NDArray[np.float32]:
        """Difficulty, at the speed at which memory gives the embeddings.

        A chip's difficulty has the same bits whatever other chips are scored with it.

        Args:
            embedding: Of shape (…, feature), float32 for full speed; NaN or infinity anywhere in a row makes
                it NaN.

        Returns:
            Predicted loss of shape (…); not below 0 where the loss cannot be. Summed in float32.

        Raises:
            ProbeError: If the last axis is not as long as the probe's weights.
        """
        x = self._rows(embedding)
        with np.errstate(invalid="ignore", over="ignore"):  # rows without data, or far outside: NaN below
            # Row by row, not `@`: as fast as memory on one core, with no threads to wait for.
            fitted = np.vecdot(x.reshape(-1, self.n_features), self._weights32)
            fitted += np.float32(self.intercept)
            out = self.to_loss(fitted)
        return out.astype(np.float32, copy=False).reshape(x.shape[:-1])

    def predict_with_error(self, embedding: ArrayLike) -> ProbeScores:
        """Difficulty with its predictive standard error and support.

        With z the standardised embedding and A = Z'Z + alpha I, the error in the units that were fitted is
        s = residual_sd · sqrt(1 + 1/n + zᵀA⁻¹z): Bishop (2006), "Pattern Recognition and Machine Learning",
        equations 3.58 and 3.59 with alpha their ratio of precisions, plus 1/n for the intercept. It says how
        far a single chip's measured loss may lie from its difficulty. A probe fitted to the log of the loss
        gives a log-normal, whose standard deviation is difficulty · sqrt(exp(s²) - 1); one fitted to the root f
        gives the square of a normal, whose variance is 4f²s² + 2s⁴.

        Support is 1 where the standardised embedding lies no further from the nearest stored training
        embedding than the training folds lie from one another (see
        `geoelle.probe.support.distance_threshold`).

        Args:
            embedding: Of shape (…, feature).

        Returns:
            Arrays of shape (…). Rows with NaN or infinity give NaN and support 255.

        Raises:
            ProbeError: If the last axis is not as long as the probe's weights.
        """
        x = self._rows(embedding)
        shape = x.shape[:-1]
        x = x.reshape(-1, self.n_features)
        difficulty = self.predict(x)
        error = np.full(len(x), np.nan, dtype=np.float32)
        ratio = np.full(len(x), np.nan, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            there = np.flatnonzero(np.isfinite(difficulty))
            for start in range(0, there.size, _CHUNK_ROWS):
                rows = there[start : start + _CHUNK_ROWS]
                z = (x[rows].astype(np.float64) - self.centre) / self.scale
                solved = scipy.linalg.solve_triangular(self.cholesky, z.T, lower=True, check_finite=False)
                leverage = np.einsum("ij,ij->j", solved, solved)
                variance = self.residual_sd**2 * (1.0 + 1.0 / self.meta.n_train + leverage)
                error[rows] = self._error_of_loss(difficulty[rows].astype(np.float64), variance)
                distance = nearest_distance(z.astype(np.float32), self._stored_z)
                ratio[rows] = distance / self._threshold32
        support = np.full(len(x), SUPPORT_NO_DATA, dtype=np.uint8)
        support[there] = np.where(ratio[there] <= 1.0, SUPPORT_INSIDE, SUPPORT_OUTSIDE)
        return ProbeScores(
            difficulty.reshape(shape), error.reshape(shape), support.reshape(shape), ratio.reshape(shape)
        )

    def _rows(self, embedding: ArrayLike) -> NDArray[Any]:
        x = np.asarray(embedding)
        if x.ndim == 0 or x.shape[-1] != self.n_features:
            raise ProbeError(
                f"The embedding has shape {x.shape}, but this probe takes {self.n_features} features on the "
                f"last axis; score embeddings of encoder {self.meta.encoder!r}, or calibrate a probe for "
                "these."
            )
        return x

    def to_loss[T: np.floating[Any]](self, fitted: NDArray[T]) -> NDArray[T]:
        """Difficulty from fitted values, which it overwrites: the transform undone, NaN where they are not finite."""
        # First, or the limits below would turn an infinity into a number.
        fitted[~np.isfinite(fitted)] = np.nan
        if self.meta.transform == "log":
            np.minimum(fitted, _MAX_LOG, out=fitted)
            np.exp(fitted, out=fitted)
            fitted *= self.meta.smearing
        elif self.meta.transform == "sqrt":
            np.clip(fitted, 0.0, _MAX_ROOT, out=fitted)
            np.square(fitted, out=fitted)
            fitted += self.meta.smearing
        elif self.meta.nonnegative:
            np.maximum(fitted, 0.0, out=fitted)
        return fitted

    def _error_of_loss(self, difficulty: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
        error = np.sqrt(variance)
        if self.meta.transform == "log":
            error = difficulty * np.sqrt(np.expm1(np.minimum(variance, _MAX_LOG)))
        elif self.meta.transform == "sqrt":
            root2 = np.maximum(difficulty - self.meta.smearing, 0.0)
            error = np.sqrt(4 * root2 * variance + 2 * variance**2)
        return np.minimum(error, np.finfo(np.float32).max)

    def check_fits(
        self,
        card: EncoderCard,
        *,
        chip_size_px: int,
        gsd_m: float | None = None,
        bands: Sequence[str] | None = None,
        weights_sha256: str | None = None,
        pooling: str | None = None,
        layer: int | None = None,
    ) -> None:
        """Refuse embeddings of another encoder, weights file, band set, chip size, pixel size, pooling or layer.

        Args:
            card: Card of the encoder that made the embeddings.
            chip_size_px: Edge of their chips, pixels.
            gsd_m: Edge of their pixels, metres; None takes the card's.
            bands: Bands they were made from, in order; None takes the card's.
            weights_sha256: Of the weights file that made them; None takes the card's.
            pooling: Of their tokens, where it is not the card's choice.
            layer: Whose output they are, where it is not the encoder's own.

        Raises:
            ProbeError: In one sentence, with everything that differs.
        """
        found = {
            "encoder": (card.name, self.meta.encoder),
            "weights sha256": ((weights_sha256 or card.weights_sha256)[:12], self.meta.weights_sha256[:12]),
            "bands": (",".join(card.bands if bands is None else bands), ",".join(self.meta.bands)),
            "chip size in px": (chip_size_px, self.meta.chip_size_px),
            "pixel size in m": (card.gsd_m if gsd_m is None else gsd_m, self.meta.gsd_m),
            "features": (card.n_features, self.n_features),
            "pooling": (pooling or "as the card says", self.meta.pooling or "as the card says"),
            "layer": ("last" if layer is None else layer, "last" if self.meta.layer is None else self.meta.layer),
        }
        wrong = [f"{name} {have} where the probe has {want}" for name, (have, want) in found.items() if have != want]
        if wrong:
            raise ProbeError(
                f"This probe does not fit the embeddings, which have {'; '.join(wrong)}: calibrate a probe "
                "for them, or name one that was fitted for them."
            )

    def to_arrays(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """The probe as named arrays (for safetensors) and a dict of plain JSON types."""
        arrays: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(getattr(self, name))
            for name in ("weights", "centre", "scale", "cholesky", "stored")
        }
        arrays |= {name: np.array([getattr(self, name)], dtype=np.float64) for name in _SCALARS}
        return arrays, self.meta.to_dict()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ProbeError: If an array is missing, unknown, of another shape, not finite or not positive where it
                must be.
        """
        names = {
            "weights": 1,
            "centre": 1,
            "scale": 1,
            "cholesky": 2,
            "stored": 2,
            **dict.fromkeys(_SCALARS, 1),
        }
        if set(arrays) != set(names):
            raise _damaged(f"it has arrays {sorted(arrays)}", str(sorted(names)))
        for name, ndim in names.items():
            if arrays[name].ndim != ndim or arrays[name].dtype.kind != "f":
                raise _damaged(
                    f"{name} is {arrays[name].ndim}-dimensional {arrays[name].dtype}",
                    f"{ndim}-dimensional float",
                )
            if name in _SCALARS and arrays[name].size != 1:
                raise _damaged(f"{name} has {arrays[name].size} values", "one")
        return cls(
            weights=arrays["weights"].astype(np.float64),
            intercept=float(arrays["intercept"][0]),
            centre=arrays["centre"].astype(np.float64),
            scale=arrays["scale"].astype(np.float64),
            alpha=float(arrays["alpha"][0]),
            residual_sd=float(arrays["residual_sd"][0]),
            cholesky=arrays["cholesky"].astype(np.float64),
            stored=arrays["stored"].astype(np.float32),
            distance_threshold=float(arrays["distance_threshold"][0]),
            meta=ProbeMeta.from_dict(meta),
        )

    @cached_property
    def digest(self) -> str:
        """sha256 over every array and the metadata: two probes with the same digest score alike."""
        arrays, meta = self.to_arrays()
        content = {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in arrays.items()}
        return digest({"arrays": content, "meta": meta})


def _damaged(found: str, expected: str) -> ProbeError:
    return ProbeError(f"The probe is damaged: {found}. Expected {expected}. Fit or fetch the probe again.")
