# SPDX-License-Identifier: Apache-2.0
"""Small full int8 models, made without TensorFlow, and a task that they can learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from tflite_micro.tensorflow.lite.python import schema_py_generated as schema

INPUT_SHAPE = (8, 8, 1)
ACTIVATION = schema.ActivationFunctionType
OPERATOR = schema.BuiltinOperator
OPTIONS = schema.BuiltinOptions
TYPE = schema.TensorType
# Real values between which a fused activation keeps a layer's output.
ACTIVATION_RANGES = {
    ACTIVATION.NONE: (-np.inf, np.inf),
    ACTIVATION.RELU: (0, np.inf),
    ACTIVATION.RELU6: (0, 6),
    ACTIVATION.RELU_N1_TO_1: (-1, 1),
}
# Codes at and near both ends of the int8 range, where saturation would show.
EXTREME_CODES = np.array([-128, -127, -126, -124, -123, -122, -64, 0, 1, 64, 122, 123, 124, 125, 127])


def small_model(
    end: str = "softmax",
    *,
    outputs: int = 3,
    bias: bool = True,
    per_channel: bool = True,
    shared: str = "",
    extreme: bool = False,
    float_ends: bool = False,
    uint8_ends: bool = False,
    seed: int = 0,
) -> bytes:
    """A convolutional model of 8x8x1 samples: conv, depthwise conv, pooling, fully connected.

    end: what follows the fully connected layer: softmax, log-softmax, logistic, tanh, relu (fused) or nothing. shared:
    two more convolutions that share their weights: one "tensor", or two tensors with one "buffer". extreme: many
    codes of weights at and near the ends of the int8 range. float_ends, uint8_ends: input and output of that type, int8
    within.
    """
    b = _Builder(INPUT_SHAPE, seed, bias=bias, per_channel=per_channel, extreme=extreme)
    if float_ends or uint8_ends:
        b.quantize(TYPE.UINT8 if uint8_ends else TYPE.FLOAT32)
    b.conv("stem", 6, _square(3, 2))
    b.depthwise("spread", _square(3))
    if shared:
        first = b.conv("first", 6, _square(1))
        b.conv("second", 6, _square(1), weights=first, share_tensor=shared == "tensor")
    b.average_pool()
    b.reshape()
    b.finish(outputs, end)
    if float_ends:
        b.dequantize()
    if uint8_ends:
        b.unsigned()
    return b.bytes()


def dense_model(
    end: str = "softmax",
    *,
    features: int = 20,
    outputs: int = 5,
    bias: bool = True,
    per_channel: bool = True,
    extreme: bool = False,
    seed: int = 0,
) -> bytes:
    """One fully connected layer: the model's input is the head's input."""
    b = _Builder((features,), seed, bias=bias, per_channel=per_channel, extreme=extreme)
    b.finish(outputs, end)
    return b.bytes()


def residual_model(*, hidden: int = 0, seed: int = 0) -> bytes:
    """Two residual blocks of two convolutions each ("a1", "b1"; "a2", "b2"), pooling, and fully connected layers:
    "hidden", if it has outputs, and the head."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    b.conv("stem", 6, _square(3, 2))
    for block in "12":
        before = b.mark()
        b.conv(f"a{block}", 6, _square(3))
        b.conv(f"b{block}", 6, _square(1))
        b.add(f"sum{block}", before)
    b.average_pool()
    b.reshape()
    if hidden:
        b.dense("hidden", hidden, activation="RELU")
    b.finish(3, "softmax")
    return b.bytes()


