"""The whole of pretraining: read, hold out, train, evaluate, export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from safetensors.torch import load_file

from geoelle.encoders.cards import CARD_FILE, parse_card, read_card_file
from geoelle.encoders.compact_model import CompactConfig, CompactMAE
from geoelle.encoders.compact_runtime import check_sha256
from geoelle.errors import ConfigError, WeightsError
from geoelle.records import EncoderCard
from geoelle.training.data import read_eurosat, split_holdout
from geoelle.training.evaluation import SizeReport, added, best_pooling, evaluate
from geoelle.training.export import export_compact, loss_definition
from geoelle.training.loop import (
    OnStep,
    TrainedModel,
    TrainingConfig,
    pick_device,
    read_checkpoint,
    steps_within,
    train,
)
from geoelle.training.tables import plain_figures

CHECKPOINT_FILE = "checkpoint.pt"
DEFAULT_MINUTES = 15.0
NAME = "compact-rgb"


@dataclass(frozen=True, slots=True)
class PretrainOptions:
    """What to train on, for how long, and where to write. At most one of steps, epochs, minutes."""

    data: Path
    out: Path
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    seed: int = 0
    resume: bool = False
    held_out_per_class: int = 200
    shape: CompactConfig = field(default_factory=CompactConfig)
    compare_with: Path | None = None
    """Folder of another run, whose figures then stand beside this one's on the card."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What pretraining gave."""

    card: EncoderCard
    reports: tuple[SizeReport, ...]
    """On the held-out chips."""
    seconds: float
    """Spent in training, this time."""


def _training_config(options: PretrainOptions, n_chips: int, timed: int | None) -> TrainingConfig:
    config = TrainingConfig(steps=1, seed=options.seed)
    if options.steps is not None:
        steps = options.steps
    elif options.epochs is not None:
        steps = round(options.epochs * n_chips / config.batch)
    else:
        steps = timed or 0
    if steps < 1:
        raise ConfigError(f"Training for {steps} steps was asked for. Expected at least 1. Ask for more.")
    return TrainingConfig(steps=steps, seed=options.seed)


def pretrain(options: PretrainOptions, on_step: OnStep | None = None) -> Outcome:
    """Train, evaluate on held-out chips, and write checkpoint, weights, graphs and card into `options.out`.

    Args:
        options: What and where.
        on_step: Called after every step, e.g. to move a progress bar.

    Raises:
        ConfigError: If the length of the training is given twice or is nothing, or a checkpoint is of another run.
        NotFoundError: If the data are not there.
        SchemaError: If the data are not as expected.
        WeightsError: If a checkpoint is damaged.
    """
    if sum(length is not None for length in (options.steps, options.epochs, options.minutes)) > 1:
        raise ConfigError("The length of training was given twice. Expected one of steps, epochs, minutes. Drop one.")
    chips, held_out = split_holdout(read_eurosat(options.data), options.held_out_per_class)
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = options.out / CHECKPOINT_FILE
    timed: int | None = None
    if options.steps is None and options.epochs is None:
        if options.resume and checkpoint.exists():
            # How many steps fit in the minutes was settled when the run began.
            timed = int(read_checkpoint(checkpoint)["identity"]["training"]["steps"])
        else:
            minutes = DEFAULT_MINUTES if options.minutes is None else options.minutes
            timed = steps_within(minutes, chips, options.shape, TrainingConfig(steps=1, seed=options.seed))
    config = _training_config(options, len(chips), timed)
    start = perf_counter()
    trained = train(chips, options.shape, config, checkpoint=checkpoint, resume=options.resume, on_step=on_step)
    seconds = perf_counter() - start
    reports = evaluate(trained, held_out)
    card = finish(trained, len(held_out), reports, options.out, compare_with=options.compare_with)
    return Outcome(card, reports, seconds)


def finish(
    trained: TrainedModel,
    n_held_out: int,
    reports: tuple[SizeReport, ...],
    out: Path,
    *,
    compare_with: Path | None = None,
) -> EncoderCard:
    """Export a trained network with the pooling that its evaluation favours, figures on the card.

    Args:
        trained: The network.
        n_held_out: Chips that it never saw.
        reports: Evaluation on those.
        out: Folder to write to.
        compare_with: Folder of another run, whose figures go on the card as `other`.

    Raises:
        WeightsError: If the other run's card cannot be read.
    """
    config, shape = trained.training, trained.model.config
    target = "patch targets standardised within each patch" if shape.norm_pix else "plain patch targets"
    training = (
        f"Masked autoencoder on {trained.n_chips} EuroSAT RGB chips (top-of-atmosphere reflectance, Europe, 10 m), "
        f"{target}, {config.steps} steps of {config.batch} chips "
        f"({config.steps * config.batch / trained.n_chips:.0f} epochs), at random "
        f"{' or '.join(str(size) for size in shape.chip_sizes_px)} px crops with flips, quarter turns and zoom, AdamW "
        f"with a peak learning rate of {config.learning_rate:g}, seed {config.seed}, on "
        f"{'a GPU' if pick_device().type == 'cuda' else 'the CPU'}. {n_held_out} chips, the same number of each class, "
        "were never seen in training; the figures are theirs."
    )
    figures: dict[str, Any] = {
        "loss": loss_definition(shape),
        "held_out": n_held_out,
        "pooling": best_pooling(reports),
        "partial_r_classes": round(added(reports), 4),
        "reports": plain_figures(reports),
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
    return TrainedModel(model.eval(), card.mean, card.std, TrainingConfig(steps=1), 0)
