"""What an output was made of, gathered from its store's attributes and from the frozen items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geoelle.errors import StoreError
from geoelle.provenance import canonical_json, digest
from geoelle.records import ItemRecord
from geoelle.schema import LOSS_NAMES

_PASSED_ON = (
    "geoelle:grid", "geoelle:encoder", "geoelle:probe_digest", "geoelle:probe_origin", "geoelle:reference",
    "geoelle:p_kind", "geoelle:method", "geoelle:alert_z", "geoelle:simulated", "geoelle:attribution",
    "geoelle:native_gsd_m", "geoelle:made_of", "geoelle:encoder_notes",
)  # fmt: skip
_RECORD_FIELDS = (
    "collection", "sensor", "provider", "platform", "processing_baseline", "relative_orbit", "datatake", "mgrs_tile",
    "offset_applied",
)  # fmt: skip
_MADE_FROM = {
    "embeddings": "Embeddings of image chips by the frozen encoder {encoder}, read from the source items.",
    "difficulty": "The {loss} of the encoder {encoder}, predicted by a {probe} ridge probe from embeddings.",
    "delta": "Difficulty ({loss}) for the encoder {encoder} ({probe} probe) minus what is normal at each place.",
}


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where one date of one store comes from."""

    item_ids: tuple[str, ...]
    """Source items, sorted."""
    properties: Mapping[str, Any]
    """Keys `geoelle:…` and `processing:…`, plain JSON."""
    self_hrefs: Mapping[str, str]
    """Addresses of the source items that are known."""

    @property
    def attribution(self) -> str:
        """The text that the source data asks for."""
        return str(self.properties.get("geoelle:attribution") or "")

    def tags(self) -> dict[str, str]:
        """As GDAL metadata of a file: the parts people look for under names of their own, the whole as JSON."""
        p = self.properties
        tags = {
            "TIFFTAG_SOFTWARE": f"geoelle {_mapping(p, 'processing:software').get('geoelle', '')}".strip(),
            "GEOELLE_DATE": str(p["geoelle:date"]),
            "GEOELLE_ENCODER": str(_mapping(p, "geoelle:encoder").get("name", "")),
            "GEOELLE_LOSS_KIND": str(p.get("geoelle:loss_kind", "")),
            "GEOELLE_ITEM_IDS": canonical_json(list(self.item_ids)),
            "GEOELLE_SIMULATED": "true" if p.get("geoelle:simulated") else "false",
            "GEOELLE_PROVENANCE": canonical_json(dict(p)),
        }
        if self.attribution:
            tags["TIFFTAG_COPYRIGHT"] = self.attribution
        if "geoelle:probe_digest" in p:
            tags["GEOELLE_PROBE_DIGEST"] = str(p["geoelle:probe_digest"])
        return tags


def lineage_of(attrs: Mapping[str, Any], kind: str, day: str, records: Mapping[str, ItemRecord]) -> Lineage:
    """Where a date of a store comes from.

    Args:
        attrs: Attributes of the flat store.
        kind: `embeddings`, `difficulty` or `delta`.
        day: Date as `YYYY-MM-DD`.
        records: The frozen items by id, as far as they are given; they tell what the store does not.

    Raises:
        StoreError: If the attributes are not what geoelle writes.
    """
    ids = _mapping(attrs, "geoelle:scenes").get(day, [])
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise StoreError(f"The store's geoelle:scenes lists {ids!r} for {day}. Expected item ids; make it again.")
    stored = _mapping(attrs, "geoelle:items")
    software = {str(k): str(v) for k, v in _mapping(attrs, "geoelle:software").items()}
    encoder = _mapping(attrs, "geoelle:encoder")
    properties: dict[str, Any] = {
        "geoelle:kind": kind,
        "geoelle:date": day,
        "geoelle:item_ids": sorted(ids),
        **{name: attrs[name] for name in _PASSED_ON if attrs.get(name) is not None},
        "processing:lineage": _MADE_FROM[kind].format(
            encoder=encoder.get("name", "unknown"),
            probe=attrs.get("geoelle:probe_origin", "unknown"),
            loss=LOSS_NAMES.get(str(encoder.get("loss_kind")), "loss"),
        ),
        "processing:software": software,
    }
    sources = {i: found for i in sorted(ids) if (found := _source(stored.get(i), records.get(i), encoder.get("bands")))}
    if sources:
        properties["geoelle:items"] = sources
    if "loss_kind" in encoder:
        properties["geoelle:loss_kind"] = str(encoder["loss_kind"])
    if (mask := _mapping(attrs, "geoelle:masks").get(day)) is not None:
        properties["geoelle:mask_source"] = str(mask)
    if "geoelle:config" in attrs:
        properties["geoelle:config_digest"] = _checked(attrs["geoelle:config"], digest)
    _checked(properties, canonical_json)
    hrefs = {i: href for i in sorted(ids) if (href := _self_href(stored.get(i), records.get(i)))}
    return Lineage(tuple(sorted(ids)), properties, hrefs)


def _source(stored: object, record: ItemRecord | None, bands: object) -> dict[str, Any]:
    """What is known of one source item; what the store says wins, as it was written when the pixels were read."""
    found: dict[str, Any] = {}
    if record is not None:
        found = {name: getattr(record, name) for name in _RECORD_FIELDS}
        for name in ("scale", "offset"):
            read = [asset for band, asset in record.assets.items() if not isinstance(bands, list) or band in bands]
            values = {getattr(asset, name) for asset in read}
            if len(values) == 1:
                found[name] = values.pop()
    if isinstance(stored, Mapping):
        found |= stored
    return {name: value for name, value in found.items() if value is not None and name != "self"}


def _self_href(stored: object, record: ItemRecord | None) -> str | None:
    """Where the item itself can be read, on the web and without a signature; None where nobody says."""
    links: Any = record.raw.get("links") if record is not None else None
    told = [stored.get("self")] if isinstance(stored, Mapping) else []
    told += [k.get("href") for k in links or () if isinstance(k, Mapping) and k.get("rel") == "self"]
    return next(
        (h for h in told if isinstance(h, str) and h.startswith(("https://", "http://")) and "?" not in h), None
    )


def _mapping(attrs: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = attrs.get(name)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise StoreError(f"The store's attribute {name} is {type(found).__name__}. Expected keys and values.")
    return found


def _checked(value: Any, use: Any) -> str:
    try:
        return str(use(value))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"The store's attributes are not JSON ({error}). Make the store again.") from None
