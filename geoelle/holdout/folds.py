"""Folds drawn from content, and the dead zone between what is trained on and what is held out.

Which fold a block or a chip belongs to follows from its name, not from a random generator or the order of
rows.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoelle.errors import GridError, ProbeError, TooFewBlocksError
from geoelle.holdout.blocks import check_lonlat, suggest_block_size
from geoelle.provenance import digest

# IUGG mean radius. Buffers are kilometres: the ellipsoid's 0.3 % does not matter to them.
_EARTH_RADIUS_M = 6_371_008.8


def _fold_by_name(names: list[str], n_folds: int, salt: str) -> dict[str, int]:
    """A fold for each distinct name: by hash, then as few moves as give every fold half of its fair share.

    A fold by hash alone never changes when other names come or go, but leaves folds empty where names are
    few.
    """
    hashes = {name: hashlib.sha256(f"{salt}\x1f{name}".encode()).digest() for name in names}
    fold_of = {name: int.from_bytes(h[:8], "little") % n_folds for name, h in hashes.items()}
    members: dict[int, list[str]] = defaultdict(list)
    for name in sorted(hashes, key=hashes.__getitem__):
        members[fold_of[name]].append(name)
    least = max(1, len(hashes) // (2 * n_folds))
    for poor in range(n_folds):
        while len(members[poor]) < least:
            rich = max(range(n_folds), key=lambda f: (len(members[f]), -f))
            moved = members[rich].pop()
            members[poor].append(moved)
            fold_of[moved] = poor
    return fold_of


def _check_n_folds(n_folds: int) -> None:
    if n_folds < 2:
        raise ProbeError(f"Found {n_folds} folds asked for. Expected at least 2; 5 is usual.")


def folds_from_blocks(
    blocks: ArrayLike, n_folds: int, *, lonlat: ArrayLike | None = None, salt: str = ""
) -> NDArray[np.int64]:
    """A fold for each chip, whole blocks together.

    Blocks fall into folds by the hash of their name; where that leaves a fold with less than half of its fair
    share of blocks, as few blocks as needed are moved there. So chips of new blocks leave the others' folds
    as they were, unless such a move is called for; order and number of chips in a block do not matter.

    Args:
        blocks: Block of each chip, shape (n,): keys of `block_keys` or ids.
        n_folds: Folds to make.
        lonlat: Chip centres of shape (n, 2); lets the error name a block size that would do.
        salt: Another salt is another draw.

    Returns:
        Folds of shape (n,), from 0 to n_folds - 1, each at least once.

    Raises:
        TooFewBlocksError: If there are fewer blocks than folds.
        ProbeError: If fewer than two folds are asked for.
        GridError: If `lonlat` is not on Earth.
    """
    _check_n_folds(n_folds)
    names, inverse = np.unique(np.asarray(blocks), return_inverse=True)
    if names.size < n_folds:
        remedy = "Use smaller blocks, a larger area or fewer folds"
        if lonlat is not None:
            size = suggest_block_size(lonlat, n_folds)
            remedy = (
                f"Blocks of {size:g} m would do; so would a larger area or fewer folds"
                if size is not None
                else "No block size would do for these chips: use a larger area or fewer folds"
            )
        raise TooFewBlocksError(
            f"The {inverse.size} chips lie in {names.size} blocks, and {n_folds} folds need at least "
            f"{n_folds}. {remedy}."
        )
    labels = [str(name) for name in names.tolist()]
    fold_of = _fold_by_name(labels, n_folds, f"folds{salt}")
    return np.array([fold_of[label] for label in labels], dtype=np.int64)[inverse.reshape(-1)]


def random_folds(keys: ArrayLike, n_folds: int, *, salt: str = "") -> NDArray[np.int64]:
    """A fold for each chip by the hash of its key, whatever its place: the split that flatters.

    Args:
        keys: Key of each chip, shape (n,); equal keys share a fold.
        n_folds: Folds to make.
        salt: Another salt is another draw.

    Returns:
        Folds of shape (n,), from 0 to n_folds - 1, each at least once.

    Raises:
        ProbeError: If there are fewer distinct keys than folds, or fewer than two folds are asked for.
    """
    _check_n_folds(n_folds)
    names, inverse = np.unique(np.asarray(keys), return_inverse=True)
    if names.size < n_folds:
        raise ProbeError(f"Found {names.size} chips for {n_folds} folds. Expected at least one each; use fewer folds.")
    labels = [str(name) for name in names.tolist()]
    fold_of = _fold_by_name(labels, n_folds, f"random{salt}")
    return np.array([fold_of[label] for label in labels], dtype=np.int64)[inverse.reshape(-1)]


def buffer_mask(train_lonlat: ArrayLike, test_lonlat: ArrayLike, buffer_m: float) -> NDArray[np.bool_]:
    """Which training chips lie in the dead zone around the held-out ones and must be left out.

    Distances are along the great circle on a sphere, true to 0.5 % everywhere: EPSG:6933 metres, in which
    blocks are counted, are not ground metres away from 30° latitude.

    Args:
        train_lonlat: Centres of shape (n, 2), degrees, longitude first.
        test_lonlat: Centres of shape (m, 2).
        buffer_m: Width of the dead zone, metres, centre to centre; 0 leaves nothing out.

    Returns:
        Shape (n,); True where a held-out chip is closer than the buffer.

    Raises:
        GridError: If a position is not on Earth or the buffer is negative or not finite.
    """
    from scipy.spatial import KDTree

    train, test = check_lonlat(train_lonlat), check_lonlat(test_lonlat)
    if not (np.isfinite(buffer_m) and buffer_m >= 0):
        raise GridError(f"The buffer is {buffer_m} m. Expected 0 or more, finite; about the range of correlation.")
    if buffer_m == 0 or len(test) == 0 or len(train) == 0:
        return np.zeros(len(train), dtype=np.bool_)
    if buffer_m >= np.pi * _EARTH_RADIUS_M:
        return np.ones(len(train), dtype=np.bool_)
    # A chord of the unit sphere grows with the arc, up to half the way round.
    chord = 2 * np.sin(buffer_m / _EARTH_RADIUS_M / 2)
    distance, _ = KDTree(_unit_sphere(test)).query(_unit_sphere(train), k=1)
    return np.asarray(distance < chord, dtype=np.bool_)


def _unit_sphere(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.radians(lonlat[:, 0]), np.radians(lonlat[:, 1])
    return np.column_stack((np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)))


def fold_digest(keys: ArrayLike, folds: ArrayLike, scheme: Mapping[str, object]) -> str:
    """sha256 of a holdout: its scheme and which chip is in which fold, whatever their order.

    Args:
        keys: Key of each chip, shape (n,).
        folds: Fold of each chip, shape (n,).
        scheme: How they were made, e.g. `{"holdout": "block", "block_size_m": 10000, "n_folds": 5}`.

    Raises:
        ProbeError: If shapes differ.
    """
    names, numbers = np.asarray(keys), np.asarray(folds)
    if names.shape != numbers.shape or names.ndim != 1:
        raise ProbeError(
            f"Found keys of shape {names.shape} and folds of shape {numbers.shape}. Expected one fold per key."
        )
    pairs = sorted((str(name), int(fold)) for name, fold in zip(names.tolist(), numbers.tolist(), strict=True))
    return digest({"scheme": dict(scheme), "folds": pairs})
