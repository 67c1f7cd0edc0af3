"""Colours: palettes that colour-blind readers can tell apart, and the scale that maps values to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Viridis: lightness rises all the way, so order survives any colour vision and a grey print.
SEQUENTIAL = (
    "#440154", "#482475", "#414487", "#355f8d", "#2a788e", "#21918c",
    "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725",
)  # fmt: skip
# ColorBrewer's RdBu from its blue end: blue and red stay apart for red-green colour blindness.
DIVERGING = (
    "#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7",
    "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f",
)  # fmt: skip
N_COLOURS = 255
"""Levels of an overlay: index 0 of its palette is left for no data."""

# The colour scale leaves out this share of values at either end, so that one odd chip does not flatten the map.
_TAIL_PERCENT = 2.0


@dataclass(frozen=True, slots=True)
class ColourScale:
    """How values become colours, the same for every date."""

    low: float
    """Value of the first colour; smaller values get it too."""
    high: float
    colours: tuple[str, ...]
    """Evenly spaced from low to high, as #rrggbb."""

    def index(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Palette index per value: 1 to 255, and 0 where it is not finite."""
        finite = np.isfinite(values)
        share = (np.where(finite, values, self.low).astype(np.float64) - self.low) / (self.high - self.low)
        level = 1 + np.rint(np.clip(share, 0.0, 1.0) * (N_COLOURS - 1))
        return np.where(finite, level, 0).astype(np.uint8)

    def rgb(self) -> NDArray[np.uint8]:
        """The palette, of shape (256, 3); row 0 is for no data."""
        stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in self.colours], dtype=np.float64)
        at = np.linspace(0, 1, N_COLOURS)
        nodes = np.linspace(0, 1, len(stops))
        table = np.stack([np.interp(at, nodes, stops[:, channel]) for channel in range(3)], axis=-1)
        return np.concatenate([np.zeros((1, 3)), table]).round().astype(np.uint8)


def sequential_scale(values: NDArray[np.floating]) -> ColourScale:
    """A scale over the middle 96 % of the finite values of all dates together."""
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = np.percentile(finite, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    return ColourScale(*_apart(float(low), float(high)), SEQUENTIAL)


def diverging_scale(values: NDArray[np.floating]) -> ColourScale:
    """A scale centred at zero that reaches the 98th percentile of the values' sizes."""
    finite = np.abs(values[np.isfinite(values)].astype(np.float64))
    reach = float(np.percentile(finite, 100 - _TAIL_PERCENT)) if finite.size else 0.0
    # Where nearly nothing changed the percentile is 0; the largest change still deserves its colour.
    reach = reach or (float(finite.max()) if finite.size else 0.0) or 1.0
    return ColourScale(-reach, reach, DIVERGING)


def _apart(low: float, high: float) -> tuple[float, float]:
    if high > low:
        return low, high
    margin = abs(low) * 0.5 or 0.5  # one single value: put it in the middle
    return low - margin, high + margin
