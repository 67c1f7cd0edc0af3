"""Evaluation reports as a Markdown table and as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from geoelle.errors import SchemaError
from geoelle.training.evaluation import Score, SizeReport


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def table(reports: tuple[SizeReport, ...]) -> str:
    """All scores as Markdown, random and classes side by side, a part per chip size and target."""
    lines: list[str] = []
    for report in reports:
        lines += [
            f"**{report.chip_size_px} px**: {report.n_chips} chips, {report.n_masks} masks, "
            f"loss {report.mean_loss:.3f} ± {report.sd_loss:.3f}, reliability {report.reliability:.4f}, "
            f"ceiling {', '.join(f'{value:.4f} ({target})' for target, value in report.ceilings.items())}",
            "",
        ]
        for target in dict.fromkeys(score.target for score in report.scores):
            lines += [
                f"| {target} | r random | r classes | partial r random | partial r classes "
                "| beyond curved, random | beyond curved, classes |",
                "|---|---|---|---|---|---|---|",
            ]
            rows = [score for score in report.scores if score.target == target]
            for name in dict.fromkeys(score.predictor for score in rows):
                by = {score.holdout: score for score in rows if score.predictor == name}
                pair = (by["random"], by["classes"])
                cells = [
                    *(_number(score.r) for score in pair),
                    *(_number(score.partial_r) for score in pair),
                    *(_number(score.partial_r_curved) for score in pair),
                ]
                lines.append(f"| {name} | {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines)


def plain_figures(reports: tuple[SizeReport, ...], digits: int = 4) -> list[dict[str, Any]]:
    """The reports as JSON values, rounded; None where a figure is not defined, as for a handful of chips."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return round(value, digits) if math.isfinite(value) else None
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(inner) for inner in value]
        return value

    return [rounded(asdict(report)) for report in reports]


def read_figures(figures: Sequence[Mapping[str, Any]]) -> tuple[SizeReport, ...]:
    """The reports of `plain_figures` again; figures that are not defined stay None.

    Raises:
        SchemaError: If a field is missing or unknown.
    """
    try:
        return tuple(SizeReport(**{**r, "scores": tuple(Score(**score) for score in r["scores"])}) for r in figures)
    except (KeyError, TypeError) as error:
        raise SchemaError(f"The figures on the card are not those of an evaluation ({error}). Evaluate anew.") from None
