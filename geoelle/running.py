"""Running many jobs on dask.distributed, a bounded number in flight: here, or on a cluster that is there already."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Protocol

from geoelle.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from distributed import Client

READERS_PER_WORKER = 4
GPU = "GPU"
"""The Dask resource that marks workers with a device: `dask worker --resources GPU=1`."""
_CONNECT_TIMEOUT = "10s"
_IN_FLIGHT_PER_READER = 2
_LOOK_AGAIN = 32
"""Jobs after which the cluster is counted again."""
_WORKERS_TIMEOUT_S = 30.0
_SHORT_LOGS = {"distributed.admin.low-level-log-length": 16}
"""Dask's logs for debugging keep the last 1,000 messages, and with them the jobs in them."""


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
    import dask
    import distributed  # noqa: F401  its defaults have to be there, or the end of the block takes them all away

    with dask.config.set(_SHORT_LOGS), _client(workers, scheduler) as client:
        yield client


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client]:
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


@dataclass(frozen=True, slots=True)
class Steps[Job, Middle, Result]:
    """Work in two steps, for clusters whose GPU workers should not wait for pixels."""

    first: Callable[[Job], Middle]
    """On workers without a GPU, where there are any."""
    second: Callable[[Middle, Job], Result]
    """On workers that declare the resource `GPU`."""


def run_jobs[Job, Result](
    client: Client,
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    n_jobs: int | None = None,
    label: str,
    progress: Progress = no_progress,
    steps: Steps[Job, Any, Result] | None = None,
    lost: Callable[[Job, str], Result] | None = None,
) -> Iterator[Result]:
    """Results of `work` on each job as they come, a bounded number at a time: memory does not grow with the jobs.

    An exception of a job is raised here and stops the rest; jobs that may fail catch their own.

    Args:
        client: Of the cluster.
        work: What to do with a job.
        jobs: Taken one by one, as workers come free.
        n_jobs: How many there are, where `jobs` cannot say.
        label: Of the tasks in Dask's dashboard.
        progress: Told how many are done.
        steps: The same work in two steps, taken instead where workers declare the resource `GPU`
            (`dask worker --resources GPU=1`).
        lost: Makes a job's result where the workers that did it died, given why; by default that is raised.

    Raises:
        ClusterError: If the scheduler went away.
    """
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError

    submit = _submitter(client, work, steps, label)
    waiting = iter(jobs)
    total = n_jobs if n_jobs is not None else len(jobs)  # type: ignore[arg-type]
    pool = as_completed([], loop=client.loop)
    known: dict[str, Job] = {}

    def add(job: Job) -> None:
        future = submit(job)
        known[future.key] = job
        pool.add(future)

    window = _window(client)
    for job in islice(waiting, window):
        add(job)
    progress(0, total)
    for done, future in enumerate(pool, start=1):
        job = known.pop(future.key)
        try:
            result = future.result()
        except KilledWorker:
            if lost is None:
                raise
            result = lost(job, "the worker died each time (out of memory, or killed); give it more memory")
        except FutureCancelledError:
            raise ClusterError(
                "The connection to the Dask scheduler was lost, so the run stopped. Start the scheduler again, and "
                "run again: what is done is kept."
            ) from None
        yield result
        progress(done, total)
        if done % _LOOK_AGAIN == 0:  # clusters grow and shrink
            window = _window(client)
        for job in islice(waiting, max(0, window - len(known))):
            add(job)


def _window(client: Client) -> int:
    """Jobs in flight: enough that no reader waits for the coordinator."""
    threads: int = sum(worker["nthreads"] for worker in _workers(client).values())
    return max(1, threads) * _IN_FLIGHT_PER_READER


def _workers(client: Client) -> dict[str, dict[str, Any]]:
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def _submitter[Job](
    client: Client, work: Callable[[Job], Any], steps: Steps[Job, Any, Any] | None, label: str
) -> Callable[[Job], Any]:
    run = uuid.uuid4().hex  # a scheduler takes two jobs of one key for one, whoever sent them
    numbers = count()
    workers = _workers(client)
    with_gpu = {address for address, worker in workers.items() if worker.get("resources", {}).get(GPU)}
    readers = sorted(set(workers) - with_gpu) or None

    def whole(job: Job) -> Any:
        return client.submit(work, job, key=f"{label}-{run}-{next(numbers)}", pure=False, retries=0)

    def stepwise(job: Job) -> Any:
        assert steps is not None  # noqa: S101  for the type checker
        n = next(numbers)
        first = client.submit(
            steps.first, job, key=f"{label}-read-{run}-{n}", pure=False, retries=0, workers=readers,
            allow_other_workers=readers is not None,
        )  # fmt: skip
        return client.submit(
            steps.second, first, job, key=f"{label}-{run}-{n}", pure=False, retries=0, resources={GPU: 1}
        )

    return stepwise if steps is not None and with_gpu else whole
