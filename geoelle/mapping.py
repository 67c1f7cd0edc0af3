"""The difficulty stage: a probe over every embedding, with its error and support, as a raster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geoelle.describing import card_of_store
from geoelle.encoders.shipped import shipped_probe_folder
from geoelle.errors import GeoelleError, ProbeError, StoreError
from geoelle.probe import Probe
from geoelle.provenance import digest
from geoelle.running import Progress, no_progress
from geoelle.schema import LOSS_NAMES, SUPPORT_NO_DATA
from geoelle.store import open_store
from geoelle.store.embeddings import stored_digests
from geoelle.store.layout import Variable, extent_of, is_stored, write_store
from geoelle.store.location import Location, StorePath
from geoelle.store.probes import read_probe
from geoelle.store.quantised import read_embedding
from geoelle.store.zones import open_area, open_zones, paths_like, zone_paths

_PASSED_ON = (
    "geoelle:grid", "geoelle:encoder", "geoelle:aoi", "geoelle:simulated", "geoelle:attribution", "geoelle:scenes",
    "geoelle:software", "geoelle:native_gsd_m", "geoelle:config", "geoelle:config_digest",
    "geoelle:items", "geoelle:masks", "geoelle:encoder_notes",
)  # fmt: skip


def difficulty(
    embeddings: StorePath,
    *,
    out: StorePath,
    probe: StorePath | Probe | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset | xr.DataTree:
    """Predict each chip's own loss, without decoder or labels.

    Args:
        embeddings: Store made by `embed`, a path or the URL of an object store.
        out: Folder or URL of the Zarr store to write; takes the place of one that is there once it is whole, and is
            left alone if it was made of the same.
        probe: Folder or URL of a probe made by `calibrate`, or the probe. None takes the one shipped with the encoder:
            the cold start, which the store says.
        progress: Told how many dates are done.

    Returns:
        The store, opened lazily: `difficulty` and `difficulty_se` in the unit of the encoder's loss, and
        `support` (1 inside what the probe was trained on, 0 outside, 255 no data), over (time, y, x). Of embeddings in
        several zones it has the same zones, and comes as a DataTree with one child each.

    Raises:
        ProbeError: If the probe is for another encoder, band set or chip size.
        StoreError: If the store cannot be read.
    """
    sources = zone_paths(embeddings)
    opened = open_zones(embeddings, "embeddings")
    encoder = one_encoder(opened)
    fitted = probe if isinstance(probe, Probe) else load_probe(probe, encoder)
    check_probe_fits(fitted, encoder)
    targets = paths_like(out, "difficulty", list(sources))
    attrs = {zone: _attrs(sources[zone], ds, fitted) for zone, ds in opened.items()}
    todo = [z for z, target in targets.items() if not unchanged(target, "difficulty", attrs[z]["geoelle:made_of"])]
    n_dates = {zone: opened[zone].sizes["time"] for zone in todo}
    for i, zone in enumerate(todo):
        before, all_dates = sum(n_dates[z] for z in todo[:i]), sum(n_dates.values())
        _write(targets[zone], opened[zone], fitted, attrs[zone], _part(progress, before, all_dates))
    return open_area(out, "difficulty")


def _part(progress: Progress, before: int, of: int) -> Progress:
    """Progress of one zone, told as that of all."""

    def told(done: int, total: int) -> None:
        progress(before + done, of)

    return told


def one_encoder(zones: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """What the stores of all zones say of their encoder.

    Raises:
        StoreError: If they differ.
    """
    encoders = [ds.attrs["geoelle:encoder"] for ds in zones.values()]
    if any(encoder != encoders[0] for encoder in encoders):
        raise StoreError(
            f"The zones {', '.join(zones)} were made by different encoders. Expected one; embed again into another "
            "store."
        )
    return dict(encoders[0])


def _attrs(source: Location, ds: xr.Dataset, probe: Probe) -> dict[str, Any]:
    """What the difficulty store of one zone says of itself."""
    passed_on = {name: ds.attrs[name] for name in _PASSED_ON if name in ds.attrs}
    jobs = digest(stored_digests(source).tobytes().hex())
    meta = probe.meta
    return {
        **passed_on,
        "geoelle:kind": "difficulty",
        "geoelle:probe": {
            "digest": probe.digest,
            "origin": meta.origin,
            "trained_on": meta.trained_on,
            "n_train": meta.n_train,
            "n_blocks": meta.n_blocks,
            "holdout": meta.holdout,
            "scores": dict(meta.scores),
            "transform": meta.transform,
            "loss_kind": meta.loss_kind,
        },
        "geoelle:probe_digest": probe.digest,
        "geoelle:probe_origin": meta.origin,
        "geoelle:made_of": digest({"probe": probe.digest, "jobs": jobs, "attrs": passed_on}),
    }


def load_probe(path: StorePath | None, encoder: Mapping[str, Any]) -> Probe:
    """The probe in a folder, or for None the one shipped with a store's encoder.

    Raises:
        NotFoundError: If there is no probe.
        ProbeError: If it is damaged, or none is shipped for these chips.
    """
    folder = shipped_probe_folder(encoder["name"], int(encoder["chip_size_px"])) if path is None else path
    arrays, meta = read_probe(folder)
    try:
        return Probe.from_arrays(arrays, meta)
    except ProbeError as error:
        raise ProbeError(f"The probe in {folder} cannot be used. {error}") from None
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ProbeError(f"The probe in {folder} is damaged ({error}). Calibrate again.") from None


def check_probe_fits(probe: Probe, encoder: Mapping[str, Any]) -> None:
    """Refuse a probe that was fitted for other embeddings than a store's.

    Raises:
        ProbeError: With everything that differs.
    """
    probe.check_fits(
        card_of_store(encoder),
        chip_size_px=int(encoder["chip_size_px"]),
        gsd_m=float(encoder["gsd_m"]),
        bands=tuple(encoder["bands"]),
        weights_sha256=str(encoder["weights_sha256"]),
        pooling=encoder.get("pooling"),
        layer=encoder.get("layer"),
    )


def unchanged(target: Location, kind: str, made_of: str) -> bool:
    """Whether a store is there that was made of the same.

    Raises:
        StoreError: If something is there that is no store of this kind, and would be lost.
    """
    if not is_stored(target):
        return False
    try:
        return bool(open_store(target, kind).attrs.get("geoelle:made_of") == made_of)
    except GeoelleError as error:  # also a store of this kind that is damaged
        raise StoreError(f"{target} is in the way: {error} Give another --out, or delete it.") from None


def _write(target: Location, ds: xr.Dataset, probe: Probe, attrs: Mapping[str, Any], progress: Progress) -> None:
    days = list(ds["time"].values)
    unit, loss = probe.meta.unit, LOSS_NAMES.get(probe.meta.loss_kind, "loss")
    variables = [
        Variable(
            "difficulty", "float32", float("nan"), {},
            {"long_name": f"predicted {loss}", "units": unit, "ancillary_variables": "difficulty_se support"},
        ),
        Variable(
            "difficulty_se", "float32", float("nan"), {},
            {"long_name": f"standard error of the predicted {loss} of one chip", "units": unit},
        ),
        Variable(
            "support", "uint8", SUPPORT_NO_DATA, {},
            {
                "long_name": "whether the probe was trained on chips like this one",
                "flag_values": [0, 1, 255],
                "flag_meanings": "outside inside no_data",
            },
        ),
    ]  # fmt: skip

    def dates() -> Iterator[dict[str, NDArray[np.generic]]]:
        progress(0, len(days))
        for i in range(len(days)):
            scores = probe.predict_with_error(read_embedding(ds, i))
            yield {
                "difficulty": scores.difficulty,
                "difficulty_se": scores.difficulty_se,
                "support": scores.support,
            }
            progress(i + 1, len(days))

    write_store(target, extent_of(ds.attrs), days, variables, dates(), attrs)
