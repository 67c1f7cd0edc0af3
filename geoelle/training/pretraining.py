"""The whole of pretraining: read, hold out, train, evaluate, export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from safetensors.torch import load_file

from geoelle.encoders.cards import CARD_FILE, parse_card, read_card_file
from geoelle.encoders.compact_model import CompactConfig, CompactMAE
from geoelle.encoders.compact_runtime import check_sha256
from geoelle.errors import ConfigError, WeightsError
from geoelle.records import EncoderCard
from geoelle.training.batches import RGB_SHARE
from geoelle.training.evaluation import SizeReport, added, best_pooling, evaluate
from geoelle.training.export import export_compact, loss_definition
from geoelle.training.loop import (
    LEARNING_RATE,
    OnStep,
    TrainedModel,
    TrainingConfig,
    pick_device,
    read_checkpoint,
    steps_within,
    train,
)
from geoelle.training.multispectral import evaluate_multispectral
from geoelle.training.sources import N_HELD_OUT_CHIPS, N_HELD_OUT_SCENES
from geoelle.training.starting import read_start
from geoelle.training.stock import HeldOut, StockPaths, read_stock
from geoelle.training.tables import plain_figures

CHECKPOINT_FILE = "checkpoint.pt"
DEFAULT_MINUTES = 30.0
NAME = "compact"


@dataclass(frozen=True, slots=True)
class PretrainOptions:
    """What to train on, for how long, and where to write. At most one of steps, epochs, minutes."""

    data: StockPaths
    out: Path
    steps: int | None = None
    epochs: float | None = None
    """Passes over the EuroSAT RGB chips."""
    minutes: float | None = None
    seed: int = 0
    resume: bool = False
    held_out_per_class: int = 200
    held_out_chips: int = N_HELD_OUT_CHIPS
    held_out_scenes: int = N_HELD_OUT_SCENES
    shape: CompactConfig = field(default_factory=CompactConfig)
    start: Path | None = None
    """Folder of the first version or of an earlier training, to start from its weights."""
    keep: float = 0.0
    """Weight of staying with earlier weights on red, green and blue (`TrainingConfig.keep`)."""
    keep_to: Path | None = None
    """Folder of these weights; None is `start`."""
    learning_rate: float = LEARNING_RATE
    """Peak."""
    compare_with: Path | None = None
    """Folder of another run, whose figures then stand beside this one's on the card."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pretraining gave."""

    card: EncoderCard
    reports: tuple[SizeReport, ...]
    """On the held-out RGB chips."""
    seconds: float
    """Spent in training, this time."""


def _training_config(options: PretrainOptions, n_chips: int, timed: int | None) -> TrainingConfig:
    config = TrainingConfig(1, options.seed, learning_rate=options.learning_rate, keep=options.keep)
    if options.steps is not None:
        steps = options.steps
    elif options.epochs is not None:
        steps = round(options.epochs * n_chips / config.batch / RGB_SHARE)
    else:
        steps = timed or 0
    if steps < 1:
        raise ConfigError(f"Training for {steps} steps was asked for. Expected at least 1. Ask for more.")
    return replace(config, steps=steps)


