"""One HTML page from layers that are ready: folium's elements, our panel and script, and everything inlined.

Three things differ from what folium writes by itself: links become text (`assets`), the random ids of its elements
become numbers so that the same input gives the same bytes, and a Content-Security-Policy names every script by its
hash, so that nothing that slips through escaping can run or load anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

import folium
from branca.element import Element
from folium.plugins import GroupedLayerControl
from folium.utilities import JsCode

from geoelle.errors import MapError
from geoelle.webmap.assets import AssetResolver, script_text, style_text
from geoelle.webmap.overlays import Bounds
from geoelle.webmap.text import escape, plural

# folium links these for markers, icons and its own popups; this page has none of them.
_UNUSED_LINKS = frozenset({
    "jquery", "bootstrap", "awesome_markers", "bootstrap_css", "glyphicons_css", "awesome_markers_font_css",
    "awesome_markers_css", "awesome_rotate_css",
})  # fmt: skip
_POPUP = JsCode("function (feature, layer) { layer.bindPopup(feature.properties.popup, {maxWidth: 380}); }")
_ALERT_STYLE: Mapping[str, Mapping[str, Any]] = {
    "up": {"color": "#8f0015", "weight": 2.5},
    "down": {"color": "#08306b", "weight": 2.5, "dashArray": "6 4"},
}
_AOI_STYLE = {"color": "#101820", "weight": 2, "dashArray": "1 5", "fill": False, "interactive": False}
_RANDOM_ID = re.compile(r"[0-9a-f]{32}")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_LINKED = re.compile(r"""<(?:script|link)\b[^>]*?(?:src|href)="([^"]+)\"""")


@dataclass(frozen=True, slots=True)
class Overlay:
    """One zone's part of a layer."""

    png: str
    """Data URL."""
    hatch_png: str | None
    """Laid over it where the probe's support ends."""
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class RasterLayer:
    """One choice of the layer control."""

    kind: str
    """`difficulty` or `delta`."""
    date: str
    overlays: tuple[Overlay, ...]
    """One for each zone that has anything to show, switched together."""


@dataclass(frozen=True, slots=True)
class PageContent:
    """Everything that the page shows."""

    title: str
    head_html: str
    side_html: str
    attribution: str
    rasters: Sequence[RasterLayer]
    shown: RasterLayer
    """The one on at first."""
    view_bounds: Bounds
    aoi: Mapping[str, Any] | None
    """GeoJSON FeatureCollection of geometries alone."""
    alerts: Mapping[str, Sequence[Mapping[str, Any]]]
    """GeoJSON features by date, lowest rank last; properties `direction` and `popup` (HTML, escaped)."""
    n_alerts: Mapping[str, int]
    """By date, those not drawn included: a date must not look quiet because others ranked higher."""
    basemap: str | None


class _Raw(Element):  # type: ignore[misc]  # branca is untyped here
    """Text that goes into the page as it is: branca would compile an `Element`'s text as a Jinja template."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def render(self, **kwargs: Any) -> str:
        return self._text


class _LastScript(_Raw):
    """Script that runs when every element before it is there: elements are rendered in the order of adding."""

    def render(self, **kwargs: Any) -> str:
        self.get_root().script.add_child(_Raw(self._text), name=self.get_name())
        return ""


def render_page(content: PageContent, resolver: AssetResolver) -> tuple[str, list[str]]:
    """The page's HTML, and a sentence for each file that it has to link."""
    ground = _ground(content)
    figure = ground.get_root()
    figure.title = escape(content.title)
    rasters = [_add_raster(ground, layer, on=layer is content.shown) for layer in content.rasters]
    control, view = _add_vectors(ground, content, rasters)
    notes = _inline_links(figure, [ground, control], resolver)
    figure.header.add_child(_Raw(f"<style>{_own_file('viewer.css')}</style>"), name="geoelle_css")
    figure.header.add_child(_Raw(f"<script>{_own_file('viewer.js')}</script>"), name="geoelle_js")
    figure.html.add_child(_Raw(content.head_html + content.side_html), name="geoelle_panel")
    ground.add_child(_LastScript(f"geoelleView({view});"))
    text = _numbered(figure.render(), figure)
    return _with_policy(text, allow_tiles=content.basemap is not None), notes


