"""Encoder cards on disk: JSON in, `EncoderCard` out, and the other way round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, cast

from geoelle.errors import WeightsError
from geoelle.records import EncoderCard

CARD_FILE = "card.json"
"""Name of the card beside the weights."""

_FIELDS = tuple(f.name for f in fields(EncoderCard))
_REQUIRED = tuple(f.name for f in fields(EncoderCard) if f.default is MISSING)


def read_card_file(path: str | Path) -> dict[str, Any]:
    """The whole card file: `card` beside what only the adapter and people need (`network`, `graphs`, `figures`).

    Raises:
        WeightsError: If the file is missing or is not the JSON expected.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"There is no card {path}. Expected it beside the weights. Install geoelle anew.") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"The card {path} cannot be read ({error}). Install geoelle anew.") from error
    if not isinstance(content, dict) or not isinstance(content.get("card"), dict):
        raise WeightsError(f"{path} holds no object `card`. Expected an encoder's card file. Install geoelle anew.")
    return content


def parse_card(values: Mapping[str, Any]) -> EncoderCard:
    """An `EncoderCard` from plain JSON values.

    Raises:
        WeightsError: If a field is missing or unknown.
    """
    missing = [name for name in _REQUIRED if name not in values]
    unknown = [name for name in values if name not in _FIELDS]
    if missing or unknown:
        raise WeightsError(
            f"A card lacks the fields {missing} and has the unknown fields {unknown}. "
            f"Expected exactly {list(_FIELDS)}. Correct the card file."
        )
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return EncoderCard(**cast("dict[str, Any]", plain))


def read_card(path: str | Path) -> EncoderCard:
    """The card in a card file.

    Raises:
        WeightsError: If the file is missing, damaged or incomplete.
    """
    return parse_card(read_card_file(path)["card"])


def write_card_file(
    path: str | Path,
    card: EncoderCard,
    *,
    network: dict[str, Any],
    graphs: dict[str, str],
    figures: object,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a card file.

    Args:
        path: File to write.
        card: The card.
        network: The network's shape, as the torch runtime needs it.
        graphs: sha256 of each ONNX graph, by file name.
        figures: Evaluation on held-out chips, plain values.
        more: Further keys of the file, plain values.
    """
    content = {"card": asdict(card), "network": network, "graphs": graphs, **(more or {}), "figures": figures}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")
