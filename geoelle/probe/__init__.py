"""The probe: ridge from an encoder's embedding to that encoder's own pretraining loss."""

from geoelle.probe.fitting import MAX_STORED, MIN_BLOCKS, fit_probe, held_out_difficulty
from geoelle.probe.meta import ProbeMeta
from geoelle.probe.probe import Probe, ProbeScores
from geoelle.probe.ridge import (
    DEFAULT_ALPHAS,
    CrossValidation,
    RidgePath,
    atoms_from_folds,
    cross_validate,
    fit_ridge,
    out_of_fold,
)
from geoelle.probe.statistics import (
    Metrics,
    Moments,
    RidgeStatistics,
    held_out_metrics,
    held_out_moments,
    merge_all,
    merge_moments,
)

__all__ = (
    "DEFAULT_ALPHAS",
    "MAX_STORED",
    "MIN_BLOCKS",
    "CrossValidation",
    "Metrics",
    "Moments",
    "Probe",
    "ProbeMeta",
    "ProbeScores",
    "RidgePath",
    "RidgeStatistics",
    "atoms_from_folds",
    "cross_validate",
    "fit_probe",
    "fit_ridge",
    "held_out_difficulty",
    "held_out_metrics",
    "held_out_moments",
    "merge_all",
    "merge_moments",
    "out_of_fold",
)
