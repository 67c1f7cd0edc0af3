"""Running many jobs on dask.distributed, a bounded number in flight: here, or on a cluster that is there already."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from geoelle.errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

READERS_PER_WORKER = 4
_CONNECT_TIMEOUT = "10s"
_IN_FLIGHT_PER_READER = 2
_WORKERS_TIMEOUT_S = 30.0


class Progress(Protocol):
    """Told how far a stage is."""

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` pieces of work are finished."""


def no_progress(done: int, total: int) -> None:
    """For callers who do not want to know."""


def encoder_threads(workers: int) -> int:
    """Threads for each worker's encoder, so that together they fill the machine once."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))


@contextmanager
def cluster(workers: int, scheduler: str | None) -> Iterator[Client]:
    """A client of the scheduler at an address, or of a local cluster that lives as long as the block.

    One worker is threads in this process; more are processes.

    Raises:
        ConfigError: If there is no worker, or the scheduler does not answer.
    """
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=_CONNECT_TIMEOUT)
        except (OSError, ValueError, TimeoutError) as error:
            raise ConfigError(f"The Dask scheduler {scheduler} does not answer ({error}). Check its address.") from None
        with client:
            try:
                client.wait_for_workers(1, timeout=_WORKERS_TIMEOUT_S)
            except TimeoutError:
                raise ConfigError(
                    f"The Dask scheduler {scheduler} has no worker. Start one with `dask worker {scheduler}`."
                ) from None
            yield client
        return
    if workers < 1:
        raise ConfigError(f"workers is {workers}. Expected at least 1.")
    try:
        local = LocalCluster(
            n_workers=workers,
            threads_per_worker=READERS_PER_WORKER,
            processes=workers > 1,
            # None would still serve HTTP, on every interface of the machine and always at port 8787.
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            host=None if workers == 1 else "127.0.0.1",  # threads need no socket; processes stay on loopback
            memory_limit=0,  # jobs are small and bounded; Dask's spilling has nothing to gain here
        )
    except RuntimeError as error:
        raise ConfigError(
            f"The {workers} worker processes did not start ({error}). In a script, call geoelle under "
            '`if __name__ == "__main__":`, or use workers=1.'
        ) from None
    with local, Client(local) as client:
        if workers > 1:
            client.run(quiet_rasterio)
        yield client


def quiet_rasterio() -> None:
    """odc-loader warps through arrays without a geotransform, of which rasterio warns; nothing a user could mend."""
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")


def run_jobs[Job, Result](
    client: Client,
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    label: str,
    progress: Progress = no_progress,
) -> Iterator[Result]:
    """Results of `work` on each job as they come, so that memory does not grow with the number of jobs.

    An exception of a job is raised here and stops the rest; jobs that may fail catch their own.
    """
    from distributed import as_completed

    threads = sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    window = max(1, threads) * _IN_FLIGHT_PER_READER
    waiting = iter(enumerate(jobs))
    run = uuid.uuid4().hex  # a scheduler takes two jobs of one key for one, whoever sent them

    def submit(index: int, job: Job) -> object:
        return client.submit(work, job, key=f"{label}-{run}-{index}", pure=False, retries=0)

    first = [submit(i, job) for i, job in islice(waiting, window)]
    pool = as_completed(first)
    progress(0, len(jobs))
    for done, future in enumerate(pool, start=1):
        yield future.result()
        progress(done, len(jobs))
        for index, job in waiting:
            pool.add(submit(index, job))
            break
