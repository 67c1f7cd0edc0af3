"""Writing a trained encoder: weights once, as safetensors, and ONNX graphs that point into that file.

Graphs with copies of their own would double the size of the weights; instead every parameter is ONNX external data,
at its offset in the safetensors file. Only the graph with weights of 8 bits stands alone.
"""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from geoelle.encoders.cards import CARD_FILE, write_card_file
from geoelle.encoders.compact_cards import INT8
from geoelle.encoders.compact_model import CompactConfig, CompactMAE
from geoelle.encoders.compact_runtime import EMBED_GRAPH, LOSS_GRAPH
from geoelle.errors import WeightsError
from geoelle.provenance import file_sha256
from geoelle.records import EncoderCard
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.training.loop import TrainedModel
from geoelle.training.quantising import quantise
from geoelle.training.sources import BANDS, CLIP

WEIGHTS_FILE = "model.safetensors"
INT8_FILE = "embed.int8.onnx"
OPSET = 18

LICENCE = "Apache-2.0 (weights); training data: EuroSAT, MIT, and Copernicus Sentinel data, free and open"
SOURCE = (
    "Trained for geoelle from EuroSAT RGB and MS (Helber et al. 2018, 2019; github.com/phelber/EuroSAT, MIT licence), "
    "scenes that come with SatCLIP (Klemmer et al. 2025; github.com/microsoft/satclip, MIT licence) and a series of "
    "openEO GFMap (Apache-2.0). Contains modified Copernicus Sentinel data [2015-2017, 2021-2023]."
)
NOT_GOOD_FOR = (
    "Anything but Sentinel-2-like reflectance at 10 or 20 m; snow and cloud past a reflectance of 1, where pixels are "
    "clipped. Beyond red, green and blue it saw ten scenes and fifty chips, so levels of loss are rough there and land "
    "unlike those is new to it; single bands are the weakest. It was trained on a mixture of top-of-atmosphere (L1C) "
    "and surface reflectance (L2A): levels of loss shift between the two. It is no land-cover classifier."
)


class _Embed(nn.Module):  # type: ignore[misc]
    """Class token, patch tokens, and the outputs of all blocks in front of the last norm."""

    def __init__(self, model: CompactMAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *blocks, last = self.model.layers(pixels, wavelengths, gsd_m)
        return last[:, 0], last[:, 1:], torch.stack(blocks, dim=1)


class _Errors(nn.Module):  # type: ignore[misc]
    def __init__(self, model: CompactMAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, wavelengths: Tensor, gsd_m: Tensor, visible: Tensor) -> Tensor:
        return self.model.patch_errors(pixels, wavelengths, gsd_m, visible)


def tensor_positions(path: str | Path) -> dict[str, tuple[int, int]]:
    """Offset from the start of a safetensors file, and length, of every tensor in it, in bytes."""
    with Path(path).open("rb") as stream:
        header_length = int.from_bytes(stream.read(8), "little")
        header: dict[str, Any] = json.loads(stream.read(header_length))
    start = 8 + header_length
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _graph(wrapper: nn.Module, inputs: dict[str, Tensor], outputs: list[str], patch_px: int) -> onnx.ModelProto:
    chip, band, row, seen = (torch.export.Dim(name) for name in ("chip", "band", "row", "seen"))
    axes = {
        "pixels": {0: chip, 1: band, 2: patch_px * row, 3: patch_px * row},
        "wavelengths": {0: band},
        "gsd_m": {},
        "visible": {0: chip, 1: seen},
    }
    with warnings.catch_warnings():
        # The exporter warns about its own internals; what counts is checked on the result.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            wrapper.eval(),
            tuple(inputs.values()),
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(axes[name] for name in inputs),
            opset_version=OPSET,
        )
    proto: onnx.ModelProto = program.model_proto
    return proto


def graphs(model: CompactMAE) -> dict[str, onnx.ModelProto]:
    """The two graphs of a network by file name, each with its own copy of the weights."""
    size = max(model.config.chip_sizes_px)
    n_tokens = model.config.n_tokens(size)
    n_visible = n_tokens - int(model.config.mask_ratio * n_tokens)
    # Several chips and bands in the example: one of either would be taken for a constant.
    inputs = {
        "pixels": torch.zeros(2, 3, size, size),
        "wavelengths": torch.tensor([0.5, 0.6, 0.7]),
        "gsd_m": torch.tensor(10.0),
    }
    visible = torch.arange(n_visible).expand(2, -1).contiguous()
    return {
        EMBED_GRAPH: _graph(_Embed(model), inputs, ["cls", "tokens", "layers"], model.config.patch_px),
        LOSS_GRAPH: _graph(_Errors(model), {**inputs, "visible": visible}, ["errors"], model.config.patch_px),
    }


