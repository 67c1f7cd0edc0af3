"""Starting from earlier weights: of this version, or of the first one, which knew red, green and blue alone.

Of the first version, blocks, norms and decoder are taken as they are. The weights of its three bands become three of
the bases, and the mixtures are set so that red, green and blue give each its own, whatever else the new bands learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from geoelle.encoders.cards import CARD_FILE, read_card, read_card_file
from geoelle.encoders.compact_model import CompactConfig, CompactMAE
from geoelle.encoders.compact_runtime import check_sha256
from geoelle.encoders.compact_wavelength_model import BandWeights
from geoelle.errors import WeightsError
from geoelle.provenance import seed_from
from geoelle.training.batches import Stock, wavelengths_of
from geoelle.training.sources import BANDS, RGB

_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class StartWeights:
    """Weights of the first version, with the normalisation they were trained under."""

    tensors: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float
    sha256: str

    def apply(self, model: CompactMAE, stock: Stock) -> None:
        """Set a network's weights so that on red, green and blue it does what the first version did.

        Raises:
            WeightsError: If the networks differ in width or depth.
        """
        width, values = model.config.width, model.config.patch_px**2
        own = model.state_dict()
        same = [key for key in self.tensors if key in own and not key.startswith(("embed.", "to_pixels."))]
        for key in same:
            if own[key].shape != self.tensors[key].shape:
                raise WeightsError(
                    f"{key} has shape {tuple(self.tensors[key].shape)}. Expected {tuple(own[key].shape)}."
                )
            own[key].copy_(self.tensors[key])
        missing = [k for k in own if k not in same and not k.startswith(("embed", "to_pixels"))]
        if missing:
            raise WeightsError(f"The weights to start from lack {missing}. Expected a network of the same depth.")
        order = [BANDS.index(band) for band in RGB]
        mean, std = torch.tensor(stock.mean)[order], torch.tensor(stock.std)[order]
        # x1 = a x2 + b takes a pixel from this normalisation to the one of the first version.
        a = std * self.scale / torch.tensor(self.std)
        b = (mean * self.scale - torch.tensor(self.mean)) / torch.tensor(self.std)
        embed = self.tensors["embed.weight"].reshape(width, values, len(RGB)).permute(2, 1, 0)  # band, value, width
        _set_bands(model.embed, embed * a[:, None, None] * len(RGB))
        with torch.no_grad():
            model.embed_bias.weight.zero_()
            model.embed_bias.bias.copy_(self.tensors["embed.bias"] + torch.einsum("bvw,b->w", embed, b))
        decode = self.tensors["to_pixels.weight"].reshape(values, len(RGB), -1).permute(1, 2, 0)
        bias = self.tensors["to_pixels.bias"].reshape(values, len(RGB)).T[:, None]
        _set_bands(model.to_pixels, torch.cat([decode, bias], dim=1))


@dataclass(frozen=True, slots=True)
class WholeStart:
    """Weights of this version, all bands: what an earlier training ended with."""

    tensors: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str
    trainings: tuple[str, ...] = ()
    """Those that they came from, first to last, in a few words each."""

    def apply(self, model: CompactMAE, stock: Stock) -> None:
        """Set a network's weights.

        Raises:
            WeightsError: If the networks differ, or their pixels were normalised in another way.
        """
        if (self.mean, self.std) != (stock.mean, stock.std):
            raise WeightsError(
                f"The weights to start from belong to pixels of mean {self.mean} and spread {self.std}. Expected "
                f"{stock.mean} and {stock.std}, those of the imagery. Start from weights of the same imagery."
            )
        try:
            model.load_state_dict(self.tensors, strict=True)
        except RuntimeError as error:
            raise WeightsError(f"The weights to start from do not fit the network ({error}).") from error


def started(shape: CompactConfig, seed: int, start: StartWeights | WholeStart | None, stock: Stock) -> CompactMAE:
    """The network that training begins with."""
    torch.manual_seed(seed_from(seed, "init") % 2**63)
    model = CompactMAE(shape)
    if start is not None:
        start.apply(model, stock)
    return model


def blended(first: CompactMAE, last: CompactMAE, share: float) -> CompactMAE:
    """A network between the one that training began with and the one it ended with, parameter by parameter.

    What was learnt anew is kept in part, and what was known is hardly forgotten (Wortsman et al. 2022, "Robust
    fine-tuning of zero-shot models", doi:10.1109/CVPR52688.2022.00780).

    Args:
        first: What training began with.
        last: What it ended with.
        share: Of the last in the sum, 0 to 1.
    """
    begun, ended = first.state_dict(), last.state_dict()
    model = CompactMAE(last.config)
    model.load_state_dict({key: (1 - share) * begun[key].cpu() + share * ended[key].cpu() for key in ended})
    model.eval()
    return model


def _set_bands(weights: BandWeights, rgb: Tensor) -> None:
    """Make the weights of red, green and blue those given; other bands get their mean and some of every free basis."""
    lambdas = wavelengths_of(BANDS)
    n_rgb = len(RGB)
    with torch.no_grad():
        weights.bases[:n_rgb] = rgb.flatten(1)
        weights.bases[n_rgb:] *= 0.3
        hidden = weights.hidden(lambdas)
        wanted = torch.randn(len(BANDS), len(weights.bases))
        wanted[:, :n_rgb] = 1 / n_rgb
        for i, band in enumerate(RGB):
            row = wanted[BANDS.index(band)]
            row.zero_()
            row[i] = 1.0
        hidden = torch.cat([hidden, torch.ones(len(BANDS), 1)], dim=1).double()
        gram = hidden @ hidden.T + _RIDGE * torch.eye(len(BANDS), dtype=torch.float64)
        solution = hidden.T @ torch.linalg.solve(gram, wanted.double())
        weights.mixture.weight.copy_(solution[:-1].T)
        weights.mixture.bias.copy_(solution[-1])


def read_start(folder: str | Path) -> StartWeights | WholeStart:
    """Weights and normalisation of a folder: of the first version's, or of a training of this one.

    Raises:
        WeightsError: If card or weights are missing or damaged, or are of neither.
    """
    folder = Path(folder)
    card = read_card(folder / CARD_FILE)
    check_sha256(folder / card.weights, card.weights_sha256)
    tensors = load_file(folder / card.weights)
    if card.bands == RGB and "embed.weight" in tensors:
        return StartWeights(tensors, card.mean, card.std, card.scale, card.weights_sha256)
    trainings = read_card_file(folder / CARD_FILE).get("figures", {}).get("trainings", ())
    if card.bands == BANDS and "embed.bases" in tensors:
        return WholeStart(tensors, card.mean, card.std, card.weights_sha256, tuple(trainings))
    raise WeightsError(
        f"{folder} holds no encoder of {RGB} (the first version) nor of all ten bands. Expected one of them."
    )