def _own_file(name: str) -> str:
    return files("geoelle.webmap").joinpath(name).read_text(encoding="utf-8").strip()


def _ground(content: PageContent) -> Any:
    (south, west), (north, east) = content.view_bounds
    try:
        return folium.Map(
            location=[(south + north) / 2, (west + east) / 2],
            tiles=content.basemap,
            control_scale=True,
            zoom_snap=0.25,  # so that the area fills the window
            max_zoom=20,
        )
    except ValueError as error:
        raise MapError(
            f"No basemap is called {content.basemap!r}. Use a name that folium knows, such as 'OpenStreetMap'."
        ) from error


def _add_raster(ground: Any, layer: RasterLayer, *, on: bool) -> tuple[RasterLayer, Any]:
    group = folium.FeatureGroup(name=layer.date, show=on, control=False).add_to(ground)
    for overlay in layer.overlays:
        bounds = [list(corner) for corner in overlay.bounds]
        # pixelated=False: the rule is in our style sheet once, not in the head once per image.
        alt = f"{layer.kind} on {layer.date}"
        folium.raster_layers.ImageOverlay(overlay.png, bounds, pixelated=False, alt=alt).add_to(group)
        if overlay.hatch_png is not None:
            folium.raster_layers.ImageOverlay(
                overlay.hatch_png, bounds, pixelated=False, class_name="geoelle-hatch",
                alt="outside the probe's support",
            ).add_to(group)  # fmt: skip
    return layer, group


def _add_vectors(ground: Any, content: PageContent, rasters: Sequence[tuple[RasterLayer, Any]]) -> tuple[Any, str]:
    """Adds AOI, alerts and the layer control; returns the control and the script's argument."""

    def switch(name: str) -> Any:
        return folium.FeatureGroup(name=name, show=True, control=False).add_to(ground)

    groups: dict[str, list[Any]] = {}
    counted_in = rasters[-1][0].kind  # alerts are named beside delta where there is one
    for layer, group in rasters:
        n = content.n_alerts.get(layer.date, 0) if layer.kind == counted_in else 0
        drawn = _of(len(content.alerts.get(layer.date, ())), n)
        group.layer_name = escape(f"{layer.date} · {drawn}{plural(n, 'alert')}" if n else layer.date)
        groups.setdefault(_heading(layer.kind), []).append(group)
    groups[_heading(rasters[-1][0].kind)].append(
        folium.FeatureGroup(name="No raster", show=False, control=False).add_to(ground)
    )
    on_top: list[Any] = []
    n_drawn, n_all = sum(map(len, content.alerts.values())), sum(content.n_alerts.values())
    alerts_switch = switch(f"Alerts ({_of(n_drawn, n_all)}{n_all:,})") if content.alerts else None
    support_switch = (
        switch("Hatch outside support") if any(o.hatch_png for r in content.rasters for o in r.overlays) else None
    )
    on_top += [s for s in (alerts_switch, support_switch) if s is not None]
    if content.aoi is not None:
        outline = switch("Area of interest")
        folium.GeoJson(content.aoi, style_function=lambda _: _AOI_STYLE, control=False).add_to(outline)
        on_top.append(outline)
    alert_layers = {date: _add_alerts(ground, features) for date, features in content.alerts.items()}
    if on_top:
        groups["On top"] = on_top
    control = GroupedLayerControl(
        groups,
        exclusive_groups=False,
        exclusiveGroups=[name for name in groups if name != "On top"],
        collapsed=JsCode("window.innerWidth < 720"),
        autoZIndex=False,
    )
    # A set, so in random order; layers that are not shown were never added and need no removing.
    control.layers_untoggle = []
    control.add_to(ground)
    rows = ",".join(
        f"{{layer:{group.get_name()},kind:{_json(layer.kind)},label:{_json(_heading(layer.kind))},"
        f"date:{_json(layer.date)}}}"
        for layer, group in rasters
    )
    alert_rows = ",".join(f"{{layer:{a.get_name()},date:{_json(d)}}}" for d, a in alert_layers.items())
    view = (
        f"{{map:{ground.get_name()},rasters:[{rows}],alerts:[{alert_rows}],"
        f"alertsSwitch:{_name(alerts_switch)},supportSwitch:{_name(support_switch)},"
        f"bounds:{json.dumps(content.view_bounds)},attribution:{_json(escape(content.attribution))}}}"
    )
    return control, view


