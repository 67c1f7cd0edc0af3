"""Train, evaluate and export the compact encoder: a thin call of geoelle.training.

    python pipelines/pretrain_compact.py --data ../shared/data --out runs/compact --minutes 30
    python pipelines/pretrain_compact.py --data ../shared/data --out runs/compact --start runs/first
    python pipelines/pretrain_compact.py --data ../shared/data --out runs/compact --evaluate-only

The folder --out then holds model.safetensors, the ONNX graphs (one of them with weights of 8 bits) and card.json; copy
them to geoelle/encoders/weights/compact to ship them, and run ship_cold_start.py for the probes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from geoelle.errors import GeoelleError
from geoelle.training import (
    CompactConfig,
    PretrainOptions,
    StepReport,
    StockPaths,
    evaluate,
    evaluate_multispectral,
    load_exported,
    multispectral_table,
    pretrain,
    read_stock,
    table,
)
from geoelle.training.loop import LEARNING_RATE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with chips/ and stac/")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, weights, graphs and card")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="optimiser steps")
    length.add_argument("--epochs", type=float, help="passes over the training chips")
    length.add_argument("--minutes", type=float, help="about this long on this machine (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain-targets", action="store_true", help="do not standardise each patch's target")
    parser.add_argument("--start", type=Path, help="folder of earlier weights to start from")
    parser.add_argument("--keep", type=float, default=0.0, help="weight of staying with earlier weights on RGB")
    parser.add_argument("--keep-to", type=Path, help="folder of these weights (default: that of --start)")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="its peak")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--held-out-per-class", type=int, default=200)
    parser.add_argument("--compare-with", type=Path, help="folder of another run, to put its figures on the card too")
    parser.add_argument("--evaluate-only", action="store_true", help="print the table of what lies in --out")
    return parser.parse_args()


def _run(arguments: argparse.Namespace, console: Console) -> None:
    paths = StockPaths.under(arguments.data)
    if arguments.evaluate_only:
        _, held = read_stock(paths, held_out_per_class=arguments.held_out_per_class)
        trained = load_exported(arguments.out)
        console.print(table(evaluate(trained, held.rgb)))
        console.print(multispectral_table(evaluate_multispectral(trained, held)))
        return
    options = PretrainOptions(
        data=paths,
        out=arguments.out,
        steps=arguments.steps,
        epochs=arguments.epochs,
        minutes=arguments.minutes,
        seed=arguments.seed,
        resume=arguments.resume,
        held_out_per_class=arguments.held_out_per_class,
        start=arguments.start,
        keep=arguments.keep,
        keep_to=arguments.keep_to,
        learning_rate=arguments.learning_rate,
        compare_with=arguments.compare_with,
        shape=CompactConfig(norm_pix=not arguments.plain_targets),
    )
    columns = (TextColumn("loss {task.fields[loss]:.4f}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=None, loss=float("nan"))

        def on_step(report: StepReport) -> None:
            progress.update(bar, total=report.steps, completed=report.step, loss=report.loss)

        outcome = pretrain(options, on_step=on_step)
    console.print(table(outcome.reports))
    console.print(f"Wrote {outcome.card.name} (pooling {outcome.card.pooling}) to {arguments.out}.")


def main() -> int:
    """Run; errors are one sentence and exit code 1."""
    arguments = _arguments()
    console = Console(soft_wrap=True, highlight=False)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    try:
        _run(arguments, console)
    except GeoelleError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"{type(error).__name__}: {error}", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
