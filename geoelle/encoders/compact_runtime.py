"""Two ways to run the compact network, one chip at a time: ONNX Runtime and torch.

One chip at a time on one thread is as fast per chip as a batch (a chip is 64 tokens: the products are large
enough), and it makes the result independent of the other chips and of the number of threads by construction.
Threads work on different chips.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from geoelle.encoders.cards import read_card_file
from geoelle.errors import WeightsError
from geoelle.provenance import file_sha256
from geoelle.records import EncoderCard

RuntimeName = Literal["onnx", "torch"]

Floats = NDArray[np.float32]

EMBED_GRAPH = "embed.onnx"
LOSS_GRAPH = "loss.onnx"


@dataclass(frozen=True, slots=True)
class Where:
    """What the network is told of pixels beside their values."""

    wavelengths: Floats
    """(band,), micrometres."""
    gsd_m: Floats
    """(), metres."""


class Runtime(Protocol):
    """One chip in, one chip out, normalised pixels (band, y, x). Safe to call from several threads.

    A layer is the index of a block, whose output is given as it is; None is the output of the last norm.
    """

    def cls(self, pixels: Floats, layer: int | None) -> Floats:
        """The class token, (feature,)."""

    def tokens(self, pixels: Floats, layer: int | None) -> Floats:
        """The patch tokens, (token, feature)."""

    def errors(self, pixels: Floats, visible: NDArray[np.int64]) -> Floats:
        """Normalised pixels and ascending visible tokens to the squared error of every patch (token,)."""


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file that is not the one the card speaks of.

    Raises:
        WeightsError: If it is missing or its sha256 differs.
    """
    if not path.is_file():
        raise WeightsError(f"There is no file {path}. Expected it beside the card. Install geoelle anew.")
    found = file_sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path} has sha256 {found[:12]}…. The card says {expected[:12]}…: the file is damaged or of another "
            "model. Install geoelle anew."
        )


class OnnxRuntime:
    """The exported graphs; a session per graph, opened when first needed."""

    def __init__(self, folder: Path, where: Where, *, embed: str = EMBED_GRAPH) -> None:
        self._folder = folder
        self._embed = embed
        self._where = {"wavelengths": where.wavelengths, "gsd_m": where.gsd_m}
        self._graphs: dict[str, str] = read_card_file(folder / "card.json").get("graphs", {})
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def _session(self, name: str) -> Any:
        with self._lock:
            if name not in self._sessions:
                import onnxruntime

                if name not in self._graphs:
                    raise WeightsError(f"The card in {self._folder} lists no graph {name}. Install geoelle anew.")
                check_sha256(self._folder / name, self._graphs[name])
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = 1
                options.inter_op_num_threads = 1
                options.log_severity_level = 3
                try:
                    self._sessions[name] = onnxruntime.InferenceSession(
                        str(self._folder / name), options, providers=["CPUExecutionProvider"]
                    )
                except Exception as error:  # onnxruntime's own types derive from Exception alone
                    raise WeightsError(f"{name} cannot be loaded ({error}). Install geoelle anew.") from error
            return self._sessions[name]

    def _run(self, graph: str, output: str, **inputs: NDArray[Any]) -> Floats:
        (found,) = self._session(graph).run([output], {**inputs, **self._where})
        result: Floats = found[0]
        return result

    def cls(self, pixels: Floats, layer: int | None) -> Floats:
        """See `Runtime`."""
        if layer is None:
            return self._run(self._embed, "cls", pixels=pixels[None])
        result: Floats = self._run(self._embed, "layers", pixels=pixels[None])[layer, 0]
        return result

    def tokens(self, pixels: Floats, layer: int | None) -> Floats:
        """See `Runtime`."""
        if layer is None:
            return self._run(self._embed, "tokens", pixels=pixels[None])
        result: Floats = self._run(self._embed, "layers", pixels=pixels[None])[layer, 1:]
        return result

    def errors(self, pixels: Floats, visible: NDArray[np.int64]) -> Floats:
        """See `Runtime`."""
        return self._run(LOSS_GRAPH, "errors", pixels=pixels[None], visible=visible[None])


class TorchRuntime:
    """The network itself, with the weights loaded strictly."""

    def __init__(self, folder: Path, card: EncoderCard, where: Where) -> None:
        try:
            import torch
            from safetensors.torch import load_file
        except ImportError as error:
            raise WeightsError(
                f"runtime='torch' needs torch ({error}). Install geoelle[models], or use runtime='onnx'."
            ) from error

        from geoelle.encoders.compact_model import CompactConfig, CompactMAE

        self._torch = torch
        self._where = (torch.from_numpy(where.wavelengths), torch.from_numpy(where.gsd_m))
        network = read_card_file(folder / "card.json").get("network", {})
        try:
            self._model = CompactMAE(CompactConfig.from_dict(network))
            self._model.load_state_dict(load_file(folder / card.weights), strict=True)
        except Exception as error:  # safetensors and torch raise types of their own
            raise WeightsError(
                f"{folder / card.weights} does not fit the network on the card ({error}). Install geoelle anew."
            ) from error
        self._model.eval()

    def _layer(self, pixels: Floats, layer: int | None) -> Floats:
        with self._torch.inference_mode():
            outputs = self._model.layers(self._torch.from_numpy(pixels[None]), *self._where)
        result: Floats = outputs[-1 if layer is None else layer][0].numpy()
        return result

    def cls(self, pixels: Floats, layer: int | None) -> Floats:
        """See `Runtime`."""
        result: Floats = self._layer(pixels, layer)[0]
        return result

    def tokens(self, pixels: Floats, layer: int | None) -> Floats:
        """See `Runtime`."""
        return self._layer(pixels, layer)[1:]

    def errors(self, pixels: Floats, visible: NDArray[np.int64]) -> Floats:
        """See `Runtime`."""
        torch = self._torch
        with torch.inference_mode():
            errors = self._model.patch_errors(
                torch.from_numpy(pixels[None]), *self._where, torch.from_numpy(visible[None])
            )
        result: Floats = errors[0].numpy()
        return result
