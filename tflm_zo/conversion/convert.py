# SPDX-License-Identifier: Apache-2.0
"""Keras model to fully int8 ``.tflite``; TensorFlow is imported only when a function here is called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tflm_zo.conversion.converter_process import convert_graphs, freeze
from tflm_zo.conversion.diagnosis import find_unquantized, layer_of, phrase
from tflm_zo.conversion.keras_files import load_keras
from tflm_zo.conversion.keras_support import as_samples, import_tensorflow, input_shape, quiet
from tflm_zo.conversion.remedies import LOOP_REMEDY, remedy
from tflm_zo.errors import ZoError, warn_of_data
from tflm_zo.model.labels import constant_notes

# Calibration of one layer alone only has to run, not to give good scales.
_ISOLATION_SAMPLES = 8


def convert(keras_model: Any, representative_data: ArrayLike | Iterable[ArrayLike]) -> bytes:
    """Convert a Keras model to a fully int8 ``.tflite`` with int8 input and output.

    Weights of convolutions get one scale per output channel; those of fully connected layers one
    per tensor, because TFLM releases still found on boards know no other. The batch dimension of
    the result is 1, other open dimensions get the size they have in ``representative_data``.

    Args:
        keras_model: a built ``keras.Model`` with one float input and one output, or the path of a
            ``.keras`` or ``.h5`` file (files written by Keras 2 included) or of a SavedModel directory. Recurrent
            layers are unrolled over the time steps of the samples, and what computes in float16 computes in float32.
        representative_data: float array ``(n, ...)`` or an iterable of ``n >= 1`` samples of shape
            ``(...)``, in the units the model is fed; they set the ranges of the activations.

    Raises:
        ZoError: TensorFlow is missing; the model or the data does not fit; or something in the
            model cannot become int8 or does not run in TFLM: the message names the Keras layer.
    """
    tf, keras = import_tensorflow()
    model = load_keras(keras_model)
    expected = input_shape(model)
    samples = as_samples("representative_data", representative_data, expected, model.name)
    warn_of_data(constant_notes(samples, "representative_data"))
    graph = freeze(tf, model, [samples.shape[1:]], model.name)
    content, failure = convert_graphs([(graph, [samples])])[0]
    failure = failure or find_unquantized(content)
    if failure is None:
        return content
    layer = layer_of(model, failure.names, graph.scopes, graph.origin) or _isolate(tf, keras, model, samples)
    if layer is None:
        layer = f"model '{model.name}'"
    message = f"{layer} cannot become int8: {failure.reason}"
    raise ZoError(f"{message}; {LOOP_REMEDY if graph.loops else remedy(message)}")


def _isolate(tf: Any, keras: Any, model: Any, samples: NDArray[np.float32], outer: str = "") -> str | None:
    """Convert each operation of a functional or sequential model alone; name the first that fails.

    Needed where the failure tells no place, as a crash does. None if no operation fails alone, or
    if the model is subclassed and so has no graph to take apart. ``outer`` is the path of ``model``.
    """
    graph_model = getattr(model, "_functional", None) or model
    by_depth = getattr(graph_model, "_nodes_by_depth", {})
    jobs = []
    tried = []
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if isinstance(node.operation, keras.layers.InputLayer):
                continue
            sources = list(node.input_tensors)
            try:
                with quiet():
                    before = keras.Model(graph_model.inputs, sources)
                    values = before(samples[:_ISOLATION_SAMPLES], training=False)
                    alone = keras.Model(sources, node.output_tensors)
                arrays = [
                    np.asarray(value, dtype=np.float32)
                    for value in (values if isinstance(values, (list, tuple)) else [values])
                ]
                shapes = [array.shape[1:] for array in arrays]
                graph = freeze(tf, alone, shapes, node.operation.name)
            except Exception:  # It does not convert alone; another layer may be the cause.
                continue
            jobs.append((graph, arrays))
            tried.append(node.operation)
    results = convert_graphs(jobs) if jobs else []
    # The converter stops at the first operation that fails: those after it have no result.
    for operation, (_, arrays), (content, failure) in zip(tried, jobs, results, strict=False):
        if failure is not None or find_unquantized(content) is not None:
            inner = None
            name = outer + operation.name
            if isinstance(operation, keras.Model):
                inner = _isolate(tf, keras, operation, arrays[0], name + "/")
            return inner or phrase(name, operation)
    return None