def pretrain(options: PretrainOptions, on_step: OnStep | None = None) -> Outcome:
    """Train, evaluate on held-out imagery, and write checkpoint, weights, graphs and card into `options.out`.

    Args:
        options: What and where.
        on_step: Called after every step, e.g. to move a progress bar.

    Raises:
        ConfigError: If the length of the training is given twice or is nothing, or a checkpoint is of another run.
        NotFoundError: If the data are not there.
        SchemaError: If the data are not as expected.
        WeightsError: If a checkpoint or the weights to start from are damaged.
    """
    if sum(length is not None for length in (options.steps, options.epochs, options.minutes)) > 1:
        raise ConfigError("The length of training was given twice. Expected one of steps, epochs, minutes. Drop one.")
    if options.keep < 0 or (options.keep and options.start is None):
        raise ConfigError(
            f"keep is {options.keep}, start is {options.start}. Expected keep of 0 or more, with a folder of weights "
            "to start from. Give start, or leave keep out."
        )
    if options.keep_to is not None and not options.keep:
        raise ConfigError(f"keep_to is {options.keep_to}, but keep is 0. Expected a weight. Give keep too.")
    stock, held = read_stock(
        options.data,
        held_out_per_class=options.held_out_per_class,
        held_out_chips=options.held_out_chips,
        held_out_scenes=options.held_out_scenes,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / CHECKPOINT_FILE
    timed: int | None = None
    if options.steps is None and options.epochs is None:
        if options.resume and checkpoint.exists():
            # How many steps fit in the minutes was settled when the run began.
            timed = int(read_checkpoint(checkpoint)["identity"]["training"]["steps"])
        else:
            minutes = DEFAULT_MINUTES if options.minutes is None else options.minutes
            timed = steps_within(minutes, stock, options.shape, TrainingConfig(steps=1, seed=options.seed))
    config = _training_config(options, len(stock.rgb), timed)
    first = read_start(options.start) if options.start is not None else None
    clock = perf_counter()
    trained = train(
        stock,
        options.shape,
        config,
        start=first,
        keep=read_start(options.keep_to) if options.keep_to is not None else None,
        checkpoint=checkpoint,
        resume=options.resume,
        on_step=on_step,
    )
    seconds = perf_counter() - clock
    reports = evaluate(trained, held.rgb)
    card = finish(trained, held, reports, options.out, compare_with=options.compare_with)
    return Outcome(card, reports, seconds)


def _training_sentences(trained: TrainedModel, held: HeldOut) -> str:
    config, shape = trained.training, trained.model.config
    target = "patch targets standardised within each patch" if shape.norm_pix else "plain patch targets"
    counts = ", ".join(f"{count} {name}" for name, count in trained.counts.items())
    began = f"started from weights {trained.start[:12]}" if trained.start else "started from random weights"
    kept = (
        f" On EuroSAT RGB at 10 m the target was not the loss but what the weights {trained.kept[:12]} do there, at a "
        f"weight of {config.keep:g} (learning without forgetting)."
        if trained.kept
        else ""
    )
    return (
        f"Masked autoencoder on images: {counts}. EuroSAT is top-of-atmosphere reflectance (L1C, Europe), scenes and "
        f"Antwerp are surface reflectance (L2A). {target}, {config.steps} steps of {config.batch} chips of 64 px or "
        f"twice as many of 32 px, at 10 and 20 m, {RGB_SHARE:.0%} of them EuroSAT RGB, the others random sets of ten "
        f"bands; flips, quarter turns, zoom, gain, gamma, haze and noise. AdamW with a peak learning rate of "
        f"{config.learning_rate:g}, seed {config.seed}, {began}, on "
        f"{'a GPU' if pick_device().type == 'cuda' else 'the CPU'}.{kept} Never seen: {len(held.rgb)} RGB "
        f"chips, {len(held.chips)} chips of all bands, the scenes "
        f"{', '.join(held.scenes.keys)}; the figures are theirs."
        + (f" Trainings before this one: {'; '.join(trained.before)}." if trained.before else "")
    )


def _in_short(trained: TrainedModel) -> str:
    """One training in a list of several."""
    config = trained.training
    began = f"from weights {trained.start[:12]}" if trained.start else "from random weights"
    kept = f", kept at a weight of {config.keep:g}" if trained.kept else ""
    return f"{config.steps} steps {began} at {config.learning_rate:g}, seed {config.seed}{kept}"


def finish(
    trained: TrainedModel,
    held: HeldOut,
    reports: tuple[SizeReport, ...],
    out: Path,
    *,
    compare_with: Path | None = None,
    told: tuple[str, Sequence[str]] | None = None,
) -> EncoderCard:
    """Export a trained network with the pooling that its evaluation favours, figures on the card.

    Args:
        trained: The network.
        held: Imagery that it never saw.
        reports: Evaluation on the RGB chips of that.
        out: Folder to write to.
        compare_with: Folder of another run, whose figures go on the card as `other`.
        told: How the weights came about, and their trainings in short, first to last; None tells of `trained`'s.

    Raises:
        WeightsError: If the other run's card cannot be read.
    """
    training, trainings = told or (_training_sentences(trained, held), [*trained.before, _in_short(trained)])
    figures: dict[str, Any] = {
        "loss": loss_definition(trained.model.config),
        "held_out": len(held.rgb),
        "held_out_chips": list(held.chips.keys),
        "held_out_scenes": list(held.scenes.keys),
        "images": trained.counts,
        "trainings": list(trainings),
        "pooling": best_pooling(reports),
        "partial_r_classes": round(added(reports), 4),
        "reports": plain_figures(reports),
        "multispectral": evaluate_multispectral(trained, held),
    }
    if compare_with is not None:
        other = read_card_file(compare_with / CARD_FILE)["figures"]
        figures["other"] = {key: value for key, value in other.items() if key != "other"}
    return export_compact(trained, out, name=NAME, pooling=best_pooling(reports), training=training, figures=figures)


def load_exported(folder: str | Path) -> TrainedModel:
    """A network as `pretrain` wrote it, to evaluate or train on from.

    Raises:
        WeightsError: If card or weights are missing, damaged or do not belong together.
    """
    folder = Path(folder)
    content = read_card_file(folder / CARD_FILE)
    card = parse_card(content["card"])
    check_sha256(folder / card.weights, card.weights_sha256)
    try:
        model = CompactMAE(CompactConfig.from_dict(content["network"]))
        model.load_state_dict(load_file(folder / card.weights), strict=True)
    except (KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"{folder / card.weights} does not fit the network on its card ({error}). Export the encoder anew."
        ) from error
    return TrainedModel(model.eval(), card.mean, card.std, TrainingConfig(steps=1), {})
