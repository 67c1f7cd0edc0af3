"""Training of the compact encoder: data, loop, evaluation, export.

Importing this package does not import torch; what it offers does, when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoelle.encoders.compact_model import CompactConfig
    from geoelle.training.data import read_eurosat, split_holdout
    from geoelle.training.evaluation import evaluate
    from geoelle.training.export import export_compact
    from geoelle.training.loop import StepReport, TrainingConfig, train
    from geoelle.training.multispectral import evaluate_multispectral, multispectral_table
    from geoelle.training.pretraining import Outcome, PretrainOptions, load_exported, pretrain
    from geoelle.training.stock import StockPaths, read_stock
    from geoelle.training.tables import table

_HOME = {
    "CompactConfig": "geoelle.encoders.compact_model",
    "Outcome": "geoelle.training.pretraining",
    "PretrainOptions": "geoelle.training.pretraining",
    "StepReport": "geoelle.training.loop",
    "StockPaths": "geoelle.training.stock",
    "TrainingConfig": "geoelle.training.loop",
    "evaluate": "geoelle.training.evaluation",
    "evaluate_multispectral": "geoelle.training.multispectral",
    "export_compact": "geoelle.training.export",
    "load_exported": "geoelle.training.pretraining",
    "multispectral_table": "geoelle.training.multispectral",
    "pretrain": "geoelle.training.pretraining",
    "read_eurosat": "geoelle.training.data",
    "read_stock": "geoelle.training.stock",
    "split_holdout": "geoelle.training.data",
    "table": "geoelle.training.tables",
    "train": "geoelle.training.loop",
}

__all__ = (
    "CompactConfig",
    "Outcome",
    "PretrainOptions",
    "StepReport",
    "StockPaths",
    "TrainingConfig",
    "evaluate",
    "evaluate_multispectral",
    "export_compact",
    "load_exported",
    "multispectral_table",
    "pretrain",
    "read_eurosat",
    "read_stock",
    "split_holdout",
    "table",
    "train",
)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
