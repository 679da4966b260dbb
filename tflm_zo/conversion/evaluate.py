# SPDX-License-Identifier: Apache-2.0
"""Outputs and scores of a plain ``.tflite``: in TFLM where its wheel is, else in the simulator, to the same bits."""

from __future__ import annotations

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, shape_of
from tflm_zo.model.quantization import Quantization, dequantize, quantization_of
from tflm_zo.model.samples import class_indices, input_codes
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm import wheel
from tflm_zo.tflm.evaluate import predict_plain


def predict_codes(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...), as the model stores them (int8 codes).

    Raises :class:`ZoError` if neither TFLM, where it is, nor the simulator can run the model.
    """
    if wheel.available():
        return predict_plain(model, x)
    simulated = SimModel(model)
    graph = load_model(model).subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ZoError("the model must have one input and one output")
    tensor = graph.tensors[graph.inputs[0]]
    codes = input_codes(x, shape_of(tensor), quantization_of(tensor))
    # The samples' own shape is without the batch dimension, which is 1.
    outputs = simulated.run(simulated.codes(codes.reshape(len(codes), *shape_of(tensor)[1:])))
    return simulated.reals(outputs)


def predict_values(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...) as float32, in the output's real units."""
    outputs, quantization = predict_codes(model, x), _output_quantization(model)
    return outputs if quantization is None else dequantize(outputs, quantization)


def evaluate_plain(model: bytes, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Return ``accuracy`` for class indices ``y`` (n,), or ``mean_squared_error`` for vectors (n, ...)."""
    values = predict_values(model, x)
    y = np.asarray(y)
    if y.ndim == 0 or len(y) != len(values):
        raise ZoError(f"y has shape {y.shape}, but x has {len(values)} samples: give one label a sample")
    flat = values.reshape(len(values), -1)
    if y.ndim == 1 or (y.ndim == 2 and y.shape[1] == 1 and flat.shape[1] > 1):
        # One output unit is a probability of class 1.
        classes = flat.argmax(axis=1) if flat.shape[1] > 1 else (flat[:, 0] > 0.5).astype(int)
        return {"accuracy": float(np.mean(classes == class_indices(y, max(flat.shape[1], 2))))}
    target = y.reshape(len(y), -1).astype(np.float64)
    if target.shape != flat.shape:
        raise ZoError(f"y has {target.shape[1]} values a sample, the model's output {flat.shape[1]}")
    quantization = _output_quantization(model)
    if y.dtype == np.int8 and quantization is not None:
        target = dequantize(y.reshape(len(y), -1), quantization).astype(np.float64)
    return {"mean_squared_error": float(np.mean((flat - target) ** 2))}


def _output_quantization(model: bytes) -> Quantization | None:
    graph = load_model(model).subgraphs[0]
    return quantization_of(graph.tensors[graph.outputs[0]])
