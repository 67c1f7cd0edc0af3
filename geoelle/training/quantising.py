"""The embedding graph with weights of 8 bits, for computers on board: self-contained, a quarter of the size.

Only the products within the transformer's blocks are quantised, which hold nearly all weights: weights to 8 bits per
output channel, once; activations to 8 bits per chip, as they come (dynamic quantisation), so no calibration set is
needed and chips still do not see each other. What makes the weights of a band from its wavelength stays in 32 bits.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

MIN_WEIGHTS = 20_000
"""Smaller matrices stay in 32 bits: they save nothing."""


def quantise(proto: onnx.ModelProto, path: Path) -> None:
    """Write the graph with weights of 8 bits, everything in one file.

    Args:
        proto: The embedding graph with its own copy of the weights.
        path: File to write.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, folded = Path(folder) / "plain.onnx", Path(folder) / "folded.onnx"
        plain.write_bytes(proto.SerializeToString(deterministic=True))
        options = onnxruntime.SessionOptions()
        # Transposed copies of weights are folded, so that products see constants.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
        quantize_dynamic(
            folded,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=_large_products(onnx.load(str(folded))),
            per_channel=True,
            # 7 of the 8 bits: without VNNI an x86 adds pairs of products in 16 bits, which full 8 bits overflow.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def _large_products(proto: onnx.ModelProto) -> list[str]:
    """Names of the products with a constant matrix as second factor that is worth it."""
    sizes = {}
    for tensor in proto.graph.initializer:
        n = 1
        for length in tensor.dims:
            n *= length
        sizes[tensor.name] = n
    bases = {name for name in sizes if name.endswith("bases")}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type == "MatMul" and node.input[1] not in bases and sizes.get(node.input[1], 0) >= MIN_WEIGHTS
    ]
