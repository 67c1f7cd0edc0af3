"""The page's words around the map: header, legends, and the box that says where the numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from geoelle.schema import COARSE_FACTOR, LOSS_NAMES, MIN_INDEPENDENT_BLOCKS
from geoelle.webmap.palettes import ColourScale
from geoelle.webmap.text import LOSS_KIND_WORDS, REFERENCE_WORDS, escape, number, plural, words

_DIGEST_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Legend:
    """What the side panel has to explain."""

    difficulty_scale: ColourScale
    delta_scale: ColourScale | None
    unit: str | None
    """Of difficulty and delta; None where the store says none."""
    any_outside_support: bool
    scaled_to_support: bool
    """Whether the scales leave out what lies outside the probe's support."""
    n_alerts: int
    n_alerts_shown: int
    has_aoi: bool


def header_html(title: str, *, simulated: bool, loss_kind: str, origin: str) -> str:
    """The bar on top: title, badges that nobody may overlook, and what is shown now."""
    badges = []
    if simulated:
        badges.append("SIMULATED")
    if loss_kind != "own":
        badges.append(f"LOSS: {loss_kind.upper()}")
    if origin == "shipped":
        badges.append("COLD START")
    spans = "".join(f'<span class="geoelle-badge">{escape(badge)}</span>' for badge in badges)
    return (
        f'<header class="geoelle-head"><h1>{escape(title)}</h1>{spans}'
        '<span id="geoelle-showing" role="status"></span></header>'
    )


def side_html(legend: Legend, attrs: Mapping[str, Any], delta_attrs: Mapping[str, Any] | None) -> str:
    """The side panel: legends, warnings, provenance, scenes."""
    parts = [
        _warnings(attrs),
        _scale_section(legend, attrs),
        _keys_section(legend),
        _provenance(attrs, delta_attrs),
        _scenes(attrs),
    ]
    return f'<aside class="geoelle-side" aria-label="Legend and provenance">{"".join(parts)}</aside>'