def _point_at_weights(proto: onnx.ModelProto, state: dict[str, Tensor], positions: dict[str, tuple[int, int]]) -> None:
    """Replace the graph's copies of parameters by references into the weights file."""
    for initializer in proto.graph.initializer:
        name = initializer.name.removeprefix("model.")
        if name not in state:
            continue
        expected = state[name].numpy()
        if not np.array_equal(onnx.numpy_helper.to_array(initializer), expected):
            raise WeightsError(
                f"The exporter changed the parameter {name}. Expected it untouched. Export with another torch version."
            )
        offset, length = positions[name]
        initializer.ClearField("raw_data")
        initializer.ClearField("float_data")
        initializer.data_location = onnx.TensorProto.EXTERNAL
        del initializer.external_data[:]
        for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(length))):
            entry = initializer.external_data.add()
            entry.key, entry.value = key, value


def _without_traces(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes on Python files and versions: large, and different on every machine."""
    del proto.metadata_props[:]
    proto.graph.doc_string = ""
    for holder in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del holder.metadata_props[:]
        holder.doc_string = ""
    for initializer in proto.graph.initializer:
        del initializer.metadata_props[:]
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]


def loss_definition(config: CompactConfig) -> str:
    """The loss of a network of this shape, with its unit."""
    target, unit = (
        ("pixels, standardised over all bands present and all pixels of each patch", "variances of the patch")
        if config.norm_pix
        else ("pixels, standardised per band over the training set", "variances of the training set")
    )
    return (
        f"Mean over the hidden patches ({config.mask_ratio:.0%} of all) of the mean squared error between decoded "
        f"and true {target}. Unit: {unit}."
    )


def base_card(trained: TrainedModel, *, name: str, pooling: str, training: str, sha256: str) -> EncoderCard:
    """The card of a trained compact encoder with all of its bands; cards of subsets are cut from it."""
    config = trained.model.config
    return EncoderCard(
        name=name,
        sensor=SENTINEL_2_L2A.name,
        bands=BANDS,
        wavelength_um=tuple(SENTINEL_2_L2A.band(b).wavelength_um for b in BANDS),
        units="reflectance",
        scale=1.0,
        clip=CLIP,
        mean=trained.mean,
        std=trained.std,
        gsd_m=config.gsd_m,
        chip_sizes_px=config.chip_sizes_px,
        patch_px=config.patch_px,
        n_features=config.width,
        pooling=pooling,
        n_steps=(1,),
        needs_time=False,
        needs_lonlat=False,
        mask_ratio=config.mask_ratio,
        loss_definition=loss_definition(config),
        loss_kind="own",
        licence=LICENCE,
        source=SOURCE,
        weights=WEIGHTS_FILE,
        weights_sha256=sha256,
        not_good_for=NOT_GOOD_FOR,
        training=training,
        n_parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        n_layers=config.depth,
        trained_gsd_m=(10.0, 20.0),
        validated=True,
    )


def export_compact(
    trained: TrainedModel, folder: str | Path, *, name: str, pooling: str, training: str, figures: object
) -> EncoderCard:
    """Write weights, graphs and card of a trained encoder into `folder`.

    Args:
        trained: The network.
        folder: Where to write; files of the same names are replaced.
        name: The encoder's name.
        pooling: `cls` or `mean`.
        training: What it was trained on and how, in a few sentences.
        figures: Evaluation on held-out chips, plain JSON values.

    Returns:
        The card as written, of all bands.

    Raises:
        WeightsError: If the exporter altered a parameter.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(trained.model).cpu().float().eval()
    state = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors writes for the owner alone; a package is read by anyone
    positions = tensor_positions(folder / WEIGHTS_FILE)
    digests: dict[str, str] = {}
    for title, proto in graphs(model).items():
        _without_traces(proto)
        if title == EMBED_GRAPH:
            quantise(proto, folder / INT8_FILE)
            digests[INT8_FILE] = file_sha256(folder / INT8_FILE)
        _point_at_weights(proto, state, positions)
        path = folder / title
        path.write_bytes(proto.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(path))
        digests[path.name] = file_sha256(path)
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    card = base_card(trained, name=name, pooling=pooling, training=training, sha256=sha256)
    write_card_file(
        folder / CARD_FILE,
        card,
        network=model.config.as_dict(),
        graphs=digests,
        figures=figures,
        more={INT8: {"weights": INT8_FILE, "sha256": digests[INT8_FILE]}},
    )
    return card
