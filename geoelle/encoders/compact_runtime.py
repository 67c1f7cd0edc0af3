"""Two ways to run the compact network, one chip at a time: ONNX Runtime and torch.

One chip at a time on one thread is as fast per chip as a batch (a chip is 64 tokens: the products are large
enough), and it makes the result independent of the other chips and of the number of threads by construction.
Threads work on different chips.
"""

from __future__ import annotations

import threading
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


class Runtime(Protocol):
    """One chip in, one chip out. Safe to call from several threads."""

    def features(self, pixels: Floats) -> tuple[Floats, Floats]:
        """Normalised pixels (band, y, x) to the embedding (feature,) and the patch tokens (token, feature)."""

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

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._graphs: dict[str, str] = read_card_file(folder / "card.json").get("graphs", {})
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def _session(self, title: str) -> Any:
        name = f"{title}.onnx"
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

    def features(self, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Runtime`."""
        embedding, tokens = self._session(f"embed_{pixels.shape[-1]}").run(
            ["embedding", "tokens"], {"pixels": pixels[None]}
        )
        return embedding[0], tokens[0]

    def errors(self, pixels: Floats, visible: NDArray[np.int64]) -> Floats:
        """See `Runtime`."""
        (errors,) = self._session(f"loss_{pixels.shape[-1]}").run(
            ["errors"], {"pixels": pixels[None], "visible": visible[None]}
        )
        result: Floats = errors[0]
        return result


class TorchRuntime:
    """The network itself, with the weights loaded strictly."""

    def __init__(self, folder: Path, card: EncoderCard) -> None:
        try:
            import torch
            from safetensors.torch import load_file
        except ImportError as error:
            raise WeightsError(
                f"runtime='torch' needs torch ({error}). Install geoelle[models], or use runtime='onnx'."
            ) from error

        from geoelle.encoders.compact_model import CompactConfig, CompactMAE

        self._torch = torch
        self._pooling = card.pooling
        network = read_card_file(folder / "card.json").get("network", {})
        try:
            self._model = CompactMAE(CompactConfig.from_dict(network))
            self._model.load_state_dict(load_file(folder / card.weights), strict=True)
        except Exception as error:  # safetensors and torch raise types of their own
            raise WeightsError(
                f"{folder / card.weights} does not fit the network on the card ({error}). Install geoelle anew."
            ) from error
        self._model.eval()

    def features(self, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Runtime`."""
        with self._torch.inference_mode():
            cls, tokens = self._model.features(self._torch.from_numpy(pixels[None]))
            pooled = cls if self._pooling == "cls" else tokens.mean(dim=1)
        return pooled[0].numpy(), tokens[0].numpy()

    def errors(self, pixels: Floats, visible: NDArray[np.int64]) -> Floats:
        """See `Runtime`."""
        torch = self._torch
        with torch.inference_mode():
            errors = self._model.patch_errors(torch.from_numpy(pixels[None]), torch.from_numpy(visible[None]))
        result: Floats = errors[0].numpy()
        return result
