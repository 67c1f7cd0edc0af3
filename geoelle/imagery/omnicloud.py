"""OmniCloudMask (Wright et al. 2025), an optional network for cloud and shadow: `geoelle[clouds]`.

It takes red, green and near infrared at 10 to 50 m and looks at a pixel's surroundings, so that a pixel's mask depends
on the tile it is read in. Its weights come from its authors' hub on first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoelle.errors import ConfigError, ImageryError
from geoelle.imagery.masks import SkyMasks

NEEDED = ("red", "green", "nir")
_MIN_GSD_M, _MAX_GSD_M = 10.0, 50.0
_MIN_PX = 50
"""Smaller images give the network too little to look at, as its authors say."""
_THICK_CLOUD, _THIN_CLOUD, _SHADOW = 1, 2, 3
_INSTALL = "Install it with `pip install 'geoelle[clouds]'`, or use another cloud_mask."


def check_installed() -> None:
    """Refuse to go on without the package.

    Raises:
        ConfigError: If it, or something that it needs, is missing; says what to install.
    """
    _predictor()


def predicted_masks(
    bands: Mapping[str, NDArray[np.float32]], gsd_m: float, *, models: Sequence[Any] | None = None
) -> SkyMasks:
    """Cloud (thick and thin) and shadow as OmniCloudMask sees them. It knows neither snow nor water.

    Args:
        bands: `NEEDED`, each (y, x) reflectance, NaN where missing.
        gsd_m: Edge of a pixel, metres.
        models: Torch modules to use in place of the published ones.

    Raises:
        ConfigError: If the package is missing.
        ImageryError: If pixels are too fine, too coarse or too few for it, or its weights cannot be had.
    """
    predict = _predictor()
    stack = np.stack([bands[name] for name in NEEDED])
    height, width = stack.shape[1:]
    if not _MIN_GSD_M <= gsd_m <= _MAX_GSD_M or min(height, width) < _MIN_PX:
        raise ImageryError(
            f"A tile of {height} × {width} pixels of {gsd_m:g} m is not for OmniCloudMask. Expected {_MIN_GSD_M:g} to "
            f"{_MAX_GSD_M:g} m and at least {_MIN_PX} × {_MIN_PX} pixels; use larger tiles or another cloud_mask."
        )
    observed = np.isfinite(stack).all(axis=0)
    stack[:, ~observed] = 0  # its "no data"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says when it makes its patches smaller to fit the tile
        try:
            found = predict(stack, custom_models=list(models) if models else None, apply_no_data_mask=False)
        except Exception as error:  # the hub, torch and the package raise many kinds
            said = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            raise ImageryError(
                f"OmniCloudMask cannot be run: {said}. Its weights are fetched from its authors' hub on first use; "
                "fetch them once with a connection, or use another cloud_mask."
            ) from error
    classes = np.asarray(found)[0]
    cloud = observed & ((classes == _THICK_CLOUD) | (classes == _THIN_CLOUD))
    shadow = observed & (classes == _SHADOW)
    return SkyMasks(observed, cloud, shadow, np.zeros_like(cloud), np.zeros_like(cloud))


def _predictor() -> Any:
    try:
        from omnicloudmask import predict_from_array
    except ImportError as error:
        raise ConfigError(f"OmniCloudMask is not installed ({error}). {_INSTALL}") from error
    return predict_from_array
