"""Writing a trained encoder: weights once, as safetensors, and ONNX graphs that point into that file.

A graph per purpose and chip size with its own copy of the weights would be several times the size of the
weights; instead every parameter is ONNX external data, at its offset in the safetensors file.
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
from geoelle.encoders.compact_model import CompactConfig, CompactMAE
from geoelle.errors import WeightsError
from geoelle.provenance import file_sha256
from geoelle.records import EncoderCard
from geoelle.sensors import SENTINEL_2_L2A
from geoelle.training.data import FULL_SCALE_REFLECTANCE
from geoelle.training.loop import TrainedModel

WEIGHTS_FILE = "model.safetensors"
OPSET = 18

LICENCE = "Apache-2.0 (weights); training data: EuroSAT, MIT, and Copernicus Sentinel data, free and open"
SOURCE = (
    "Trained for geoelle from EuroSAT RGB (Helber et al. 2018, 2019; github.com/phelber/EuroSAT, MIT licence). "
    "Contains modified Copernicus Sentinel data [2015-2017]."
)
NOT_GOOD_FOR = (
    "Snow, cloud, bright sand and other surfaces past a reflectance of 0.275, where pixels are clipped; anything but "
    "Sentinel-2-like RGB at 10 m; land unlike Europe's. It was trained on top-of-atmosphere reflectance (L1C), whose "
    "haze surface reflectance (L2A) lacks, so levels of loss shift between the two. It is no land-cover classifier."
)


class _Features(nn.Module):  # type: ignore[misc]
    def __init__(self, model: CompactMAE, pooling: str) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        cls, tokens = self.model.features(pixels)
        return (cls if self.pooling == "cls" else tokens.mean(dim=1)), tokens


class _Errors(nn.Module):  # type: ignore[misc]
    def __init__(self, model: CompactMAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, visible: Tensor) -> Tensor:
        return self.model.patch_errors(pixels, visible)


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


def _graph(wrapper: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str]) -> onnx.ModelProto:
    batch = torch.export.Dim("chip")
    with warnings.catch_warnings():
        # The exporter warns about its own internals; what counts is checked on the result.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            wrapper.eval(),
            inputs,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in inputs),
            opset_version=OPSET,
        )
    proto: onnx.ModelProto = program.model_proto
    return proto


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
    """The loss of a network of this shape, in one sentence."""
    target = (
        "pixels standardised over all bands and pixels of each patch (squared standard deviations of the patch)"
        if config.norm_pix
        else "pixels standardised per band over the training set (squared standard deviations of the training set)"
    )
    return (
        f"Mean over the hidden patches ({config.mask_ratio:.0%} of all) of the mean squared error between decoded "
        f"and true {target}."
    )


def compact_card(trained: TrainedModel, *, name: str, pooling: str, training: str, sha256: str) -> EncoderCard:
    """The card of a trained compact encoder."""
    config = trained.model.config
    bands = ("red", "green", "blue")
    return EncoderCard(
        name=name,
        sensor=SENTINEL_2_L2A.name,
        bands=bands,
        wavelength_um=tuple(SENTINEL_2_L2A.band(b).wavelength_um for b in bands),
        units="reflectance",
        scale=1 / FULL_SCALE_REFLECTANCE,
        clip=(0.0, FULL_SCALE_REFLECTANCE),
        mean=trained.mean,
        std=trained.std,
        gsd_m=10.0,
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
        The card as written.

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
    graphs: dict[str, str] = {}
    for size in model.config.chip_sizes_px:
        n_tokens = model.config.n_tokens(size)
        n_visible = n_tokens - int(model.config.mask_ratio * n_tokens)
        # Two chips in the example: a batch of one would be taken for a constant.
        pixels = torch.zeros(2, model.config.n_bands, size, size)
        visible = torch.arange(n_visible).expand(2, -1).contiguous()
        for title, proto in (
            (f"embed_{size}", _graph(_Features(model, pooling), (pixels,), ["pixels"], ["embedding", "tokens"])),
            (f"loss_{size}", _graph(_Errors(model), (pixels, visible), ["pixels", "visible"], ["errors"])),
        ):
            _point_at_weights(proto, state, positions)
            _without_traces(proto)
            path = folder / f"{title}.onnx"
            path.write_bytes(proto.SerializeToString(deterministic=True))
            onnx.checker.check_model(str(path))
            graphs[path.name] = file_sha256(path)
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    card = compact_card(trained, name=name, pooling=pooling, training=training, sha256=sha256)
    write_card_file(folder / CARD_FILE, card, network=model.config.as_dict(), graphs=graphs, figures=figures)
    return card
