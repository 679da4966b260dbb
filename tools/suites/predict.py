# SPDX-License-Identifier: Apache-2.0
"""Outputs and scores of plain models: in the simulator where it knows all operators, else in TFLite Micro."""

from __future__ import annotations

import numpy as np

from tflm_zo.conversion.evaluate import predict_values
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model
from tflm_zo.model.quantization import Quantization, dequantize, quantization_of
from tflm_zo.simulator.model import SimModel
from tflm_zo.training.sim_trainer import SimTrainer
from tflm_zo.training.trainer import Trainer


def predict(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return outputs (n, ...) float32, in real units, of a plain ``model`` for ``x`` (n, ...), codes or float."""
    if x.dtype == np.int8:
        try:
            simulated = SimModel(model)
        except ZoError:
            pass
        else:
            graph = load_model(model).subgraphs[0]
            quantization = quantization_of(graph.tensors[int(graph.outputs[0])])
            shape = simulated.tensors[simulated.inputs[0]].sample_shape
            assert quantization is not None
            return dequantize(simulated.run(np.ascontiguousarray(x.reshape(len(x), *shape))), quantization)
    return predict_values(model, x)


def trainer(patched: bytes, seed: int) -> Trainer:
    """The simulator's trainer if it knows all operators, else TFLite Micro's; the weights would be the same."""
    try:
        return SimTrainer(patched, seed=seed)
    except ZoError:
        return Trainer(patched, seed=seed)


def right(outputs: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which samples (n,) are put in their class ``y`` by outputs (n, ...); one output is a probability of class 1."""
    flat = outputs.reshape(len(outputs), -1)
    classes = flat.argmax(axis=1) if flat.shape[1] > 1 else (flat[:, 0] > 0.5).astype(int)
    return np.asarray(classes == y)


def input_form(model: bytes) -> tuple[Quantization, bool]:
    """Quantization of the input, and whether it is float: then that of what the first operator makes of it."""
    graph = load_model(model).subgraphs[0]
    source = quantization_of(graph.tensors[int(graph.inputs[0])])
    if source is not None:
        return source, False
    source = quantization_of(graph.tensors[int(graph.operators[0].outputs[0])])
    assert source is not None
    return source, True
