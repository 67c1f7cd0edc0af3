"""Fixed masks: exact share, stable under everything but the chip, the draw and the token count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoelle.encoders import fixed_masks
from geoelle.errors import EncoderInputError


@given(k=st.integers(1, 6), side=st.integers(2, 10), ratio=st.floats(0.3, 0.9))
def test_every_mask_hides_the_exact_share(k: int, side: int, ratio: float) -> None:
    masks = fixed_masks(["a", "b"], k, side * side, ratio)
    assert masks.shape == (2, k, side * side)
    assert (masks.sum(axis=2) == int(ratio * (side * side))).all()


def test_mask_does_not_change_when_k_grows() -> None:
    np.testing.assert_array_equal(fixed_masks(["a"], 8, 64, 0.75)[:, :3], fixed_masks(["a"], 3, 64, 0.75))


def test_mask_does_not_depend_on_other_chips() -> None:
    together = fixed_masks(np.array(["a", "b", "c"]), 2, 64, 0.75)
    np.testing.assert_array_equal(together[1:2], fixed_masks(["b"], 2, 64, 0.75))


def test_masks_differ_between_chips_and_draws() -> None:
    masks = fixed_masks([str(i) for i in range(20)], 8, 64, 0.75).reshape(160, 64)
    assert len(np.unique(masks, axis=0)) == 160


def test_every_token_is_hidden_equally_often() -> None:
    share = fixed_masks([str(i) for i in range(400)], 4, 16, 0.75).mean(axis=(0, 1))
    np.testing.assert_allclose(share, 0.75, atol=0.05)


def test_masks_are_the_same_in_every_release() -> None:
    # A change here makes every stored loss incomparable: the draw may not change.
    hidden = np.flatnonzero(fixed_masks(["chip"], 1, 16, 0.75)[0, 0])
    assert hidden.tolist() == GOLDEN


GOLDEN = [0, 1, 2, 3, 4, 5, 7, 10, 12, 13, 14, 15]


def test_a_loss_without_masks_hides_nothing() -> None:
    masks = fixed_masks(["a", "b"], 1, 16, 0.0)
    assert masks.shape == (2, 1, 16)
    assert not masks.any()


@pytest.mark.parametrize(("k", "ratio"), [(0, 0.75), (1, 0.01), (1, 1.0)])
def test_senseless_requests_are_refused(k: int, ratio: float) -> None:
    with pytest.raises(EncoderInputError, match="Expected"):
        fixed_masks(["a"], k, 16, ratio)
