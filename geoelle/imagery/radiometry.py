"""Digital numbers to physical units: one scaling for a scene, decided per item and never from the date."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import ImageryError
from geoelle.records import ItemRecord


def scaling(items: Sequence[ItemRecord], bands: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and offset of each band, of one scene's items.

    Raises:
        ImageryError: If the items need different ones; names two of them.
    """
    states = {tuple((i.assets[b].scale, i.assets[b].offset) for b in bands): i.id for i in items}
    if len(states) > 1:
        (_, first), (_, second) = list(states.items())[:2]
        raise ImageryError(
            f"Items {first} and {second} of one day scale their numbers differently (offset of baseline 04.00). "
            "Mixed, they would show change where there is none; leave one out with --exclude."
        )
    ((pairs, _),) = states.items()
    array = np.asarray(pairs, dtype=np.float32)
    return array[:, 0], array[:, 1]
