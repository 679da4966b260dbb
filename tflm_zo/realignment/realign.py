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

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.ends import input_end
from tflm_zo.model.file import constant, load_model, save_model, schema
from tflm_zo.model.graph import main_graph
from tflm_zo.model.layers import Layer, trainable_layers
from tflm_zo.ops.names import is_patched
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.loss_path import head_of
from tflm_zo.realignment.filters import NAME as FILTER
from tflm_zo.realignment.filters import NO_FILTER, add_filter
from tflm_zo.realignment.sample_normalization import (
    add_sample_normalization,
    normalize_codes,
    take_sample_normalization,
)
from tflm_zo.simulator.model import SimModel

CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# Largest factor by which a channel's spread is changed. Only channels that carry noise alone would get a larger one.
_LARGEST_FACTOR = 16.0
_MOST_SAMPLES = 1000
_CHUNK = 50  # samples whose accumulators are held at a time

# Mean and standard deviation of the accumulators of a layer's channels, bias included, real units, float64 (channels,).
Statistics = tuple[np.ndarray, np.ndarray]


def realign(model: bytes, reference: np.ndarray, x: np.ndarray, filter_name: str = NO_FILTER) -> bytes:
    """Return ``model`` with the channels of its convolutions, on ``x``, as they are in ``model`` on ``reference``.

    ``model``: a full int8 ``.tflite``, not patched. ``reference`` (n, ...): samples from before the drift, such as the
    representative data of the conversion. ``x`` (m, ...): samples after it; at most 1000 of each are used. Both float
    in the model's units or int8 codes; no labels. ``filter_name``: a filter to put in front, one of
    :data:`tflm_zo.realignment.filters.FILTERS`, or "none".

    Layer by layer, the mean m and standard deviation s of a channel's accumulators on ``x``, in real units, become
    M and S, those on ``reference``: weight scale and bias are changed from w and b to w S/s and (b - m) S/s + M. The
    int8 weights stay what they are. Raises :class:`ZoError` if the model has no such layer or is patched, or takes no
    images that the filter could be for.
    """
    return Realigner(model, reference, x).run(filter_name)


class Realigner:
    """The statistics of a model on samples from before a drift, and how to get them back on samples after it.

    For several filters in turn; arguments and errors are those of :func:`realign`.
    """

    def __init__(self, model: bytes, reference: np.ndarray, x: np.ndarray) -> None:
        tree = load_model(model)
        if is_patched(tree):
            raise ZoError("the model is patched already: realign the original model, then patch it")
        # The operators that normalize samples stay as they are, and the simulator does not know them: they are taken
        # out here and put back at the end.
        self._normalization = take_sample_normalization(tree)
        self._model = model if self._normalization is None else save_model(tree)
        layers = layers_to_realign(tree)
        source = input_end(main_graph(tree))
        self.input_shape = source.shape
        original = SimModel(self._model)
        self._input = original.inputs[0]

        def codes(samples: np.ndarray) -> np.ndarray:
            taken = source.codes(samples)
            taken = original.codes(np.ascontiguousarray(taken[:_MOST_SAMPLES, 0]))
            return taken if self._normalization is None else normalize_codes(taken, self._normalization)

        self.after = codes(x)
        walk = _Walk({self._input: codes(reference)})
        self._wanted = [walk.statistics(original, layer) for layer in layers]

    def run(self, filter_name: str = NO_FILTER, change: Callable[[Any], None] | None = None) -> bytes:
        """Return the realigned model, with the filter in front, if any.

        ``change``: edits the model's tree before that, such as by an adapter in front.
        """
        tree = load_model(self._model)
        if change is not None:
            change(tree)
        if filter_name != NO_FILTER:
            add_filter(tree, filter_name, int(np.rint(self.after.mean())))
        walk = _Walk({self._input: self.after})
        current = SimModel(save_model(tree))
        for layer, wanted in zip(_convolutions(tree), self._wanted, strict=True):
            _set_statistics(tree, layer, wanted, walk.statistics(current, layer))
            current = SimModel(save_model(tree))
        if self._normalization is not None:
            add_sample_normalization(tree, self._normalization)
        return save_model(tree)


class _Walk:
    """Samples on their way through a model, whose layers ahead may still change."""

    def __init__(self, tensors: dict[int, np.ndarray]) -> None:
        """tensors: the model's input, int8 (n, ...), by its index."""
        self._tensors = tensors
        self._next = 0

    def statistics(self, model: SimModel, layer: Layer) -> Statistics:
        """Go to before ``layer``, and return its statistics."""
        index = model.layer_of(layer.output)
        if index > self._next:
            ahead = set(model.needed(index))
            made = [sim.output for sim in model.layers[self._next : index] if sim.output in ahead]
            moved = model.run_layers(self._next, index, self._tensors, made).tensors
            self._tensors = {i: v for i, v in {**self._tensors, **moved}.items() if i in ahead}
            self._next = index
        return _statistics(model, index, self._tensors)


def layers_to_realign(tree: Any) -> list[Layer]:
    """Return the layers of a model that are realigned. Raises :class:`ZoError` if there are none, or a filter is."""
    layers = _convolutions(tree)
    if not layers:
        raise ZoError("the model has no convolution to realign; train it with `tflm-zo patch` and `train` alone")
    if any(layer.name == FILTER for layer in trainable_layers(tree)):
        raise ZoError("the model has been realigned with a filter: realign the original model")
    return layers


def _convolutions(tree: Any) -> list[Layer]:
    """The layers that are realigned: convolutions that share neither weights nor bias; no layer in front, no head.

    A convolution that is the head is a fully connected layer in all but name: its outputs are logits, no features.
    """
    layers = trainable_layers(tree)
    uses = [index for layer in layers for index in {layer.weights, layer.bias} - {-1}]
    alone = [layer for layer in layers if uses.count(layer.weights) == 1 and uses.count(layer.bias) <= 1]
    head = head_of(tree, layers)
    convolutions = [layer for layer in alone if layer.kind in CONVOLUTIONS and layer is not head]
    return [layer for layer in convolutions if layer.name not in (FILTER, ADAPTER)]


def _statistics(model: SimModel, index: int, tensors: Mapping[int, np.ndarray]) -> Statistics:
    """The statistics of layer ``index`` from the tensors that it reads."""
    sim = model.layers[index]
    assert sim.weight_scales is not None
    read = {i: tensors[i] for i in model.needed(index, index + 1)}
    scale = model.tensors[sim.inputs[0]].scale * sim.weight_scales.astype(np.float64)
    channels = model.tensors[sim.output].sample_shape[-1]
    total, squares = np.zeros(channels), np.zeros(channels)
    count = 0
    for start in range(0, len(tensors[sim.inputs[0]]), _CHUNK):
        part = {i: values[start : start + _CHUNK] for i, values in read.items()}
        run = model.run_layers(index, index + 1, part, accumulators=index)
        assert run.accumulators is not None
        values = run.accumulators.reshape(-1, channels) * scale
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
        count += len(values)
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))


def _set_statistics(tree: Any, layer: Layer, wanted: Statistics, found: Statistics) -> None:
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
    weights.quantizedDimension = layer.channel_axis
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
