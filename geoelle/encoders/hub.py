"""Where a checkpoint's file is to be had: what huggingface_hub says of it, or its plain address."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from geoelle.encoders.checkpoint_table import Checkpoint
from geoelle.encoders.patience import BUSY, BrokenOffError, retry_after_s
from geoelle.errors import WeightsError

_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Remote:
    """A file on a server."""

    url: str
    label: str
    """What a person is told of it; without a query."""
    revision: str | None
    """Commit that the address is pinned to."""
    sha256: str | None
    """As the server states it; None where it does not."""
    n_bytes: int | None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def plain_remote(checkpoint: Checkpoint) -> Remote:
    """The file at its own address."""
    return Remote(checkpoint.url, checkpoint.url.partition("?")[0], checkpoint.revision, None, checkpoint.n_bytes)


def hub_remote(checkpoint: Checkpoint, revision: str | None) -> Remote:
    """The file on the hub, at a commit: the one given, else the newest.

    Raises:
        BrokenOffError: If the hub did not answer, but may if asked again.
        WeightsError: If the hub has no such file, or does not let us have it.
    """
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
    except ImportError as error:
        raise WeightsError(
            f"Downloading {checkpoint.name} needs huggingface_hub ({error}). Install geoelle[models], or download "
            f"{checkpoint.source} yourself and name the file with `weights`."
        ) from None
    endpoint = os.environ.get("HF_ENDPOINT") or None

    def address(commit: str | None) -> str:
        return hf_hub_url(checkpoint.repo, checkpoint.filename, revision=commit, endpoint=endpoint)

    label = f"{checkpoint.repo}/{checkpoint.filename}"
    seen = _asked(lambda: get_hf_file_metadata(address(revision), library_name="geoelle"), checkpoint, label)
    commit, etag = seen.commit_hash, (seen.etag or "").strip('"')
    if commit is None:
        raise WeightsError(
            f"What answers for {label} is not the hub: it names no commit. Check HF_ENDPOINT and proxies."
        )
    if revision is not None and commit != revision:
        raise WeightsError(f"Asked for {label} at {revision}, the hub answers with {commit}. Check HF_ENDPOINT.")
    stated = etag.lower() if len(etag) == _SHA256_DIGITS else None
    headers = build_hf_headers(library_name="geoelle")
    return Remote(address(commit), label, commit, stated, seen.size, headers)


def _asked[Answer](ask: Callable[[], Answer], checkpoint: Checkpoint, label: str) -> Answer:
    from huggingface_hub import errors

    local = f"You can also download {checkpoint.source} elsewhere, and name the file with `weights`."
    try:
        return ask()
    except errors.GatedRepoError:
        raise WeightsError(
            f"{label} is gated. Expected that you accept its terms on the hub and log in with `hf auth login`. {local}"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        what = {"RepositoryNotFoundError": "repository", "RevisionNotFoundError": "revision"}.get(
            type(error).__name__, "file"
        )
        at = f" at {checkpoint.revision}" if checkpoint.revision else ""
        raise WeightsError(f"The hub has no {label}{at}: its {what} is gone, or hidden. {local}") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in BUSY:
            wait = retry_after_s(error.response.headers.get("Retry-After", ""))
            raise BrokenOffError(f"HTTP {status}", wait_s=wait) from None
        raise WeightsError(f"The hub refuses {label}: HTTP {status}. {local}") from None
    except errors.OfflineModeIsEnabled:
        raise WeightsError(f"{label} is not here, and HF_HUB_OFFLINE forbids the network. {local}") from None
    except Exception as error:  # the hub's client changes its transport, and with it what it raises
        raise BrokenOffError(f"no answer ({type(error).__name__})") from None
