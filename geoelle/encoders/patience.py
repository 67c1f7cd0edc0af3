"""How long a download goes on trying."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from geoelle.errors import WeightsError
from geoelle.provenance import seed_from

BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request is worth another try."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a server is asked. All times in seconds."""

    connect_s: float = 10.0
    read_s: float = 30.0
    """Longest silence within an answer."""
    tries: int = 6
    """In a row that bring nothing."""
    backoff_s: float = 1.0
    """Wait after the first of them; doubles with each."""
    longest_wait_s: float = 60.0
    """Whatever the server's `Retry-After` asks for."""


PATIENCE = Patience()


class BrokenOffError(Exception):
    """One try that failed in a way worth another."""

    def __init__(self, why: str, *, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.wait_s = wait_s


def retry_after_s(value: str) -> float | None:
    """Seconds that a `Retry-After` asks for; None where it is no number of them."""
    return float(value) if value.isdecimal() else None


def persist[Answer](
    work: Callable[[], Answer], got_further: Callable[[], bool], what: str, patience: Patience
) -> Answer:
    """Do the work until it succeeds, or fails too often in a row without getting further.

    Args:
        work: Raises `BrokenOffError` where another try may end better.
        got_further: Whether the try that just failed brought something.
        what: Named in the error, and the seed of the waits, so that a run can be repeated.
        patience: How often and how long.

    Raises:
        WeightsError: If it failed too often.
    """
    failed = 0
    while True:
        try:
            return work()
        except BrokenOffError as broken:
            failed = 1 if got_further() else failed + 1
            if failed >= patience.tries:
                raise WeightsError(
                    f"{what} cannot be had: {broken}, {failed} tries in a row. Check the network. The same command "
                    "takes up where this one stopped; or download the file elsewhere, and name it with `weights`."
                ) from None
            share = 0.5 + seed_from(what, failed) / 2**65
            wait = max(patience.backoff_s * 2 ** (failed - 1) * share, broken.wait_s or 0.0)
        time.sleep(min(wait, patience.longest_wait_s))
