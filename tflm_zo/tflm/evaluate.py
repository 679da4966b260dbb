# SPDX-License-Identifier: Apache-2.0
"""Outputs of a plain ``.tflite`` in TFLM."""

from __future__ import annotations

import numpy as np

from tflm_zo.model.ends import single_ends
from tflm_zo.model.file import load_model
from tflm_zo.tflm.interpreter import Interpreter


def predict_plain(model: bytes, x: np.ndarray) -> np.ndarray:
    """Return the outputs (n, ...) of a plain model for ``x`` (n, ...), as the model stores them (int8 or uint8
    codes, or float32)."""
    source, _ = single_ends(load_model(model))
    codes = source.codes(x)
    interpreter = Interpreter(model)
    return np.concatenate([interpreter.run(sample) for sample in codes])