def mapping(attrs: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The attribute as a mapping, empty where a store lacks it."""
    value = attrs.get(name)
    return value if isinstance(value, Mapping) else {}


def merged_attrs(zones: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the stores of all zones as if they were one store: what differs by zone is put together."""
    each = [{str(k): v for k, v in ds.attrs.items()} for ds in zones.values()]
    attrs = dict(each[0])
    if len(each) == 1:
        return attrs
    scenes: dict[str, set[str]] = {}
    for other in each:
        for day, ids in mapping(other, "geoelle:scenes").items():
            scenes.setdefault(str(day), set()).update(map(str, _list(ids)))
    masks: dict[str, set[str]] = {}
    for other in each:
        for day, source in mapping(other, "geoelle:masks").items():
            masks.setdefault(str(day), set()).add(str(source))
    native = [n for other in each if isinstance(n := other.get("geoelle:native_gsd_m"), int | float)]
    credits_ = dict.fromkeys(str(c) for other in each if (c := other.get("geoelle:attribution")))
    return attrs | {
        "geoelle:zones": list(zones),
        "geoelle:scenes": {day: sorted(ids) for day, ids in sorted(scenes.items())},
        "geoelle:native_gsd_m": max(native, default=None),
        "geoelle:masks": {day: " and ".join(sorted(by)) for day, by in sorted(masks.items())},
        "geoelle:simulated": any(other.get("geoelle:simulated") for other in each),
        "geoelle:attribution": "; ".join(credits_),
    }


def _ramp(scale: ColourScale, *, title: str, unit: str | None, kind: str, note: str) -> str:
    middle = (scale.low + scale.high) / 2
    signed = kind == "delta"
    unit_html = f" <span>[{escape(unit)}]</span>" if unit else ""
    return (
        f'<div class="geoelle-only-{kind}"><h2>{title}{unit_html}</h2>'
        f'<div class="geoelle-ramp" style="background:linear-gradient(to right,{",".join(scale.colours)})"></div>'
        f'<div class="geoelle-ticks"><span>≤ {number(scale.low, signed=signed)}</span>'
        f"<span>{number(middle)}</span><span>≥ {number(scale.high, signed=signed)}</span></div>"
        f'<p class="geoelle-small">{note}</p></div>'
    )


def _scale_section(legend: Legend, attrs: Mapping[str, Any]) -> str:
    encoder = mapping(attrs, "geoelle:encoder")
    definition = encoder.get("loss_definition")
    meaning = f"Predicted {words(LOSS_NAMES, encoder.get('loss_kind', 'own'))}."
    if definition:
        meaning += f" {escape(definition)}"
    supported = ", from cells inside the probe's support" if legend.scaled_to_support else ""
    ramps = _ramp(
        legend.difficulty_scale, title="Difficulty", unit=legend.unit, kind="difficulty",
        note=f"{meaning} One scale for all dates{supported}; its ends hold the lowest and highest 2 %.",
    )  # fmt: skip
    if legend.delta_scale is not None:
        ramps += _ramp(
            legend.delta_scale, title="Delta", unit=legend.unit, kind="delta",
            note="Difficulty minus reference. Red: harder than is normal here; blue: easier.",
        )  # fmt: skip
    return f"<section>{ramps}</section>"


def _keys_section(legend: Legend) -> str:
    no_data = "No data: cloud, edge of the image, outside the area"
    if legend.delta_scale is not None:
        no_data += "; for delta also too few looks to judge"
    keys = [("nodata", no_data)]
    if legend.any_outside_support:
        keys.append(("hatch geoelle-only-difficulty", "Outside the probe's support: unlike what it was trained on"))
    if legend.n_alerts_shown:
        keys += [("up", "Alert, harder than normal"), ("down", "Alert, easier than normal")]
    if legend.has_aoi:
        keys.append(("aoi", "Area of interest"))
    items = "".join(f"<li{_only(key)}><span class='geoelle-key geoelle-key-{key}'></span>{t}</li>" for key, t in keys)
    note = ""
    if legend.n_alerts > legend.n_alerts_shown:
        note = (
            f'<p class="geoelle-small">The {legend.n_alerts_shown:,} highest-ranked of {legend.n_alerts:,} alerts '
            "are drawn.</p>"
        )
    if legend.n_alerts_shown:
        note += '<p class="geoelle-small">Alerts follow the date that is shown; click one for its numbers.</p>'
    return f'<section><ul class="geoelle-keys">{items}</ul>{note}</section>'


def _only(key: str) -> str:
    return ' class="geoelle-only-difficulty"' if "only-difficulty" in key else ""


def _warnings(attrs: Mapping[str, Any]) -> str:
    encoder = mapping(attrs, "geoelle:encoder")
    notes = []
    if attrs.get("geoelle:simulated"):
        notes.append("<strong>SIMULATED.</strong> These are made-up images with known events, not satellite data.")
    kind, definition = encoder.get("loss_kind"), escape(encoder.get("loss_definition", ""))
    if kind == "proxy":
        notes.append(
            f"<strong>Loss: proxy.</strong> This is not the loss that the encoder was pretrained with. {definition}"
        )
    elif kind == "own-partial":
        notes.append(
            f"<strong>Loss: own-partial.</strong> A term of the encoder's pretraining loss is left out. {definition}"
        )
    if attrs.get("geoelle:probe_origin") == "shipped":
        trained_on = mapping(attrs, "geoelle:probe").get("trained_on") or "other places"
        notes.append(
            f"<strong>Cold start.</strong> The probe shipped with {escape(encoder.get('name', 'the encoder'))}, "
            f"trained on {escape(trained_on)}. Levels may be off, and on land unlike that the "
            "ranking too; calibrate where you can."
        )
    probe_blocks = mapping(attrs, "geoelle:probe").get("n_blocks")
    if (
        attrs.get("geoelle:probe_origin") == "local"
        and isinstance(probe_blocks, int)
        and probe_blocks < MIN_INDEPENDENT_BLOCKS
    ):
        notes.append(
            f"<strong>Few blocks.</strong> The probe was fitted on {plural(probe_blocks, 'independent block')}, fewer "
            f"than {MIN_INDEPENDENT_BLOCKS}. Its scores mean little."
        )
    native, taken = attrs.get("geoelle:native_gsd_m"), encoder.get("gsd_m")
    if isinstance(native, int | float) and isinstance(taken, int | float) and native > COARSE_FACTOR * taken:
        notes.append(
            f"<strong>Resampled.</strong> Imagery of {number(native)} m was resampled to the {number(taken)} m that "
            "the encoder is fed: smoother than anything it was trained on."
        )
    notes += _off_training(attrs)
    notes += _masking(attrs)
    if not notes:
        return ""
    return "<section>" + "".join(f'<p class="geoelle-warn">{note}</p>' for note in notes) + "</section>"


def _off_training(attrs: Mapping[str, Any]) -> list[str]:
    """What the encoder was fed that it was not trained on."""
    said = " ".join(escape(note) for note in _list(attrs.get("geoelle:encoder_notes")))
    return [f"<strong>Unlike the encoder's training.</strong> {said}"] if said else []


def _masking(attrs: Mapping[str, Any]) -> list[str]:
    """Dates whose clouds no quality layer told of."""
    masks = mapping(attrs, "geoelle:masks")
    guessed = sum("heuristic" in str(source) for source in masks.values())
    bare = sum("none" in str(source).split(" and ") for source in masks.values())
    of = f"of {plural(len(masks), 'date')}"
    notes = []
    if guessed:
        notes.append(
            f"<strong>Clouds masked heuristically.</strong> On {guessed:,} {of} no quality layer was there, and a "
            "spectral test stood in for it: look at them."
        )
    if bare:
        notes.append(f"<strong>Clouds not masked.</strong> On {bare:,} {of} nothing was there to tell them by.")
    return notes


def _provenance(attrs: Mapping[str, Any], delta_attrs: Mapping[str, Any] | None) -> str:
    encoder, probe = mapping(attrs, "geoelle:encoder"), mapping(attrs, "geoelle:probe")
    grid = mapping(attrs, "geoelle:grid")
    rows: list[tuple[str, str]] = []

    def add(name: str, *texts: object) -> None:
        content = "; ".join(escape(text) for text in texts if text not in (None, ""))
        if content:
            rows.append((name, content))

    chip = f"{encoder['chip_size_px']} px" if "chip_size_px" in encoder else None
    pixel = f" of {number(encoder['gsd_m'])} m" if "gsd_m" in encoder else ""
    add("Encoder", encoder.get("name"), f"chips of {chip}{pixel}" if chip else None)
    add("Bands", ", ".join(str(band) for band in _list(encoder.get("bands"))))
    if "loss_kind" in encoder:
        rows.append(("Loss", words(LOSS_KIND_WORDS, encoder["loss_kind"])))
    add("Probe", *_probe_texts(attrs, probe))
    if grid:
        zones = _list(attrs.get("geoelle:zones")) or [grid.get("epsg")]
        add("Grid", ", ".join(f"EPSG:{zone}" for zone in zones), f"one cell every {number(grid.get('stride_m'))} m")
    if delta_attrs is not None:
        reference = mapping(delta_attrs, "geoelle:reference")
        rows.append(("Reference", _reference(reference)))
        add("Scoring", delta_attrs.get("geoelle:method"))
        add("p-values", delta_attrs.get("geoelle:p_kind"))
    add("Weights", _short(encoder.get("weights_sha256")))
    body = "".join(f"<dt>{name}</dt><dd>{content}</dd>" for name, content in rows)
    attribution = attrs.get("geoelle:attribution")
    credit = f'<p class="geoelle-small">{escape(attribution)}</p>' if attribution else ""
    return f"<section><h2>Where this comes from</h2><dl>{body}</dl>{credit}</section>"


def _probe_texts(attrs: Mapping[str, Any], probe: Mapping[str, Any]) -> list[str]:
    origin = attrs.get("geoelle:probe_origin")
    texts = ["fitted on this area" if origin == "local" else f"{origin}, not fitted on this area"]
    if "n_train" in probe:
        texts.append(plural(int(probe["n_train"]), "training chip"))
    if "n_blocks" in probe:
        texts.append(plural(int(probe["n_blocks"]), "independent block"))
    digest = _short(probe.get("digest") or attrs.get("geoelle:probe_digest"))
    return [*texts, f"digest {digest}"] if digest else texts


def _reference(reference: Mapping[str, Any]) -> str:
    text = words(REFERENCE_WORDS, reference.get("kind", "not recorded"))
    if reference.get("window_days") is not None:
        text += f" ({escape(reference['window_days'])} days to each side)"
    if ranges := _list(reference.get("reference_dates")):
        text += f"; looks of {escape(', '.join(' to '.join(map(str, _list(r) or [r])) for r in ranges))}"
    if reference.get("min_looks") is not None:
        text += f"; at least {escape(reference['min_looks'])} looks"
    if excluded := _list(reference.get("excluded_dates")):
        text += f"; left out: {escape(', '.join(str(day)[:10] for day in excluded))}"
    return text


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def _short(digest: object) -> str:
    return str(digest)[:_DIGEST_SHOWN] if digest else ""


def _scenes(attrs: Mapping[str, Any]) -> str:
    scenes = mapping(attrs, "geoelle:scenes")
    if not scenes:
        return ""
    rows = "".join(
        f"<dt>{escape(str(day)[:10])}</dt><dd>{'<br>'.join(escape(i) for i in ids) or 'none recorded'}</dd>"
        for day, ids in sorted(scenes.items())
    )
    return f"<section><details><summary>{plural(len(scenes), 'scene')}</summary><dl>{rows}</dl></details></section>"
