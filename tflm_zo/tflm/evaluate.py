# SPDX-License-Identifier: Apache-2.0
"""Outputs of a plain ``.tflite`` in TFLM."""

from __future__ import annotations

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, shape_of
from tflm_zo.model.quantization import quantization_of
from tflm_zo.model.samples import input_codes
from tflm_zo.tflm.interpreter import Interpreter


def predict_plain(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...), as the model stores them (int8 codes)."""
    tree = load_model(model)
    graph = tree.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ZoError("the model must have one input and one output")
    tensor = graph.tensors[graph.inputs[0]]
    interpreter = Interpreter(model)
    codes = input_codes(x, shape_of(tensor), quantization_of(tensor))
    return np.concatenate([interpreter.run(sample) for sample in codes])