def _of(part: int, whole: int) -> str:
    return f"{part:,} of " if part < whole else ""


def _heading(kind: str) -> str:
    return "Difficulty" if kind == "difficulty" else "Delta"


def _name(element: Any) -> str:
    return str(element.get_name()) if element is not None else "null"


def _json(text: str) -> str:
    return json.dumps(text).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _add_alerts(ground: Any, features: Sequence[Mapping[str, Any]]) -> Any:
    def style(feature: Mapping[str, Any]) -> dict[str, Any]:
        line = _ALERT_STYLE.get(feature["properties"]["direction"], _ALERT_STYLE["up"])
        return {**line, "fillOpacity": 0, "className": "geoelle-alert"}

    # Not shown here: the script shows those of the date on the map.
    return folium.GeoJson(
        {"type": "FeatureCollection", "features": list(features)},
        style_function=style,
        on_each_feature=_POPUP,
        control=False,
        show=False,
    ).add_to(ground)


def _inline_links(figure: Any, owners: Sequence[Any], resolver: AssetResolver) -> list[str]:
    """Puts the text of what folium's elements link into the head; what cannot be had stays a link, with a note."""
    notes: list[str] = []
    for owner in owners:
        kept: dict[str, list[tuple[str, str]]] = {"default_js": [], "default_css": []}
        for attribute, links in kept.items():
            for name, url in getattr(owner, attribute):
                if name in _UNUSED_LINKS:
                    continue
                data, reason = resolver.get(url)
                if data is None:
                    links.append((name, url))
                    notes.append(f"Links {url.rsplit('/', 1)[-1]} from the network, because {reason}.")
                elif attribute == "default_js":
                    figure.header.add_child(_Raw(f"<script>{script_text(data)}</script>"), name=name)
                else:
                    figure.header.add_child(_Raw(f"<style>{style_text(data, url, resolver)}</style>"), name=name)
        # Set on the element, which hides the class's list: folium writes a link for whatever is left here.
        owner.default_js, owner.default_css = kept["default_js"], kept["default_css"]
        for name, url in owner.default_js:
            figure.header.add_child(folium.elements.JavascriptLink(url), name=name)
        for name, url in owner.default_css:
            figure.header.add_child(folium.elements.CssLink(url), name=name)
    return notes


def _elements(element: Any) -> Iterator[Any]:
    yield element
    for part in ("header", "html", "script"):
        if isinstance(inner := getattr(element, part, None), Element):
            yield from _elements(inner)
    for child in element._children.values():
        yield from _elements(child)


def _numbered(text: str, figure: Any) -> str:
    """`text` with the random ids of folium's elements, and nothing else, counted in order of appearance."""
    random_ids = {element._id for element in _elements(figure)}
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        token = match.group(0)
        return numbers.setdefault(token, str(len(numbers))) if token in random_ids else token

    return _RANDOM_ID.sub(number, text)


def _with_policy(text: str, *, allow_tiles: bool) -> str:
    scripts = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in _SCRIPT.findall(text)}
    linked = {"{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in _LINKED.findall(text)}
    hosts = "".join(f" {host}" for host in sorted(linked))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"img-src data:{' https:' if allow_tiles else ''}{hosts}; style-src 'unsafe-inline'{hosts}; "
        f"script-src{''.join(f" 'sha256-{s}'" for s in sorted(scripts))}{hosts}"
    )
    meta = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    return text.replace("<head>", f"<head>\n{meta}", 1)
