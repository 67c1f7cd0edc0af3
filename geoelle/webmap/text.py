"""Data as text on the page: escaping, numbers, and the words for what stores hold as codes.

Everything that comes from data passes through `escape` before it meets HTML, and only there.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

DIMENSIONLESS = "dimensionless"
"""What is shown for CF's unit `1`."""
REFERENCE_WORDS: Mapping[str, str] = {
    "median": "median of earlier looks at the same place",
    "season": "median of the same season in earlier years",
    "surrounding": "median of looks before and after, the time around the date left out",
}
STATE_WORDS: Mapping[str, str] = {
    "no_look": "no look",
    "quiet": "quiet",
    "first": "first: past the alert knob once, not seen again yet",
    "provisional": "provisional: seen again, not confirmed yet",
    "confirmed": "confirmed: seen in several looks",
    "ended": "ended: back to normal",
}
DIRECTION_WORDS: Mapping[str, str] = {
    "up": "up: harder for the encoder than is normal here",
    "down": "down: easier for the encoder than is normal here",
}
LOSS_KIND_WORDS: Mapping[str, str] = {
    "own": "own: exactly the encoder's pretraining loss",
    "own-partial": "own-partial: the encoder's pretraining loss without one of its terms",
    "proxy": "proxy: not the encoder's pretraining loss",
    "unavailable": "unavailable: this encoder gives no loss",
}


def escape(value: object) -> str:
    """`value` as text that HTML shows as it is, in an element or in a quoted attribute.

    Braces go too: branca compiles what folium renders as a Jinja template once more, so that `{{ … }}` in an item
    id would be run as code.
    """
    text = str(value).encode("utf-8", "replace").decode().replace("\x00", "")
    return html.escape(text, quote=True).replace("{", "&#123;").replace("}", "&#125;")


def number(value: object, *, signed: bool = False) -> str:
    """Three significant digits with a true minus sign; `no data` where it is not finite."""
    x = _float(value)
    if not math.isfinite(x):
        return "no data"
    return f"{x:{'+' if signed else ''}.3g}".replace("-", "−")


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def words(table: Mapping[str, str], code: object) -> str:
    """The words for a code, escaped; a code without words stands for itself."""
    return escape(table.get(str(code), str(code)))


def plural(n: int, noun: str) -> str:
    """`1 date`, `2 dates`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def list_of_ids(value: object) -> list[str]:
    """Item ids as an alert's column holds them: a list, an array, one text or nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, Iterable):
        return [str(item) for item in value]
    return [str(value)]


def _row(name: str, content: str) -> str:
    return f"<tr><th>{name}</th><td>{content}</td></tr>"


def _ids(value: object) -> str:
    ids = list_of_ids(value)
    return "<br>".join(escape(i) for i in ids) if ids else "none recorded"


def _p_words(alert: Mapping[str, Any]) -> str:
    p = _float(alert["p"])
    kind = alert["p_kind"]
    named = f" ({escape(kind)})" if kind is not None and str(kind) not in ("", "nan", "none", "None") else ""
    if math.isnan(p):
        return f"not given: not enough looks for a p-value{named}"
    return f"{number(p)}{named}"


def alert_popup(alert: Mapping[str, Any], unit: str | None) -> str:
    """One alert as the HTML of its popup; every value from data is escaped."""
    unit_html = f" {escape(unit)}" if unit and unit != DIMENSIONLESS else ""
    n, kind = _float(alert["reference_n"]), str(alert["loss_kind"])
    looks = f", from {plural(int(n), 'look')}" if math.isfinite(n) else ""
    rows = (
        _row("Direction", words(DIRECTION_WORDS, alert["direction"])),
        _row("Delta", f"{number(alert['delta'], signed=True)}{unit_html}"),
        _row("Difficulty", f"{number(alert['difficulty'])}{unit_html}, reference {number(alert['reference'])}"),
        _row("z", number(alert["z"], signed=True)),
        _row("p", _p_words(alert)),
        _row("State", words(STATE_WORDS, alert["state"])),
        _row("Reference", f"{words(REFERENCE_WORDS, alert['reference_kind'])}{looks}"),
        _row("Reference look", _ids(alert["before_item_ids"])),
        _row("This look", _ids(alert["after_item_ids"])),
        *((_row("Loss", words(LOSS_KIND_WORDS, kind)),) if kind not in ("own", "None", "nan", "") else ()),
        _row("Chip", escape(alert["chip_id"])),
    )
    head = f"<h2>Alert {escape(alert['rank'])} · {escape(str(alert['date'])[:10])}</h2>"
    return f'<div class="geoelle-popup">{head}<table>{"".join(rows)}</table></div>'
