"""Whatever order jobs are written in, wherever a run stops, however dates are added: the same content."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_stores import DAYS, JOBS, TILES, contents, do, job_data, job_digest, make, make_whole, tile_index

from geoelle import schema
from geoelle.errors import ConfigError, StoreError
from geoelle.store import embeddings as embeddings_module
from geoelle.store import open_store
from geoelle.store.embeddings import embedding_variables, stored_digests, write_job
from geoelle.store.quantised import from_int8, read_embedding, to_int8

# No shrinking: an example is a whole store, and the first one that fails says enough.
BRIEF = settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "e.zarr"
    make_whole(path)
    return path


class Stopped(BaseException):
    """As a kill: nothing that catches errors catches it."""


def stop_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let `write_job` write so many arrays, then stop it."""
    real = embeddings_module._array
    left = [writes]

    class Counted:
        def __init__(self, array: Any) -> None:
            self.array = array

        @property
        def dtype(self) -> Any:
            return self.array.dtype

        def __setitem__(self, where: Any, values: Any) -> None:
            if left[0] == 0:
                raise Stopped
            left[0] -= 1
            self.array[where] = values

    monkeypatch.setattr(embeddings_module, "_array", lambda *which: Counted(real(*which)))


@BRIEF
@given(order=st.permutations(JOBS))
def test_jobs_in_any_order_make_the_same_bytes(whole: Path, order: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.zarr"
        index = make(path)
        for job in order:
            do(path, index, *job)
        assert contents(path) == contents(whole)


@BRIEF
@given(data=st.data())
def test_a_run_stopped_anywhere_and_resumed_makes_the_same_bytes(whole: Path, data: st.DataObject) -> None:
    """Every write of a job is a place to stop at, also where the job had been done with other inputs before."""
    order = data.draw(st.permutations(JOBS))
    n_done = data.draw(st.integers(0, len(order) - 1))
    writes = data.draw(st.integers(0, 10))
    redone = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "e.zarr"
        index = make(path)
        for job in order[:n_done]:
            do(path, index, *job)
        day, n = order[n_done]
        if redone:
            write_job(path, index[DAYS[day]], tile_index(n), TILES[n], job_data((day + 1) % 3, n), "ab" * 32)
        stop_after(patch, writes)
        try:
            do(path, index, day, n)
        except Stopped:
            done = stored_digests(path)[index[DAYS[day]], *tile_index(n)].tobytes().hex()
            assert done == "ab" * 32 if writes == 0 and redone else done == "00" * 32
            trusted = (open_store(path)["status"].values[day][TILES[n].y, TILES[n].x] == schema.DONE).any()
            found = read_embedding(open_store(path), day)[TILES[n].y, TILES[n].x]
            # All of what was there until status is cleared, all of the new once status is written, nothing between.
            old = job_data((day + 1) % 3, n) if redone else {"embedding": np.full(found.shape, np.nan)}
            between = {"embedding": np.full(found.shape, np.nan)}
            expected = old if writes < 2 else job_data(day, n) if trusted else between
            assert trusted == (redone if writes < 2 else writes >= 10)
            np.testing.assert_array_equal(found, expected["embedding"])
        patch.undo()
        index = make(path)
        digests = stored_digests(path)
        for job in order:
            where = (index[DAYS[job[0]]], *tile_index(job[1]))
            if digests[where].tobytes().hex() != job_digest(*job):
                do(path, index, *job)
        assert contents(path) == contents(whole)


@BRIEF
@given(order=st.permutations(range(len(DAYS))), cuts=st.lists(st.booleans(), min_size=2, max_size=2))
def test_dates_added_in_any_order_read_the_same(whole: Path, order: list[int], cuts: list[bool]) -> None:
    """On disk they lie in the order they came; whoever opens the store gets them sorted, with the same numbers."""
    expected = open_store(whole, load=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.zarr"
        pending: list[int] = []
        for day, cut in zip(order, [*cuts, True], strict=True):
            pending.append(day)
            if cut:
                index = make(path, [DAYS[d] for d in pending])
                for job in JOBS:
                    if job[0] in pending:
                        do(path, index, *job)
                pending = []
        assert open_store(path, load=True).identical(expected)


# --- dtypes


@pytest.mark.parametrize("dtype", schema.EMBEDDING_DTYPES)
def test_each_dtype_reads_back_as_float32_within_its_precision(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "e.zarr"
    make_whole(path, dtype)
    ds = open_store(path, "embeddings")
    assert ds["embedding"].dtype == dtype
    for day, n in JOBS:
        wanted = job_data(day, n)["embedding"]
        found = read_embedding(ds, day)[TILES[n].y, TILES[n].x]
        assert found.dtype == np.float32
        limit = {
            "float32": np.zeros(wanted.shape),
            "float16": np.abs(wanted) * 2.0**-11 + 2.0**-25,
            "int8": np.broadcast_to(
                np.abs(np.nan_to_num(wanted)).max(axis=-1, keepdims=True) / 127 * 0.5001, wanted.shape
            ),
        }[dtype]
        done = ~np.isnan(wanted)
        assert (np.isnan(found) == ~done).all()
        assert (np.abs(found - wanted)[done] <= limit[done]).all()
    assert read_embedding(ds).shape == ds["embedding"].shape
    array: Any = zarr.open_group(path, mode="r")["embedding"]
    assert array.dtype == dtype


def test_the_dtype_is_part_of_what_a_store_is(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    make_whole(path)
    before = contents(path)
    with pytest.raises(StoreError, match=r"holds embeddings as float32 .this run: int8."):
        make(path, dtype="int8")
    assert contents(path) == before
    with pytest.raises(ConfigError, match="float32, float16, int8"):
        embedding_variables(5, "1", "float64")


def test_a_feature_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.zarr"
    index = make(path, dtype="float16")
    data = job_data(0, 0)
    data["embedding"][1, 1, 0] = 1e6
    with pytest.raises(ConfigError, match="does not fit float16"):
        write_job(path, index[DAYS[0]], (0, 0), TILES[0], data, "ab" * 32)
    assert not stored_digests(path).any()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(arrays(np.float32, (3, 7), elements=st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)))
def test_int8_is_off_by_at_most_half_a_scale(embedding: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    numbers, scale = to_int8(embedding)
    back = from_int8(numbers, scale)
    assert (np.abs(back.astype(np.float64) - embedding) <= scale[:, None].astype(np.float64) * 0.5001).all()
    assert (scale[(embedding == 0).all(axis=1)] == 0).all()


def test_int8_rounds_half_to_even_and_keeps_missing_missing() -> None:
    numbers, scale = to_int8(np.array([[127, 0.5, 1.5, -2.5], [1, np.nan, 1, 1]], np.float32))
    assert numbers.tolist() == [[127, 0, 2, -2], [0, 0, 0, 0]]
    assert scale[0] == 1
    assert np.isnan(scale[1])
    assert np.isnan(from_int8(numbers, scale)[1]).all()