def layer_model(
    kind: str,
    input_shape: tuple[int, ...],
    outputs: int,
    *,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding: str = "SAME",
    activation: str = "RELU",
    margin: float = 0.0,
    pool: tuple[int, int] = (1, 1),
    bias: bool = True,
    per_channel: bool = True,
    extreme: bool = False,
    seed: int = 0,
) -> bytes:
    """One layer, "probe", of any geometry, average pooling over windows ``pool`` and a head of three classes.

    kind: "conv", "depthwise" (``outputs`` is a multiple of the input's channels) or "dense". Inputs are larger than
    those of the other models, so that RELU6 has something to cut off at both ends. margin: codes left free beyond the
    output's range, as a fraction of it; negative ones cut off what the activation does not.
    """
    b = _Builder(input_shape, seed, bias=bias, per_channel=per_channel, extreme=extreme, reach=3.0, margin=margin)
    if kind == "dense":
        b.dense("probe", outputs, activation=activation)
    else:
        window = _Window(kernel, stride, dilation, padding)
        if kind == "conv":
            b.conv("probe", outputs, window, activation=activation)
        else:
            b.depthwise("probe", window, multiplier=outputs // input_shape[-1], activation=activation)
        if pool != (1, 1):
            b.average_pool(pool)
    if len(input_shape) > 1:
        b.reshape()
    b.finish(3, "softmax")
    return b.bytes()


def stack_model(widths: Sequence[int], *, pool: int = 2, seed: int = 0) -> bytes:
    """Convolutions "conv0", "conv1", ... with so many outputs, average pooling of windows of side ``pool`` (1, 2 or 4),
    and a head, "dense", of three classes."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    for number, width in enumerate(widths):
        b.conv(f"conv{number}", width, _square(3, 2 if number == 0 else 1))
    if pool > 1:
        b.average_pool((pool, pool))
    b.reshape()
    b.finish(3, "softmax")
    return b.bytes()


def head_model(
    head: str,
    *,
    behind: Sequence[str] = (),
    end: str = "softmax",
    last: Sequence[str] = (),
    activation: str = "NONE",
    outputs: int = 3,
    bias: bool = True,
    per_channel: bool = True,
    seed: int = 0,
) -> bytes:
    """A convolution, "stem", and a head, "top", of any form.

    head: "point" (a convolution of one pixel, the average of all), "map" (a convolution whose kernel is the whole map),
    "everywhere" (at each pixel: no head in closed form), "dense". behind, last: what stands between the head and the
    ``end`` (softmax, logistic, ""), and after that: "reshape" (flat), "image", "squeeze", "expand".
    """
    b = _Builder(INPUT_SHAPE, seed, bias=bias, per_channel=per_channel, extreme=False)
    b.conv("stem", 6, _square(3, 2))
    if head == "map":
        b.conv("top", outputs, _Window((4, 4), (1, 1), (1, 1), "VALID"), activation=activation)
    elif head == "dense":
        b.reshape()
        b.dense("top", outputs, activation=activation)
    else:
        if head == "point":
            b.average_pool((4, 4))
        b.conv("top", outputs, _square(1), activation=activation)
    b.reshapes(behind)
    {"softmax": b.softmax, "logistic": b.logistic}.get(end, lambda: None)()
    b.reshapes(last)
    return b.bytes()


def renamed(model: bytes, names: dict[str, str]) -> bytes:
    """The model with other names for some of its tensors."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    for tensor in tree.subgraphs[0].tensors:
        tensor.name = names.get(tensor.name.decode(), tensor.name.decode())
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def closed_sum_model(*, seed: int = 0) -> bytes:
    """A convolution, "probe", without an activation, whose output is added to its input before pooling and head."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    b.conv("stem", 6, _square(3, 2))
    before = b.mark()
    b.conv("probe", 6, _square(3), activation="NONE")
    b.add("sum", before)
    b.average_pool()
    b.reshape()
    b.finish(3, "softmax")
    return b.bytes()


def mean_model(*, keep_dims: bool = False, finer: float = 1.0, seed: int = 0) -> bytes:
    """Two convolutions, "stem" and "probe", the mean over the image (Keras' GlobalAveragePooling2D), and a
    head. ``finer``: how many steps of the mean's output make one of its input."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    b.conv("stem", 6, _square(3, 2))
    b.conv("probe", 5, _square(3))
    b.mean(keep_dims, finer)
    if keep_dims:
        b.reshape()
    b.finish(3, "softmax")
    return b.bytes()


def sequence_model(end: str = "softmax", *, seed: int = 0) -> bytes:
    """Sequences of 12 x 4, as Keras' Normalization, ZeroPadding1D, Conv1D ("first", "second") and Flatten of an open
    batch size convert: MUL and SUB of constants, EXPAND_DIMS, PAD, SQUEEZE, SHAPE, STRIDED_SLICE, PACK."""
    b = _Builder((12, 4), seed, bias=True, per_channel=True, extreme=False)
    b.scale_channels("gain")
    b.shift_channels("mean")
    for name, window in (("first", _Window((1, 3), padding="VALID")), ("second", _Window((1, 3), (1, 2), (1, 2)))):
        b.pad([(0, 0), (1, 1), (0, 0)])
        b.expand_dims(1)
        b.conv(name, 6, window)
        b.squeeze(1)
    b.flatten()
    b.finish(1 if end == "logistic" else 3, end)
    return b.bytes()


def gated_model(*, seed: int = 0) -> bytes:
    """Squeeze and excitation: the output of "stem" times a gate for each channel, from its own mean ("gate")."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    b.conv("stem", 6, _square(3, 2))
    open_gate = b.mark()
    grid = (b.scale, b.zero_point)
    b.mean(True, 2.0)
    b.conv("gate", 6, _square(1), activation="NONE")
    b.logistic()
    b.multiply("gated", open_gate)
    b.requantize(*grid)
    b.mean(False, 2.0)
    b.finish(3, "softmax")
    return b.bytes()


def map_model(end: str = "softmax", *, classes: int = 3, seed: int = 0) -> bytes:
    """A class for each cell of a 4 x 4 map, as FOMO has it: convolutions "stem" and "probe", and "cells", 1 x 1."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    b.conv("stem", 6, _square(3, 2))
    b.conv("probe", 5, _square(3))
    b.conv("cells", 1 if end == "logistic" else classes, _square(1), activation="NONE")
    {"softmax": b.softmax, "logistic": b.logistic}.get(end, lambda: None)()
    return b.bytes()


def two_headed_model(*, seed: int = 0) -> bytes:
    """Two outputs behind one trunk ("stem"): "kind", softmax of "first" and "dense" (3 classes), and "size", what
    "other" makes (2 numbers), in the order size, kind."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    b.conv("stem", 6, _square(3, 2))
    b.average_pool()
    b.reshape()
    trunk = (b.last, b.values, b.scale, b.zero_point)
    b.dense("other", 2)
    size = b.last
    b.last, b.values, b.scale, b.zero_point = trunk
    b.dense("first", 8, activation="RELU")
    b.finish(3, "softmax")
    b.name_outputs({"size": size, "kind": b.last})
    return b.bytes()


def recurrent_model(*, state_zero_point: int = 0, seed: int = 0) -> bytes:
    """SVDF, whose state TFLM keeps from pass to pass, and a head of three classes, on vectors of 6."""
    b = _Builder((6,), seed, bias=True, per_channel=False, extreme=False)
    b.svdf(8, memory=4, state_zero_point=state_zero_point)
    b.finish(3, "softmax")
    return b.bytes()


def branches_model(*, seed: int = 0) -> bytes:
    """The channels of "stem" in three parts, two of them behind functions of their own; joined again, turned, and
    "probe" behind a third function; the largest value of each channel, and a head."""
    b = _Builder(INPUT_SHAPE, seed, bias=True, per_channel=True, extreme=False)
    b.conv("stem", 6, _square(3, 2), activation="NONE")
    grid = (b.scale, b.zero_point)
    parts = b.split(3)
    joined = parts[:1]
    for part, apply in ((parts[1], b.hard_swish), (parts[2], b.leaky_relu)):
        b.go_on(part)
        apply()
        b.requantize(*grid)
        joined.append(b.mark())
    b.concatenate(joined)
    b.transpose()
    b.conv("probe", 5, _square(3), activation="NONE")
    b.tanh()
    b.largest()
    b.finish(3, "softmax")
    return b.bytes()


def twin_dense_model(*, bias: bool) -> bytes:
    """Two fully connected layers of one shape that share one weights tensor; the second is the head."""
    b = _Builder((6,), 0, bias=bias, per_channel=False, extreme=False)
    first = b.dense("first", 6)
    b.dense("second", 6, weights=first)
    b.softmax()
    return b.bytes()


def float_model() -> bytes:
    """A float32 model of one fully connected layer."""
    b = _Builder((6,), 0, bias=True, per_channel=False, extreme=False)
    b.dense("dense", 3)
    for tensor in b.graph.tensors:
        tensor.type = TYPE.FLOAT32
        tensor.quantization = None
    b.model.buffers[1].data = np.zeros(4 * 18, dtype=np.uint8)
    return b.bytes()


def separable_samples(count: int, seed: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Noisy patterns: x float32 (count, 8, 8, 1) about -1..1, y int64 (count,)."""
    patterns = np.random.default_rng(99).choice([-0.7, 0.7], (classes, 4, 4, 1))
    patterns = patterns.repeat(2, axis=1).repeat(2, axis=2)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    x = patterns[y] + rng.normal(0, 0.25, (count, *INPUT_SHAPE))
    return x.astype(np.float32), y


@dataclass(frozen=True)
class _Window:
    """How a convolution goes over its input: (height, width) each, padding "SAME" or "VALID"."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str = "SAME"

    def set_options(self, options: Any) -> None:
        options.strideH, options.strideW = self.stride
        options.dilationHFactor, options.dilationWFactor = self.dilation
        options.padding = getattr(schema.Padding, self.padding)

    def patches(self, x: np.ndarray) -> np.ndarray:
        """Windows (n, h, w, c, *kernel) of images (n, h, w, c)."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        pads = [(0, 0)]
        for size, stride, needed in zip(x.shape[1:3], self.stride, reach, strict=True):
            total = max((-(-size // stride) - 1) * stride + needed - size, 0) if self.padding == "SAME" else 0
            pads.append((total // 2, total - total // 2))
        padded = np.pad(x, [*pads, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
        return windows[:, :: self.stride[0], :: self.stride[1], :, :: self.dilation[0], :: self.dilation[1]]


def _square(kernel: int, stride: int = 1) -> _Window:
    return _Window((kernel, kernel), (stride, stride))


class _Builder:
    """Appends layers; the float outputs for calibration samples give each activation its quantization."""

    def __init__(
        self,
        shape: tuple[int, ...],
        seed: int,
        *,
        bias: bool,
        per_channel: bool,
        extreme: bool,
        reach: float = 1.0,
        margin: float = 0.0,
    ) -> None:
        """Samples lie between -reach and reach; margin: see :func:`layer_model`."""
        self.rng = np.random.default_rng(seed)
        self.bias, self.per_channel, self.extreme, self.margin = bias, per_channel, extreme, margin
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "small test model"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.values = reach * self.rng.uniform(-1, 1, (64, *shape))
        self.scale, self.zero_point = reach * 2.2 / 255, -3
        self.last = self._tensor("input", TYPE.INT8, (1, *shape), self.scale, self.zero_point)
        self.graph.inputs = np.array([self.last], dtype=np.int32)

    def quantize(self, kind: int = TYPE.FLOAT32) -> None:
        """Puts a float or uint8 input before the int8 one."""
        inner = self.last
        quantized = (self.scale, self.zero_point + 128) if kind == TYPE.UINT8 else ()
        outer = self._tensor("real", kind, (1, *self.values.shape[1:]), *quantized)
        self.graph.inputs = np.array([outer], dtype=np.int32)
        self._operator(OPERATOR.QUANTIZE, OPTIONS.QuantizeOptions, schema.QuantizeOptionsT(), [outer], inner)

    def dequantize(self) -> None:
        outer = self._tensor("result", TYPE.FLOAT32, (1, self.values.shape[1]))
        options = schema.DequantizeOptionsT()
        self._operator(OPERATOR.DEQUANTIZE, OPTIONS.DequantizeOptions, options, [self.last], outer)

    def unsigned(self) -> None:
        """Puts a uint8 output behind the int8 one."""
        inner = self.graph.tensors[self.last]
        scale, zero_point = inner.quantization.scale, int(inner.quantization.zeroPoint[0]) + 128
        outer = self._tensor("unsigned", TYPE.UINT8, tuple(inner.shape), scale, zero_point)
        self._operator(OPERATOR.QUANTIZE, OPTIONS.QuantizeOptions, schema.QuantizeOptionsT(), [self.last], outer)

    def conv(
        self,
        name: str,
        channels: int,
        window: _Window,
        *,
        activation: str = "RELU",
        weights: tuple[int, np.ndarray] | None = None,
        share_tensor: bool = True,
    ) -> tuple[int, np.ndarray]:
        shape = (channels, *window.kernel, self.values.shape[-1])
        tensor, real = self._weights(f"{name}/Conv2D", shape, 0, weights, share_tensor)
        values = np.einsum("nhwcij,oijc->nhwo", window.patches(self.values), real)
        options = schema.Conv2DOptionsT()
        window.set_options(options)
        options.fusedActivationFunction = getattr(ACTIVATION, activation)
        self._layer(name, OPERATOR.CONV_2D, OPTIONS.Conv2DOptions, options, tensor, values)
        return tensor, real

    def depthwise(self, name: str, window: _Window, *, multiplier: int = 1, activation: str = "RELU") -> None:
        shape = (1, *window.kernel, self.values.shape[-1] * multiplier)
        tensor, real = self._weights(f"{name}/depthwise", shape, 3)
        patches = window.patches(self.values).repeat(multiplier, axis=3)
        values = np.einsum("nhwcij,ijc->nhwc", patches, real[0])
        options = schema.DepthwiseConv2DOptionsT()
        window.set_options(options)
        options.depthMultiplier = multiplier
        options.fusedActivationFunction = getattr(ACTIVATION, activation)
        kind = OPERATOR.DEPTHWISE_CONV_2D
        self._layer(name, kind, OPTIONS.DepthwiseConv2DOptions, options, tensor, values)

    def dense(
        self,
        name: str,
        outputs: int,
        *,
        activation: str = "NONE",
        weights: tuple[int, np.ndarray] | None = None,
    ) -> tuple[int, np.ndarray]:
        shape = (outputs, self.values.shape[-1])
        tensor, real = self._weights(f"{name}/MatMul", shape, 0, weights)
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = getattr(ACTIVATION, activation)
        options.keepNumDims = self.values.ndim > 2
        kind = OPERATOR.FULLY_CONNECTED
        self._layer(name, kind, OPTIONS.FullyConnectedOptions, options, tensor, self.values @ real.T)
        return tensor, real

    def mark(self) -> tuple[int, np.ndarray]:
        """The present output and its values, for :meth:`add`."""
        return self.last, self.values

    def add(self, name: str, other: tuple[int, np.ndarray]) -> None:
        tensor, values = other
        self.values = self.values + values
        inputs = [self.last, tensor]
        self.scale, self.zero_point = float(self.values.max() - min(self.values.min(), 0.0)) / 255, -128
        output = self._tensor(f"{name}/output", TYPE.INT8, (1, *values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.ADD, OPTIONS.AddOptions, schema.AddOptionsT(), inputs, output)

    def go_on(self, at: tuple[int, np.ndarray]) -> None:
        """Continue at what :meth:`mark` gave."""
        self.last, self.values = at
        quantization = self.graph.tensors[self.last].quantization
        self.scale, self.zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])

    def split(self, count: int) -> list[tuple[int, np.ndarray]]:
        """The channels in ``count`` parts."""
        axis = self._whole("axis", self.values.ndim - 1)
        parts = np.split(self.values, count, -1)
        outputs = [self._tensor("part", TYPE.INT8, (1, *p.shape[1:]), self.scale, self.zero_point) for p in parts]
        options = schema.SplitOptionsT()
        options.numSplits = count
        self._operator(OPERATOR.SPLIT, OPTIONS.SplitOptions, options, [axis, self.last], outputs)
        return list(zip(outputs, parts, strict=True))

    def concatenate(self, parts: list[tuple[int, np.ndarray]]) -> None:
        self.values = np.concatenate([values for _, values in parts], -1)
        options = schema.ConcatenationOptionsT()
        options.axis = -1
        output = self._tensor("joined", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        inputs = [tensor for tensor, _ in parts]
        self._operator(OPERATOR.CONCATENATION, OPTIONS.ConcatenationOptions, options, inputs, output)

    def transpose(self) -> None:
        """Rows and columns change places."""
        self.values = self.values.swapaxes(1, 2)
        output = self._tensor("turned", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        inputs = [self.last, self._whole("order", [0, 2, 1, 3])]
        self._operator(OPERATOR.TRANSPOSE, OPTIONS.TransposeOptions, schema.TransposeOptionsT(), inputs, output)

    def largest(self) -> None:
        """The largest value of each channel."""
        self.values = self.values.max(axis=(1, 2))
        output = self._tensor("largest", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        inputs = [self.last, self._whole("axes", [1, 2])]
        self._operator(OPERATOR.REDUCE_MAX, OPTIONS.ReducerOptions, schema.ReducerOptionsT(), inputs, output)

    def hard_swish(self) -> None:
        self.values = self.values * np.clip(self.values + 3, 0, 6) / 6
        output = self._tensor("gated", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.HARD_SWISH, OPTIONS.NONE, None, [self.last], output)

    def leaky_relu(self) -> None:
        self.values = np.where(self.values < 0, 0.2 * self.values, self.values)
        options = schema.LeakyReluOptionsT()
        options.alpha = 0.2
        output = self._tensor("leaking", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.LEAKY_RELU, OPTIONS.LeakyReluOptions, options, [self.last], output)

    def average_pool(self, window: tuple[int, int] = (2, 2)) -> None:
        n, h, w, c = self.values.shape
        high, wide = window
        self.values = self.values.reshape(n, h // high, high, w // wide, wide, c).mean(axis=(2, 4))
        options = schema.Pool2DOptionsT()
        options.strideH = options.filterHeight = high
        options.strideW = options.filterWidth = wide
        options.padding = schema.Padding.VALID
        output = self._tensor("pooled", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.AVERAGE_POOL_2D, OPTIONS.Pool2DOptions, options, [self.last], output)

    def mean(self, keep_dims: bool, finer: float) -> None:
        self.values = self.values.mean(axis=(1, 2), keepdims=keep_dims)
        axes = self._tensor("axes", TYPE.INT32, (2,), data=np.array([1, 2], dtype=np.int32))
        options = schema.ReducerOptionsT()
        options.keepDims = keep_dims
        self.scale /= finer
        output = self._tensor("mean", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.MEAN, OPTIONS.ReducerOptions, options, [self.last, axes], output)

    def scale_channels(self, name: str) -> None:
        """Multiply by one constant for each channel."""
        codes = self.rng.integers(60, 128, (self.values.shape[-1],)).astype(np.int8)
        constant = self._tensor(name, TYPE.INT8, codes.shape, 0.01, 0, data=codes)
        self.values = self.values * (codes * 0.01)
        self._elementwise(f"{name}/output", OPERATOR.MUL, OPTIONS.MulOptions, schema.MulOptionsT(), constant)

    def shift_channels(self, name: str) -> None:
        """Subtract one constant for each channel."""
        codes = self.rng.integers(-90, 90, (self.values.shape[-1],)).astype(np.int8)
        constant = self._tensor(name, TYPE.INT8, codes.shape, 0.002, 0, data=codes)
        self.values = self.values - codes * 0.002
        self._elementwise(f"{name}/output", OPERATOR.SUB, OPTIONS.SubOptions, schema.SubOptionsT(), constant)

    def multiply(self, name: str, other: tuple[int, np.ndarray]) -> None:
        tensor, values = other
        self.values = self.values * values
        self._elementwise(name, OPERATOR.MUL, OPTIONS.MulOptions, schema.MulOptionsT(), tensor)

    def requantize(self, scale: float, zero_point: int) -> None:
        self.scale, self.zero_point = scale, zero_point
        output = self._tensor("requantized", TYPE.INT8, (1, *self.values.shape[1:]), scale, zero_point)
        self._operator(OPERATOR.QUANTIZE, OPTIONS.QuantizeOptions, schema.QuantizeOptionsT(), [self.last], output)

    def pad(self, border: list[tuple[int, int]]) -> None:
        self.values = np.pad(self.values, border)
        paddings = self._whole("paddings", border)
        output = self._tensor("padded", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.PAD, OPTIONS.PadOptions, schema.PadOptionsT(), [self.last, paddings], output)

    def expand_dims(self, axis: int) -> None:
        self.values = np.expand_dims(self.values, axis)
        where = self._whole("axis", axis)
        output = self._tensor("expanded", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        options = schema.ExpandDimsOptionsT()
        self._operator(OPERATOR.EXPAND_DIMS, OPTIONS.ExpandDimsOptions, options, [self.last, where], output)

    def squeeze(self, axis: int) -> None:
        self.values = np.squeeze(self.values, axis)
        options = schema.SqueezeOptionsT()
        options.squeezeDims = [axis]
        output = self._tensor("squeezed", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.SQUEEZE, OPTIONS.SqueezeOptions, options, [self.last], output)

    def flatten(self) -> None:
        """A reshape whose shape the model computes itself, as the batch size is open."""
        source, sizes = self.last, self.values.shape
        self.values = self.values.reshape(len(self.values), -1)
        count = self.values.shape[1]
        shape = self._tensor("shape", TYPE.INT32, (len(sizes),))
        self._operator(OPERATOR.SHAPE, OPTIONS.ShapeOptions, schema.ShapeOptionsT(), [source], shape)
        slicing = schema.StridedSliceOptionsT()
        slicing.shrinkAxisMask = 1
        ends = [self._whole(name, [value]) for name, value in (("begin", 0), ("end", 1), ("step", 1))]
        batch = self._tensor("batch", TYPE.INT32, ())
        self._operator(OPERATOR.STRIDED_SLICE, OPTIONS.StridedSliceOptions, slicing, [shape, *ends], batch)
        packing = schema.PackOptionsT()
        packing.valuesCount = 2
        packed = self._tensor("packed", TYPE.INT32, (2,))
        self._operator(OPERATOR.PACK, OPTIONS.PackOptions, packing, [batch, self._whole("count", count)], packed)
        output = self._tensor("flat", TYPE.INT8, (1, count), self.scale, self.zero_point)
        options = schema.ReshapeOptionsT()
        self._operator(OPERATOR.RESHAPE, OPTIONS.ReshapeOptions, options, [source, packed], output)

    def reshape(self, shape: tuple[int, ...] = (-1,)) -> None:
        self.values = self.values.reshape(len(self.values), *shape)
        wanted = np.array([1, *self.values.shape[1:]], dtype=np.int32)
        shape_tensor = self._tensor("shape", TYPE.INT32, (len(wanted),), data=wanted)
        output = self._tensor("flat", TYPE.INT8, tuple(wanted), self.scale, self.zero_point)
        options = schema.ReshapeOptionsT()
        options.newShape = wanted
        self._operator(OPERATOR.RESHAPE, OPTIONS.ReshapeOptions, options, [self.last, shape_tensor], output)

    def reshapes(self, names: Sequence[str]) -> None:
        """Operators that change nothing but the shape: "reshape", "image", "squeeze", "expand"."""
        for name in names:
            if name in ("squeeze", "expand"):
                (self.squeeze if name == "squeeze" else self.expand_dims)(1)
            else:
                self.reshape((1, 1, -1) if name == "image" else (-1,))

    def softmax(self) -> None:
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        output = self._tensor("probabilities", TYPE.INT8, (1, *self.values.shape[1:]), 1 / 256, -128)
        self._operator(OPERATOR.SOFTMAX, OPTIONS.SoftmaxOptions, options, [self.last], output)

    def logistic(self) -> None:
        self.values = 1 / (1 + np.exp(-self.values))
        self.scale, self.zero_point = 1 / 256, -128
        output = self._tensor("probability", TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(OPERATOR.LOGISTIC, OPTIONS.NONE, None, [self.last], output)

    def tanh(self) -> None:
        self.values = np.tanh(self.values)
        self.scale, self.zero_point = 1 / 128, 0
        output = self._tensor("squashed", TYPE.INT8, (1, *self.values.shape[1:]), 1 / 128, 0)
        self._operator(OPERATOR.TANH, OPTIONS.NONE, None, [self.last], output)

    def svdf(self, units: int, *, memory: int, state_zero_point: int) -> None:
        inputs = self.values.shape[1]
        codes = self.rng.integers(-127, 128, (units, inputs)).astype(np.int8)
        times = self.rng.integers(-127, 128, (units, memory)).astype(np.int8)
        feature = self._tensor("svdf/feature", TYPE.INT8, codes.shape, 0.01, 0, data=codes)
        time = self._tensor("svdf/time", TYPE.INT8, times.shape, 0.01, 0, data=times)
        bias = self._tensor("svdf/bias", TYPE.INT32, (units,), 0.0004, 0, data=np.zeros(units, np.int32))
        state = self._tensor("svdf/state", TYPE.INT8, (1, units * memory), 0.04, state_zero_point)
        self.graph.tensors[state].isVariable = True
        self.values = np.maximum(self.values @ (codes * 0.01).T * (times[:, -1] * 0.01), 0)
        self.scale, self.zero_point = float(self.values.max()) / 200, -128
        output = self._tensor("svdf/output", TYPE.INT8, (1, units), self.scale, self.zero_point)
        options = schema.SVDFOptionsT()
        options.rank = 1
        options.fusedActivationFunction = ACTIVATION.RELU
        self._operator(OPERATOR.SVDF, OPTIONS.SVDFOptions, options, [self.last, feature, time, bias, state], output)

    def name_outputs(self, outputs: dict[str, int]) -> None:
        """Give the model these outputs, and a signature with their names."""
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex, signature.inputs, signature.outputs = "serving", 0, [], []
        for name, tensor in outputs.items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = name, tensor
            signature.outputs.append(entry)
        self.model.signatureDefs = [signature]
        self.graph.outputs = np.array(list(outputs.values()), dtype=np.int32)

    def log_softmax(self) -> None:
        """Which the simulator does not know."""
        output = self._tensor("logarithms", TYPE.INT8, (1, self.values.shape[1]), 16 / 256, 127)
        self._operator(
            OPERATOR.LOG_SOFTMAX, OPTIONS.LogSoftmaxOptions, schema.LogSoftmaxOptionsT(), [self.last], output
        )

    def finish(self, outputs: int, end: str) -> None:
        self.dense("dense", outputs, activation="RELU" if end == "relu" else "NONE")
        ends = {"softmax": self.softmax, "logistic": self.logistic, "tanh": self.tanh, "log-softmax": self.log_softmax}
        ends.get(end, lambda: None)()

    def bytes(self) -> bytes:
        if self.graph.outputs is None:
            self.graph.outputs = np.array([self.last], dtype=np.int32)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _whole(self, name: str, values: Any) -> int:
        """A constant of int32."""
        array = np.array(values, dtype=np.int32)
        return self._tensor(name, TYPE.INT32, array.shape, data=array)

    def _elementwise(self, name: str, code: int, kind: int, options: Any, other: int) -> None:
        """Appends an operator of the present output and ``other``; the values are those of its output already."""
        inputs = [self.last, other]
        low, high = min(self.values.min(), 0.0), max(self.values.max(), 1e-3)
        self.scale = float((high - low) / 255)
        self.zero_point = int(np.rint(-128 - low / self.scale))
        output = self._tensor(name, TYPE.INT8, (1, *self.values.shape[1:]), self.scale, self.zero_point)
        self._operator(code, kind, options, inputs, output)

    def _weights(
        self,
        name: str,
        shape: tuple[int, ...],
        axis: int,
        weights: tuple[int, np.ndarray] | None = None,
        share_tensor: bool = True,
    ) -> tuple[int, np.ndarray]:
        if weights is not None:
            tensor, real = weights
            if not share_tensor:
                old = self.graph.tensors[tensor]
                scales = old.quantization.scale
                tensor = self._tensor(name, TYPE.INT8, shape, scales, 0, buffer=old.buffer, axis=axis)
            return tensor, real
        channels = shape[axis]
        fan_in = int(np.prod(shape)) // channels
        real = self.rng.normal(0, np.sqrt(2 / fan_in), shape) * self.rng.uniform(0.5, 2, channels if axis else 1)
        others = tuple(i for i in range(len(shape)) if i != axis)
        largest = np.abs(real).max(axis=others, keepdims=True)
        if not self.per_channel:
            largest = np.full_like(largest, largest.max())
        codes = np.rint(real / largest * 127).astype(np.int8)
        if self.extreme:
            extreme = self.rng.choice(EXTREME_CODES, shape).astype(np.int8)
            codes = np.where(self.rng.random(shape) < 0.4, extreme, codes)
        scales = (largest / 127).reshape(-1).astype(np.float32)
        tensor = self._tensor(
            name, TYPE.INT8, shape, scales if self.per_channel else scales[0], 0, data=codes, axis=axis
        )
        return tensor, codes * (largest / 127)

    def _layer(self, name: str, code: int, kind: int, options: Any, weights: int, values: np.ndarray) -> None:
        """Adds a bias, sets the output's quantization from its values, appends the operator."""
        inputs = [self.last, weights]
        scales = np.asarray(self.graph.tensors[weights].quantization.scale) * self.scale
        if self.bias:
            real = self.rng.normal(0, 0.1, values.shape[-1]) * values.std()
            codes = np.rint(real / scales).astype(np.int32)
            inputs.append(self._tensor(f"{name}/bias", TYPE.INT32, codes.shape, scales, 0, data=codes))
            values = values + codes * scales
        elif code == OPERATOR.FULLY_CONNECTED:
            inputs.append(-1)  # as converters write it; convolutions just have one input less
        values = np.clip(values, *ACTIVATION_RANGES[options.fusedActivationFunction])
        low, high = min(values.min(), 0.0), max(values.max(), 1e-3)
        low, high = low - self.margin * (high - low), high + self.margin * (high - low)
        self.scale = float((high - low) / 255)
        self.zero_point = int(np.rint(-128 - low / self.scale))
        shape = (1, *values.shape[1:])
        output = self._tensor(f"{name}/output", TYPE.INT8, shape, self.scale, self.zero_point)
        self._operator(code, kind, options, inputs, output)
        self.values = values

    def _tensor(
        self,
        name: str,
        kind: int,
        shape: tuple[int, ...],
        scales: Any = None,
        zero_point: int = 0,
        *,
        data: np.ndarray | None = None,
        buffer: int = 0,
        axis: int = 0,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.type = name, kind
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.buffer = buffer
        if scales is not None:
            scales = np.atleast_1d(np.asarray(scales, dtype=np.float32))
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = scales
            tensor.quantization.zeroPoint = np.full(scales.shape, zero_point, dtype=np.int64)
            tensor.quantization.quantizedDimension = axis
        if data is not None:
            content = schema.BufferT()
            content.data = np.frombuffer(data.tobytes(), dtype=np.uint8)
            self.model.buffers.append(content)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _operator(self, code: int, kind: int, options: Any, inputs: list[int], output: int | list[int]) -> None:
        codes = [c.builtinCode for c in self.model.operatorCodes]
        if code not in codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode = entry.deprecatedBuiltinCode = code
            entry.version = 1
            self.model.operatorCodes.append(entry)
            codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = codes.index(code)
        operator.inputs = np.array(inputs, dtype=np.int32)
        operator.outputs = np.atleast_1d(np.array(output, dtype=np.int32))
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self.graph.operators.append(operator)
        self.last = int(operator.outputs[-1])
