# SPDX-License-Identifier: Apache-2.0
"""Bring the statistics of every convolution back to what they were before a drift; no labels, forward passes only.

A drift of the input (fog, low contrast, sensor noise) moves mean and spread of each channel of each layer away from
what the following layers were trained for. Re-estimating them on unlabelled samples is known from batch
normalization (Li et al., "Revisiting batch normalization for practical domain adaptation", 2016; Schneider et al.,
"Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020). In an int8 model
that normalization is folded into the convolutions, but each channel has a scale of its own: with another weight
scale and another bias the same int8 weights give any mean and spread, and no precision is lost.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.layers import Layer, quantization_of, trainable_layers
from tflm_zo.model_file import constant, load_model, save_model, schema, shape_of
from tflm_zo.samples import input_codes
from tflm_zo.simulator.model import SimModel
from tflm_zo.training_ops import is_patched

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# A channel's spread is changed by no more than this factor: beyond it there is noise only.
_LARGEST_FACTOR = 16.0
_MOST_SAMPLES = 1000
_CHUNK = 50  # samples whose accumulators are held at a time


def realign(model: bytes, reference: np.ndarray, x: np.ndarray) -> bytes:
    """Return ``model`` with the channels of its convolutions, on ``x``, as they are in ``model`` on ``reference``.

    ``model``: a full int8 ``.tflite``, not patched. ``reference`` (n, ...): samples from before the drift, such as the
    representative data of the conversion. ``x`` (m, ...): samples after it; at most 1000 of each are used. Both float
    in the model's units or int8 codes; no labels.

    Layer by layer, the mean m and standard deviation s of a channel's accumulators on ``x``, in real units, become
    M and S, those on ``reference``: weight scale and bias are changed from w and b to w S/s and (b - m) S/s + M. The
    int8 weights stay what they are. Raises :class:`ZoError` if the model has no such layer or is patched.
    """
    tree = load_model(model)
    if is_patched(tree):
        raise ZoError("the model is patched already: realign the original model, then patch it")
    layers = [layer for layer in _alone(trainable_layers(tree)) if layer.kind in CONVOLUTIONS]
    if not layers:
        raise ZoError("the model has no convolution to realign; train it with `tflm-zo patch` and `train` alone")
    graph = tree.subgraphs[0]
    source = graph.tensors[graph.inputs[0]]

    def codes(samples: np.ndarray) -> np.ndarray:
        taken = input_codes(samples, shape_of(source), quantization_of(source))
        return np.ascontiguousarray(taken[:_MOST_SAMPLES, 0])

    before, after = codes(reference), codes(x)
    original = SimModel(model)
    current = SimModel(model)
    for layer in layers:
        wanted = _statistics(original, layer, before)
        found = _statistics(current, layer, after)
        _set_statistics(tree, layer, wanted, found)
        current = SimModel(save_model(tree))
    return save_model(tree)


def _alone(layers: list[Layer]) -> list[Layer]:
    """The layers that share neither weights nor bias with another one."""
    uses = [index for layer in layers for index in {layer.weights, layer.bias} - {-1}]
    return [layer for layer in layers if uses.count(layer.weights) == 1 and uses.count(layer.bias) <= 1]


def _statistics(model: SimModel, layer: Layer, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of a layer's accumulators, bias included, real units, float64 (channels,)."""
    index = next(sim.index for sim in model.layers if sim.output == layer.output)
    sim = model.layers[index]
    assert sim.weight_scales is not None
    scale = model.tensors[sim.inputs[0]].scale * sim.weight_scales.astype(np.float64)
    total = np.zeros(layer.outputs)
    squares = np.zeros(layer.outputs)
    count = 0
    for start in range(0, len(x), _CHUNK):
        run = model.run_layers(0, index + 1, {model.inputs[0]: x[start : start + _CHUNK]}, accumulators=index)
        assert run.accumulators is not None
        values = run.accumulators.reshape(-1, layer.outputs) * scale
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
        count += len(values)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))


def _set_statistics(
    tree: Any, layer: Layer, wanted: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray]
) -> None:
    """Change a layer's weight scales and bias so that its statistics are ``wanted`` where they were ``found``."""
    graph = tree.subgraphs[0]
    (mean, spread), (found_mean, found_spread) = wanted, found
    alive = (spread > 0) & (found_spread > 0)
    factor = np.ones(layer.outputs)
    factor[alive] = np.clip(spread[alive] / found_spread[alive], 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)

    old_scales = layer.accumulator_scales * np.ones(layer.outputs)
    bias = np.zeros(layer.outputs) if layer.bias < 0 else _bias_codes(tree, layer) * old_scales
    weights = graph.tensors[layer.weights].quantization
    weights.scale = (layer.weight_scales * factor).astype(np.float32)
    weights.zeroPoint = np.zeros(layer.outputs, dtype=np.int64)
    weights.quantizedDimension = 3 if layer.kind == "DEPTHWISE_CONV_2D" else 0
    scales = layer.input_quantization.scale * weights.scale.astype(np.float64)
    new_bias = np.rint(((bias - found_mean) * factor + mean) / scales)
    _set_bias(tree, layer, np.clip(new_bias, -(2**31) + 1, 2**31 - 1).astype(np.int32), scales)


def _bias_codes(tree: Any, layer: Layer) -> np.ndarray:
    values = constant(tree, tree.subgraphs[0].tensors[layer.bias], np.int32)
    assert values is not None  # else it would not be a layer that can be trained
    return values.astype(np.float64)


def _set_bias(tree: Any, layer: Layer, codes: np.ndarray, scales: np.ndarray) -> None:
    graph = tree.subgraphs[0]
    operator = graph.operators[layer.operator_index]
    tensor = schema.TensorT() if layer.bias < 0 else graph.tensors[layer.bias]
    if layer.bias < 0:
        tensor.name = f"{layer.name}/bias".encode()
        tensor.type = schema.TensorType.INT32
        tensor.shape = np.array([layer.outputs], dtype=np.int32)
        operator.inputs = np.array([layer.input, layer.weights, len(graph.tensors)], dtype=np.int32)
        graph.tensors.append(tensor)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(codes.astype("<i4").tobytes(), dtype=np.uint8)
    tensor.buffer = len(tree.buffers)
    tree.buffers.append(buffer)
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale = scales.astype(np.float32)
    tensor.quantization.zeroPoint = np.zeros(layer.outputs, dtype=np.int64)
