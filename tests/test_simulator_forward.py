# SPDX-License-Identifier: Apache-2.0
"""The simulator's forward engine against TFLite Micro's own interpreter, bit for bit."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from operator_models import (
    ACTIVATIONS,
    Builder,
    Wheel,
    activation_code,
    assert_same,
    conv_options,
    int8,
    output_size,
    random_scales,
)
from tflite_micro.tensorflow.lite.python import schema_py_generated as schema

from tflm_zo.errors import ZoError
from tflm_zo.simulator.fixed_point import quantize_multiplier
from tflm_zo.simulator.library import INSTRUCTION_SETS
from tflm_zo.simulator.model import SimModel

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_MODELS = {
    "kws_ref_model": "kws01_dev.npz",
    "pretrainedResnet_quant": "cifar10_jpeg_dev.npz",
    "vww_96_int8": None,
    "ad01_int8": None,
    "str_ww_ref_model": None,
}


# Of another architecture: that such sets are left out is no test that is skipped.
FOREIGN = {"x86_64": {"neon"}, "aarch64": {"avx2", "avx512vnni"}}.get(platform.machine(), set())


def available() -> list[str]:
    names = []
    tiny = Builder()
    ends = [tiny.tensor((1, 4), 1.0), tiny.tensor((1, 2, 2), 1.0)]
    tiny.operator("RESHAPE", ends[:1], ends[1])
    model = tiny.build(ends[:1], ends[1:])
    for name in INSTRUCTION_SETS:
        try:
            SimModel(model, name)
        except ZoError as error:
            if "processor" not in str(error):
                raise
        else:
            names.append(name)
    return names


@pytest.fixture(params=[name for name in INSTRUCTION_SETS if name not in FOREIGN], scope="module")
def instruction_set(request: pytest.FixtureRequest) -> str:
    if request.param not in available():
        pytest.skip(f"this processor does not run {request.param}")
    return request.param


# ---- Hand-made layers -----------------------------------------------------------------------------


@dataclass
class ConvCase:
    model: bytes
    description: str
    input_shape: tuple[int, ...]


def random_conv(seed: int, depthwise: bool) -> ConvCase:
    rng = np.random.default_rng(seed)
    kernel = tuple(int(k) for k in rng.integers(1, 6, 2))
    stride = tuple(int(s) for s in rng.integers(1, 4, 2))
    dilation = tuple(int(d) for d in rng.integers(1, 4, 2)) if seed % 2 else (1, 1)
    padding = str(rng.choice(["SAME", "VALID"]))
    activation = ACTIVATIONS[seed % 4]
    effective = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = (int(e + rng.integers(0, 9)) for e in effective)
    channels = int(rng.choice([1, 2, 3, 5, 8, 15, 16, 17, 40]))
    groups = 1
    if depthwise:
        multiplier = int(rng.choice([1, 1, 2, 3]))
        outputs = channels * multiplier
        weight_shape: tuple[int, ...] = (1, *kernel, outputs)
    else:
        groups = int(rng.choice([1, 1, 2, 4])) if channels % 4 == 0 else 1
        outputs = groups * int(rng.choice([1, 2, 7, 16, 17, 33]))
        weight_shape = (outputs, *kernel, channels // groups)
    per_channel = bool(rng.integers(2))
    scales = random_scales(rng, outputs if per_channel else 1)
    input_scale = float(random_scales(rng, 1)[0])
    depth = math.prod(weight_shape) // outputs
    # Outputs should spread over the int8 range, with some saturation.
    output_scale = input_scale * float(np.median(scales)) * 74 * 74 * math.sqrt(depth) / 60
    out = [output_size(padding, *a) for a in zip((height, width), kernel, stride, dilation, strict=True)]

    b = Builder()
    x = b.tensor((1, height, width, channels), input_scale, int(rng.integers(-128, 128)))
    w = b.tensor(weight_shape, scales, axis=3 if depthwise else 0, data=int8(rng, *weight_shape))
    inputs = [x, w]
    has_bias = depthwise or bool(rng.integers(4))
    if has_bias:
        bias = rng.integers(-20000, 20000, outputs).astype(np.int32)
        inputs.append(b.tensor((outputs,), input_scale * scales, data=bias, kind=schema.TensorType.INT32))
    y = b.tensor((1, *out, outputs), output_scale, int(rng.integers(-100, 100)))
    name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    options = conv_options(depthwise, padding, stride, dilation, activation)
    if depthwise:
        options.depthMultiplier = outputs // channels
    b.operator(name, inputs, y, options, "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions")
    description = (
        f"{name} {(height, width, channels)} -> {(*out, outputs)} kernel {kernel} stride {stride} dilation "
        f"{dilation} {padding} {activation} groups {groups} bias {has_bias} per channel {per_channel}"
    )
    return ConvCase(b.build([x], [y]), description, (height, width, channels))


@pytest.mark.parametrize("depthwise", [False, True], ids=["conv", "depthwise"])
@pytest.mark.parametrize("seed", range(40))
def test_random_convolutions(seed: int, depthwise: bool, instruction_set: str) -> None:
    case = random_conv(seed, depthwise)
    print(case.description)
    x = int8(np.random.default_rng(seed + 1000), 5, *case.input_shape)
    assert_same(case.model, instruction_set, x)


def test_the_random_convolutions_cover_what_they_should() -> None:
    cases = [random_conv(seed, depthwise) for seed in range(40) for depthwise in (False, True)]
    descriptions = [case.description for case in cases]
    for part in ("SAME", "VALID", "groups 2", "groups 4", "bias False", "per channel False", *ACTIVATIONS):
        assert any(part in d for d in descriptions), part
    assert any("dilation (3, " in d and "stride (2, " in d for d in descriptions)
    rng = np.random.default_rng(0)
    values = [np.unique(SimModel(c.model).run(int8(rng, 5, *c.input_shape))).size for c in cases]
    assert np.median(values) > 50


@pytest.mark.parametrize("seed", range(12))
def test_fully_connected(seed: int, instruction_set: str) -> None:
    rng = np.random.default_rng(seed)
    rows = int(rng.choice([1, 1, 3]))
    depth, channels = int(rng.integers(1, 150)), int(rng.integers(1, 70))
    scales = random_scales(rng, channels if seed % 3 == 0 else 1)
    input_scale = float(random_scales(rng, 1)[0])
    b = Builder()
    x = b.tensor((1, rows, depth) if rows > 1 else (1, depth), input_scale, int(rng.integers(-128, 128)))
    w = b.tensor((channels, depth), scales, data=int8(rng, channels, depth))
    bias = rng.integers(-20000, 20000, channels).astype(np.int32)
    c = b.tensor((channels,), input_scale * scales, data=bias, kind=schema.TensorType.INT32)
    output_scale = input_scale * float(np.median(scales)) * 74 * 74 * math.sqrt(depth) / 60
    y = b.tensor((1, rows, channels) if rows > 1 else (1, channels), output_scale, int(rng.integers(-100, 100)))
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = activation_code(ACTIVATIONS[seed % 4])
    options.keepNumDims = rows > 1
    b.operator("FULLY_CONNECTED", [x, w, c], y, options, "FullyConnectedOptions")
    model = b.build([x], [y])
    samples = int8(rng, 7, rows, depth) if rows > 1 else int8(rng, 7, depth)
    assert_same(model, instruction_set, samples)


def bias_only_conv(biases: np.ndarray, ratios: np.ndarray) -> bytes:
    """A 1x1 convolution whose accumulators are ``biases`` and whose scale ratios are ``ratios``."""
    b = Builder()
    x = b.tensor((1, 1, 1, 4), 1.0)
    w = b.tensor((biases.size, 1, 1, 4), ratios, data=np.zeros((biases.size, 4), np.int8))
    c = b.tensor((biases.size,), ratios, data=biases.astype(np.int32), kind=schema.TensorType.INT32)
    y = b.tensor((1, 1, 1, biases.size), 1.0)
    b.operator("CONV_2D", [x, w, c], y, conv_options(False, "VALID", (1, 1), (1, 1), "NONE"), "Conv2DOptions")
    return b.build([x], [y])


def test_rescaling_of_random_accumulators(instruction_set: str) -> None:
    rng = np.random.default_rng(1)
    count = 4000
    exponents = rng.uniform(-33, 4, count)
    ratios = np.exp2(exponents).astype(np.float32)
    # Most results within int8, the rest anywhere in int32, so that saturation and wrapping count.
    accumulators = np.round(rng.uniform(-140, 140, count) / ratios.astype(np.float64))
    accumulators[::5] = rng.integers(-(2**31), 2**31, len(accumulators[::5]))
    accumulators = np.clip(accumulators, -(2**31), 2**31 - 1).astype(np.int32)
    y = assert_same(bias_only_conv(accumulators, ratios), instruction_set, np.zeros((2, 1, 1, 4), np.int8))
    assert np.unique(y).size == 256


def test_rescaling_rounds_twice(instruction_set: str) -> None:
    # Powers of two put many accumulators on a tie, where one rounding and two differ.
    accumulators = np.tile(np.arange(-300, 300), 5)
    shifts = np.repeat([1, 2, 3, 4, 5], 600)
    y = assert_same(
        bias_only_conv(accumulators, np.exp2(-shifts.astype(np.float32))),
        instruction_set,
        np.zeros((1, 1, 1, 4), np.int8),
    )
    once = np.clip((accumulators + (1 << (shifts - 1))) >> shifts, -128, 127)
    assert np.any(once != y.reshape(-1))


@pytest.mark.parametrize("name", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("seed", range(10))
def test_pooling(name: str, seed: int, instruction_set: str) -> None:
    rng = np.random.default_rng(seed)
    kernel = [int(k) for k in rng.integers(1, 6, 2)]
    stride = [int(s) for s in rng.integers(1, 4, 2)]
    padding = ["SAME", "VALID"][seed % 2]
    height, width, channels = (
        int(k + e) for k, e in zip([*kernel, 0], rng.integers([0, 0, 1], [7, 7, 40]), strict=True)
    )
    out = [output_size(padding, *a, 1) for a in zip((height, width), kernel, stride, strict=True)]
    scale, zero_point = 0.05, int(rng.integers(-128, 128))
    b = Builder()
    x = b.tensor((1, height, width, channels), scale, zero_point)
    y = b.tensor((1, *out, channels), scale, zero_point)
    options = schema.Pool2DOptionsT()
    options.padding = getattr(schema.Padding, padding)
    options.strideH, options.strideW = stride
    options.filterHeight, options.filterWidth = kernel
    options.fusedActivationFunction = activation_code(ACTIVATIONS[seed % 4])
    b.operator(name, [x], y, options, "Pool2DOptions")
    assert_same(b.build([x], [y]), instruction_set, int8(rng, 5, height, width, channels))


@dataclass
class MeanCase:
    model: bytes
    description: str
    input_shape: tuple[int, ...]


def mean_model(
    shape: tuple[int, ...], axes: list[int], keep: bool, scales: tuple[float, float], points: tuple[int, int]
) -> bytes:
    """MEAN of int8 (1, *shape) over ``axes``, batch dimension counted; ``scales``, ``points``: input, output."""
    whole = (1, *shape)
    reduced = {axis % len(whole) for axis in axes}
    kept = tuple(1 if i in reduced else size for i, size in enumerate(whole) if keep or i not in reduced)
    b = Builder()
    x = b.tensor(whole, scales[0], points[0])
    axis = b.tensor((len(axes),), 1.0, data=np.array(axes, np.int32), kind=schema.TensorType.INT32)
    y = b.tensor(kept, scales[1], points[1])
    options = schema.ReducerOptionsT()
    options.keepDims = keep
    b.operator("MEAN", [x, axis], y, options, "ReducerOptions")
    return b.build([x], [y])


def random_mean(seed: int) -> MeanCase:
    rng = np.random.default_rng(seed)
    axes = [[1, 2], [2, 1], [-3, -2], [1, 2], [1], [2], [1, 2, 3], [3], [2, 3]][seed % 9]
    shape = tuple(int(size) for size in rng.integers(1, [20, 20, 50]))
    # Means are close together, so that the output's scale has to be finer than the input's to tell them apart.
    ratio = float(np.exp2(rng.uniform(-1, 5))) if seed % 5 else 1.0
    scale = float(random_scales(rng, 1)[0])
    keep = bool(rng.integers(2))
    low, high = (int(p) for p in rng.integers(-128, 128, 2))
    points = (low, high) if seed % 5 else (-128, -128)
    model = mean_model(shape, axes, keep, (scale, scale / ratio), points)
    return MeanCase(model, f"{shape} over {axes}, keep {keep}, scales {scale} and {scale / ratio}, {points}", shape)


def around_zero_point(case: MeanCase, seed: int, count: int) -> np.ndarray:
    """Samples whose means are spread about the zero point, so that few outputs saturate."""
    rng = np.random.default_rng(seed)
    model = SimModel(case.model)
    point = model.tensors[model.inputs[0]].zero_point
    level = rng.normal(0, 20, (count, 1, 1, case.input_shape[-1]))
    return np.clip(np.rint(point + level + rng.normal(0, 40, (count, *case.input_shape))), -128, 127).astype(np.int8)


@pytest.mark.parametrize("seed", range(36))
def test_random_means(seed: int, instruction_set: str) -> None:
    case = random_mean(seed)
    print(case.description)
    assert_same(case.model, instruction_set, int8(np.random.default_rng(seed), 5, *case.input_shape))
    assert_same(case.model, instruction_set, around_zero_point(case, seed, 5))


def test_the_random_means_cover_what_they_should() -> None:
    cases = [random_mean(seed) for seed in range(36)]
    values = [np.unique(SimModel(case.model).run(around_zero_point(case, 1, 20))).size for case in cases]
    assert np.median(values) > 50
    for part in ("keep True", "keep False"):
        assert sum("[1, 2]," in case.description and part in case.description for case in cases) > 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 9, 16, 25, 49, 64, 144, 2304])
def test_means_of_every_sum(count: int, instruction_set: str) -> None:
    """Every sum there is, by ``count`` codes and one scale: on ties, one rounding and two differ."""
    sums = np.linspace(-128 * count, 127 * count, min(255 * count + 1, 1600)).astype(int)
    codes = sums // count + (np.arange(count)[:, None] < sums % count)
    model = mean_model((count, 1, len(sums)), [1, 2], True, (0.1, 0.1), (3, -4))
    y = assert_same(model, instruction_set, codes.astype(np.int8)[None, :, None, :])
    assert np.unique(y).size > 240


@pytest.mark.parametrize("axes", [[0, 1], [1, 3], [0], [0, 1, 2, 3]], ids=str)
def test_means_over_other_axes_are_refused(axes: list[int]) -> None:
    with pytest.raises(ZoError, match=r"operator 0 \(MEAN\): .*axes"):
        SimModel(mean_model((2, 3, 4), axes, True, (0.1, 0.1), (0, 0)))


def elementwise_options(name: str, activation: str) -> tuple[Any, str]:
    kind = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[name]
    options = getattr(schema, f"{kind}T")()
    options.fusedActivationFunction = activation_code(activation)
    return options, kind


def elementwise_model(
    name: str,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    scales: tuple[float, float, float],
    points: tuple[int, ...],
    activation: str,
    constant: int | None = None,
    rng: np.random.Generator | None = None,
) -> bytes:
    """An elementwise operator; ``shapes``: of a sample of each input; ``constant``: the input that is one, if any."""
    output = np.broadcast_shapes(*shapes)
    b = Builder()
    ends = []
    for i, shape in enumerate((*shapes, output)):
        data = int8(rng, 1, *shape) if i == constant and rng is not None else None
        ends.append(b.tensor((1, *shape), scales[i], points[i], data=data))
    b.operator(name, ends[:2], ends[2], *elementwise_options(name, activation))
    return b.build([end for i, end in enumerate(ends[:2]) if i != constant], ends[2:])


@pytest.mark.parametrize("seed", range(10))
def test_add(seed: int, instruction_set: str) -> None:
    rng = np.random.default_rng(seed)
    first, second, output = (float(s) for s in np.exp(rng.uniform(np.log(0.005), np.log(0.3), 3)))
    output = max(output, 1e-3 * max(first, second))
    shape = (256, 256, 1)
    b = Builder()
    ends = [b.tensor((1, *shape), s, int(rng.integers(-128, 128))) for s in (first, second, output)]
    options = schema.AddOptionsT()
    options.fusedActivationFunction = activation_code(ACTIVATIONS[seed % 4])
    b.operator("ADD", ends[:2], ends[2], options, "AddOptions")
    # Every pair of int8 values.
    values = np.arange(-128, 128, dtype=np.int8)
    x = np.broadcast_to(values[:, None, None], shape)[None]
    y = np.broadcast_to(values[None, :, None], shape)[None]
    assert_same(b.build(ends[:2], ends[2:]), instruction_set, x, y)


@pytest.mark.parametrize("size", [1, 7, 15, 33])
def test_add_of_odd_sizes(size: int, instruction_set: str) -> None:
    rng = np.random.default_rng(size)
    b = Builder()
    ends = [b.tensor((1, size), scale, point) for scale, point in ((0.1, 3), (0.07, -128), (0.15, 20))]
    b.operator("ADD", ends[:2], ends[2], schema.AddOptionsT(), "AddOptions")
    assert_same(b.build(ends[:2], ends[2:]), instruction_set, int8(rng, 9, size), int8(rng, 9, size))


@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("seed", range(6))
def test_elementwise_of_every_pair_of_codes(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    first, second = (float(s) for s in random_scales(rng, 2))
    largest = first * second * 255 * 255 if name == "MUL" else (first + second) * 255
    output = largest / 255 * float(np.exp2(rng.uniform(-3, 1)))
    model = elementwise_model(
        name,
        ((256, 1, 1), (1, 256, 1)),
        (first, second, output),
        tuple(int(p) for p in rng.integers(-128, 128, 3)),
        ACTIVATIONS[seed % 4],
    )
    values = np.arange(-128, 128, dtype=np.int8)
    y = assert_same(model, "auto", values[None, :, None, None], values[None, None, :, None])
    assert np.unique(y).size > 5


SHAPES = [
    ((5, 3, 7), (5, 3, 7)),
    ((5, 3, 7), (1, 1, 7)),
    ((1, 1, 7), (5, 3, 7)),
    ((5, 1, 7), (1, 3, 7)),
    ((5, 3, 7), (1, 1, 1)),
    ((5, 3, 7), (5, 3, 1)),
    ((6,), (6,)),
]


@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
@pytest.mark.parametrize("constant", [None, 0, 1])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_elementwise_of_other_shapes(shapes: Any, constant: int | None, name: str) -> None:
    rng = np.random.default_rng(len(SHAPES))
    output = 0.05 * 0.07 * 120 if name == "MUL" else 0.11
    model = elementwise_model(name, shapes, (0.05, 0.07, output), (4, -9, 13), "NONE", constant, rng)
    samples = [int8(rng, 9, *shape) for i, shape in enumerate(shapes) if i != constant]
    assert np.unique(assert_same(model, "auto", *samples)).size > 20


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 7)])
@pytest.mark.parametrize("name", ["ADD", "SUB", "MUL"])
def test_elementwise_with_a_constant_of_less_dimensions(shape: tuple[int, ...], name: str) -> None:
    rng = np.random.default_rng(1)
    b = Builder()
    x, y = b.tensor((1, 5, 3, 7), 0.05, 3), b.tensor((1, 5, 3, 7), 0.2, -5)
    c = b.tensor(shape, 0.07, 1, data=int8(rng, *shape))
    b.operator(name, [x, c], y, *elementwise_options(name, "NONE"))
    assert np.unique(assert_same(b.build([x], [y]), "auto", int8(rng, 9, 5, 3, 7))).size > 10


def test_a_square() -> None:
    b = Builder()
    x, y = b.tensor((1, 256), 0.05, 3), b.tensor((1, 256), 0.2, -128)
    b.operator("MUL", [x, x], y, *elementwise_options("MUL", "NONE"))
    assert_same(b.build([x], [y]), "auto", np.arange(-128, 128, dtype=np.int8)[None])


@pytest.mark.parametrize("seed", range(20))
def test_quantize(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ratio = 1.0 if seed < 3 else float(np.exp2(rng.uniform(-6, 6)))
    points = [int(p) for p in rng.integers(-128, 128, 2)]
    b = Builder()
    x, y = b.tensor((1, 256), 0.05, points[0]), b.tensor((1, 256), 0.05 / ratio, points[1])
    b.operator("QUANTIZE", [x], y, schema.QuantizeOptionsT(), "QuantizeOptions")
    samples = np.arange(-128, 128, dtype=np.int8)[None]
    assert np.unique(assert_same(b.build([x], [y]), "auto", samples)).size > 2


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.0071, 0.0231, 0.05, 0.0957, 0.25, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("point", [-128, -7, 0, 127])
def test_logistic(point: int, scale: float) -> None:
    b = Builder()
    x, y = b.tensor((1, 256), scale, point), b.tensor((1, 256), 1 / 256, -128)
    b.operator("LOGISTIC", [x], y)
    outputs = assert_same(b.build([x], [y]), "auto", np.arange(-128, 128, dtype=np.int8)[None])
    assert np.all(np.diff(outputs[0].astype(int)) >= 0)


@pytest.mark.parametrize("seed", range(16))
def test_pad(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dimensions = 1 + seed % 3
    shape = tuple(int(size) for size in rng.integers(1, 7, dimensions))
    border = np.vstack([[[0, 0]], rng.integers(0, 4, (dimensions, 2))]).astype(np.int32)
    if seed % 4 == 0:
        border[-1] = 0
    b = Builder()
    x = b.tensor((1, *shape), 0.05, 7)
    paddings = b.tensor(border.shape, 1.0, data=border, kind=schema.TensorType.INT32)
    inputs = [x, paddings]
    if seed % 2:
        inputs.append(b.tensor((), 0.05, 7, data=int8(rng, 1)))
    y = b.tensor((1, *(np.array(shape) + border[1:].sum(axis=1)).tolist()), 0.05, 7)
    name, kind = ("PADV2", "PadV2Options") if seed % 2 else ("PAD", "PadOptions")
    b.operator(name, inputs, y, getattr(schema, f"{kind}T")(), kind)
    assert_same(b.build([x], [y]), "auto", int8(rng, 6, *shape))


def test_new_and_dropped_axes() -> None:
    """Conv1D: a row of an image, which is a sequence again behind the convolution."""
    rng = np.random.default_rng(0)
    b = Builder()
    x, row = b.tensor((1, 20, 3), 0.02, -5), b.tensor((1, 1, 20, 3), 0.02, -5)
    axis = b.tensor((), 1.0, data=np.array(1, np.int32), kind=schema.TensorType.INT32)
    b.operator("EXPAND_DIMS", [x, axis], row, schema.ExpandDimsOptionsT(), "ExpandDimsOptions")
    w = b.tensor((4, 1, 5, 3), 0.01, data=int8(rng, 4, 1, 5, 3))
    convolved, y = b.tensor((1, 1, 16, 4), 0.1, 4), b.tensor((1, 16, 4), 0.1, 4)
    b.operator("CONV_2D", [row, w], convolved, conv_options(False, "VALID", (1, 1), (1, 1), "NONE"), "Conv2DOptions")
    squeeze = schema.SqueezeOptionsT()
    squeeze.squeezeDims = [1]
    b.operator("SQUEEZE", [convolved], y, squeeze, "SqueezeOptions")
    assert np.unique(assert_same(b.build([x], [y]), "auto", int8(rng, 6, 20, 3))).size > 50


def flatten_model(output: str = "") -> bytes:
    """Two poolings, then Keras' Flatten of an open batch size: SHAPE, STRIDED_SLICE, PACK, RESHAPE; then a dense layer.

    output: of an operator, "SHAPE" or "PACK", that is an output of the model too.
    """
    rng = np.random.default_rng(0)
    b = Builder()

    def whole(*values: int, shape: tuple[int, ...] | None = None) -> int:
        shape = (len(values),) if shape is None else shape
        return b.tensor(shape, 1.0, data=np.array(values, np.int32), kind=schema.TensorType.INT32)

    def open_shape(size: tuple[int, ...]) -> int:
        return b.tensor(size, 1.0, kind=schema.TensorType.INT32)

    x, pooled = b.tensor((1, 6, 4, 3), 0.05, 7), b.tensor((1, 3, 2, 3), 0.05, 7)
    pool = schema.Pool2DOptionsT()
    pool.padding = schema.Padding.VALID
    pool.strideH = pool.strideW = pool.filterHeight = pool.filterWidth = 2
    b.operator("MAX_POOL_2D", [x], pooled, pool, "Pool2DOptions")
    found, batch, packed = open_shape((4,)), open_shape(()), open_shape((2,))
    b.operator("SHAPE", [pooled], found, schema.ShapeOptionsT(), "ShapeOptions")
    slice_options = schema.StridedSliceOptionsT()
    slice_options.shrinkAxisMask = 1
    b.operator("STRIDED_SLICE", [found, whole(0), whole(1), whole(1)], batch, slice_options, "StridedSliceOptions")
    pack = schema.PackOptionsT()
    pack.valuesCount = 2
    b.operator("PACK", [batch, whole(18, shape=())], packed, pack, "PackOptions")
    flat, y = b.tensor((1, 18), 0.05, 7), b.tensor((1, 5), 0.8, 2)
    b.operator("RESHAPE", [pooled, packed], flat, schema.ReshapeOptionsT(), "ReshapeOptions")
    w = b.tensor((5, 18), 0.01, data=int8(rng, 5, 18))
    b.operator("FULLY_CONNECTED", [flat, w], y, schema.FullyConnectedOptionsT(), "FullyConnectedOptions")
    return b.build([x], [y, *{"": [], "SHAPE": [found], "PACK": [packed]}[output]])


def test_a_shape_computed_for_a_reshape_is_left_out() -> None:
    model = flatten_model()
    assert np.unique(assert_same(model, "auto", int8(np.random.default_rng(1), 9, 6, 4, 3))).size > 20
    simulated = SimModel(model)
    assert [layer.op for layer in simulated.layers] == ["MAX_POOL_2D", "RESHAPE", "FULLY_CONNECTED"]
    assert [simulated.layer_of(layer.output) for layer in simulated.layers] == [0, 1, 2]
    with pytest.raises(ZoError, match="no layer computes tensor"):
        simulated.layer_of(simulated.inputs[0])


@pytest.mark.parametrize("seed", range(8))
def test_float_ends(seed: int) -> None:
    """QUANTIZE in front and DEQUANTIZE at the end: values on ties, beyond the range, and anywhere else."""
    rng = np.random.default_rng(seed)
    scales = np.array([0.25, 0.5], dtype=np.float32) if seed < 2 else random_scales(rng, 2)
    points = [int(p) for p in rng.integers(-128, 128, 2)]
    b = Builder()
    ends = [b.tensor((1, 600), 1.0, kind=schema.TensorType.FLOAT32) for _ in range(2)]
    inner = [b.tensor((1, 600), float(s), p) for s, p in zip(scales, points, strict=True)]
    b.operator("QUANTIZE", ends[:1], inner[0], schema.QuantizeOptionsT(), "QuantizeOptions")
    b.operator("QUANTIZE", inner[:1], inner[1], schema.QuantizeOptionsT(), "QuantizeOptions")
    b.operator("DEQUANTIZE", inner[1:], ends[1], schema.DequantizeOptionsT(), "DequantizeOptions")
    content = b.build(ends[:1], ends[1:])
    steps = (
        rng.uniform(-300, 300, (3, 600)) if seed % 2 else np.arange(-300, 300, dtype=float).repeat(3).reshape(3, 600)
    )
    x = ((steps + 0.5) * scales[0]).astype(np.float32)
    model = SimModel(content)
    assert [layer.op for layer in model.layers] == ["QUANTIZE"]
    assert (model.inputs, model.outputs) == ((inner[0],), (inner[1],))
    y = model.reals(model.run(model.codes(x)))
    assert y.dtype == np.float32 and np.unique(y).size > 50
    np.testing.assert_array_equal(y, Wheel(content).run(x))
    codes = int8(rng, 2, 600)
    assert model.codes(codes) is codes


@pytest.mark.parametrize("output", ["SHAPE", "PACK"])
def test_a_shape_that_somebody_reads_is_refused(output: str) -> None:
    """The first operator in its way that the simulator does not know is named, with its place in the model."""
    with pytest.raises(ZoError, match=r"does not run SHAPE \(operator 1, 't2'\)"):
        SimModel(flatten_model(output))


@pytest.mark.parametrize("scale", [1e-4, 0.004, 0.0371, 0.1447, 0.9, 7.0, 300.0])
@pytest.mark.parametrize("depth", [1, 2, 12, 100])
def test_softmax(depth: int, scale: float) -> None:
    rng = np.random.default_rng(depth)
    b = Builder()
    x, y = b.tensor((1, depth), scale, 5), b.tensor((1, depth), 1 / 256, -128)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0 if depth % 2 else 0.7
    b.operator("SOFTMAX", [x], y, options, "SoftmaxOptions")
    samples = int8(rng, 60, depth)
    samples[:20] //= 16  # close contests
    samples[20:30] = np.int8(-128)
    assert_same(b.build([x], [y]), "auto", samples)


def test_softmax_of_many_rows() -> None:
    rng = np.random.default_rng(0)
    rows = 20000
    b = Builder()
    x, y = b.tensor((1, rows, 11), 0.0523, 5), b.tensor((1, rows, 11), 1 / 256, -128)
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    b.operator("SOFTMAX", [x], y, options, "SoftmaxOptions")
    samples = np.clip(rng.normal(0, 1, (1, rows, 11)) * rng.uniform(1, 60, (1, rows, 1)), -128, 127)
    assert_same(b.build([x], [y]), "auto", samples.astype(np.int8))


def residual_model(rng: np.random.Generator) -> bytes:
    """Conv, depthwise conv, addition of both, max pool, reshape, fully connected, softmax."""
    b = Builder()
    x = b.tensor((1, 9, 7, 3), 0.02, -5)
    w1 = b.tensor((12, 3, 3, 3), random_scales(rng, 12), data=int8(rng, 12, 3, 3, 3))
    b1 = b.tensor((12,), 0.001, data=rng.integers(-999, 999, 12).astype(np.int32), kind=schema.TensorType.INT32)
    a1 = b.tensor((1, 9, 7, 12), 0.15, -20)
    b.operator("CONV_2D", [x, w1, b1], a1, conv_options(False, "SAME", (1, 1), (1, 1), "RELU"), "Conv2DOptions")
    w2 = b.tensor((1, 3, 3, 12), random_scales(rng, 12), axis=3, data=int8(rng, 1, 3, 3, 12))
    b2 = b.tensor((12,), 0.001, data=rng.integers(-999, 999, 12).astype(np.int32), kind=schema.TensorType.INT32)
    a2 = b.tensor((1, 9, 7, 12), 0.7, 3)
    options = conv_options(True, "SAME", (1, 1), (1, 1), "NONE")
    options.depthMultiplier = 1
    b.operator("DEPTHWISE_CONV_2D", [a1, w2, b2], a2, options, "DepthwiseConv2DOptions")
    a3 = b.tensor((1, 9, 7, 12), 0.4, -2)
    b.operator("ADD", [a1, a2], a3, schema.AddOptionsT(), "AddOptions")
    a4 = b.tensor((1, 4, 3, 12), 0.4, -2)
    pool = schema.Pool2DOptionsT()
    pool.padding = schema.Padding.VALID
    pool.strideH = pool.strideW = pool.filterHeight = pool.filterWidth = 2
    b.operator("MAX_POOL_2D", [a3], a4, pool, "Pool2DOptions")
    a5 = b.tensor((1, 144), 0.4, -2)
    b.operator("RESHAPE", [a4], a5)
    w3 = b.tensor((10, 144), 0.01, data=int8(rng, 10, 144))
    b3 = b.tensor((10,), 0.004, data=rng.integers(-999, 999, 10).astype(np.int32), kind=schema.TensorType.INT32)
    a6 = b.tensor((1, 10), 4.0, 7)
    b.operator("FULLY_CONNECTED", [a5, w3, b3], a6, schema.FullyConnectedOptionsT(), "FullyConnectedOptions")
    a7 = b.tensor((1, 10), 1 / 256, -128)
    soft = schema.SoftmaxOptionsT()
    soft.beta = 0.01
    b.operator("SOFTMAX", [a6], a7, soft, "SoftmaxOptions")
    return b.build([x], [a7])


@pytest.fixture(scope="module")
def residual() -> bytes:
    return residual_model(np.random.default_rng(0))


# ---- What training builds on ----------------------------------------------------------------------


def test_whole_model_and_every_intermediate_tensor(residual: bytes, instruction_set: str) -> None:
    model, wheel = SimModel(residual, instruction_set), Wheel(residual)
    x = int8(np.random.default_rng(3), 3, 9, 7, 3)
    tensors = model.activations(x)
    for i in range(3):
        wheel.run(x[i : i + 1])
        for layer in model.layers:
            np.testing.assert_array_equal(tensors[layer.output][i : i + 1], wheel.tensor(layer.output))
    assert np.unique(tensors[model.outputs[0]]).size > 3


def test_any_batch_size_gives_the_same_samples(residual: bytes) -> None:
    model = SimModel(residual)
    x = int8(np.random.default_rng(4), 700, 9, 7, 3)
    whole = model.run(x)
    np.testing.assert_array_equal(whole, np.concatenate([model.run(x[:1]), model.run(x[1:300]), model.run(x[300:])]))
    assert model.run(x[:0]).shape == (0, 10)


def test_intermediate_tensors_do_not_overwrite_each_other(instruction_set: str) -> None:
    rng = np.random.default_rng(10)
    sizes = [4, 8, 40, 3, 24]
    b = Builder()
    ends = [b.tensor((1, 5, 5, n), 0.1) for n in sizes]
    for source, target, n, m in zip(ends, ends[1:], sizes, sizes[1:], strict=False):
        w = b.tensor((m, 3, 3, n), 0.003, data=int8(rng, m, 3, 3, n))
        options = conv_options(False, "SAME", (1, 1), (1, 1), "NONE")
        b.operator("CONV_2D", [source, w], target, options, "Conv2DOptions")
    assert_same(b.build(ends[:1], ends[-1:]), instruction_set, int8(rng, 30, 5, 5, 4))


def test_a_run_in_two_parts_equals_a_run_in_one(residual: bytes) -> None:
    model = SimModel(residual)
    x = int8(np.random.default_rng(5), 20, 9, 7, 3)
    cached = model.activations(x)
    whole = model.run(x)
    for split in range(1, len(model.layers)):
        needed = model.needed(split)
        prefix = model.run_layers(0, split, {model.inputs[0]: x}, keep=needed).tensors
        assert set(prefix) == set(needed)
        np.testing.assert_array_equal(model.run_from(split, prefix), whole)
        np.testing.assert_array_equal(model.run_from(split, cached), whole)


def test_a_perturbed_tensor_goes_through_the_rest_of_the_model(residual: bytes) -> None:
    model = SimModel(residual)
    rng = np.random.default_rng(6)
    x = int8(rng, 8, 9, 7, 3)
    cached = model.activations(x)
    logits = model.layers[5].output
    cached[logits] = int8(rng, 8, 10)
    softmax = Builder()
    ends = [softmax.tensor((1, 10), 4.0, 7), softmax.tensor((1, 10), 1 / 256, -128)]
    options = schema.SoftmaxOptionsT()
    options.beta = 0.01
    softmax.operator("SOFTMAX", ends[:1], ends[1], options, "SoftmaxOptions")
    expected = Wheel(softmax.build(ends[:1], ends[1:])).run(cached[logits])
    np.testing.assert_array_equal(model.run_from(6, cached), expected)


def replaced_weights(model: bytes, simulated: SimModel) -> bytes:
    """``model`` with the weights and biases that ``simulated`` holds now."""
    parsed = schema.ModelT.InitFromPackedBuf(bytearray(model), 0)
    graph = parsed.subgraphs[0]
    for layer, op in zip(simulated.layers, graph.operators, strict=True):
        for array, position in ((layer.weights, 1), (layer.bias, 2)):
            if array is not None:
                tensor = graph.tensors[op.inputs[position]]
                parsed.buffers[tensor.buffer].data = np.frombuffer(array.tobytes(), np.uint8)
    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_weights_may_change_between_runs(residual: bytes, instruction_set: str) -> None:
    model = SimModel(residual, instruction_set)
    rng = np.random.default_rng(7)
    x = int8(rng, 6, 9, 7, 3)
    before = model.run(x)
    for layer in model.layers:
        if layer.weights is None:
            continue
        logits = model.layers[5].output
        old = model.activations(x)[logits]
        layer.weights[...] = np.clip(layer.weights.astype(int) + rng.choice([-9, 9], layer.weights.shape), -127, 127)
        changed = model.activations(x)
        assert np.any(changed[logits] != old)
        np.testing.assert_array_equal(model.run(x), Wheel(replaced_weights(residual, model)).run(x))
        assert layer.bias is not None
        layer.bias[0] += 12345
        np.testing.assert_array_equal(model.run(x), Wheel(replaced_weights(residual, model)).run(x))
    assert np.any(model.run(x) != before)


def test_accumulators_of_the_head(residual: bytes, instruction_set: str) -> None:
    model = SimModel(residual, instruction_set)
    x = int8(np.random.default_rng(8), 500, 9, 7, 3)
    cached = model.activations(x)
    head = model.layers[5]
    result = model.run_layers(5, 7, cached, accumulators=5)
    source = cached[head.inputs[0]].astype(np.int32) - model.tensors[head.inputs[0]].zero_point
    assert head.weights is not None and head.bias is not None and result.accumulators is not None
    np.testing.assert_array_equal(result.accumulators, source @ head.weights.astype(np.int32).T + head.bias)
    np.testing.assert_array_equal(result.tensors[model.outputs[0]], cached[model.outputs[0]])


def test_accumulators_of_convolutions_agree_on_all_instruction_sets(residual: bytes) -> None:
    x = int8(np.random.default_rng(9), 5, 9, 7, 3)
    for layer in (0, 1):
        results = []
        for name in available():
            model = SimModel(residual, name)
            sums = model.run_layers(0, 2, {model.inputs[0]: x}, accumulators=layer).accumulators
            assert sums is not None
            results.append(sums)
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other)
        assert np.unique(results[0]).size > 100


# ---- Errors ---------------------------------------------------------------------------------------


def test_errors_name_the_cause(residual: bytes) -> None:
    model = SimModel(residual)
    x = int8(np.random.default_rng(0), 2, 9, 7, 3)
    with pytest.raises(ZoError, match="int8"):
        model.run(x.astype(np.float32))
    with pytest.raises(ZoError, match=r"9, 7, 3"):
        model.run(x[:, :8])
    with pytest.raises(ZoError, match="need tensor"):
        model.run_layers(3, 5, {model.inputs[0]: x})
    with pytest.raises(ZoError, match="do not compute"):
        model.run_layers(0, 2, {model.inputs[0]: x}, keep=[model.outputs[0]])
    with pytest.raises(ZoError, match="accumulators"):
        model.run_layers(0, 3, {model.inputs[0]: x}, accumulators=2)
    with pytest.raises(ZoError, match="not a range"):
        model.run_layers(5, 9, {})
    with pytest.raises(ZoError, match="instruction_set"):
        SimModel(residual, "mmx")
    with pytest.raises(ZoError, match="TFLite"):
        SimModel(b"nonsense")


def test_an_operator_outside_the_set_is_refused() -> None:
    b = Builder()
    ends = [b.tensor((1, 4), 0.1), b.tensor((1, 4), 0.1)]
    between = [b.tensor((1, 4), 0.1) for _ in range(2)]
    b.operator("LOGISTIC", ends[:1], between[0])
    b.operator("L2_NORMALIZATION", between[:1], between[1])
    b.operator("LOG_SOFTMAX", between[1:], ends[1])
    # Before the LOGISTIC, whose output has a wrong zero point.
    names = r"L2_NORMALIZATION \(operator 1, 't3'\), LOG_SOFTMAX \(operator 2, 't1'\);"
    with pytest.raises(ZoError, match=f"does not run {names}"):
        SimModel(b.build(ends[:1], ends[1:]))


@pytest.mark.parametrize("problem", ["point", "value", "border", "shapes", "constants"])
def test_what_an_operator_cannot_be_is_refused(problem: str) -> None:
    b = Builder()
    x, y, z = b.tensor((1, 4), 0.1), b.tensor((1, 4), 0.1), b.tensor((1, 5), 0.1)
    border = b.tensor((2, 2), 1.0, data=np.array([[0, 0], [1, 0]], np.int32), kind=schema.TensorType.INT32)
    constants = [b.tensor((1, 4), 0.1, data=int8(np.random.default_rng(i), 4)) for i in range(2)]
    if problem == "point":
        b.operator("LOGISTIC", [x], y)
    elif problem == "value":
        other = b.tensor((), 0.2, data=np.int8(3))
        b.operator("PADV2", [x, border, other], z, schema.PadV2OptionsT(), "PadV2Options")
    elif problem == "border":
        b.operator("PAD", [x, border], y, schema.PadOptionsT(), "PadOptions")
    elif problem == "shapes":
        b.operator("MUL", [x, z], y, *elementwise_options("MUL", "NONE"))
    else:
        b.operator("SUB", constants, y, *elementwise_options("SUB", "NONE"))
    words = {"point": "zero point", "value": "same scale", "border": "padded", "shapes": "does not fit"}
    with pytest.raises(ZoError, match=f"operator 0 .*{words.get(problem, 'both inputs are constants')}"):
        SimModel(b.build([x], [z if problem == "value" else y]))


@pytest.mark.parametrize("real", [-1.0, float("nan"), float("inf"), 2.0**31])
def test_senseless_scale_ratios_are_refused(real: float) -> None:
    with pytest.raises(ZoError, match="scale"):
        quantize_multiplier(real)


# ---- Real models ----------------------------------------------------------------------------------


def real_inputs(name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    yield int8(np.random.default_rng(0), 6, *shape)
    source = REAL_MODELS[name]
    if source is not None:
        samples = np.load(DATA / source)["x"][:6]
        yield samples if samples.dtype == np.int8 else (samples.astype(np.int16) - 128).astype(np.int8)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data folder with the real models is not here")
@pytest.mark.parametrize("name", list(REAL_MODELS))
def test_real_models(name: str, instruction_set: str) -> None:
    content = (DATA / "mlperf_tiny" / f"{name}.tflite").read_bytes()
    model, wheel = SimModel(content, instruction_set), Wheel(content)
    for x in real_inputs(name, model.tensors[model.inputs[0]].sample_shape):
        tensors = model.activations(x)
        for i in range(len(x)):
            wheel.run(x[i : i + 1])
            for layer in model.layers:
                np.testing.assert_array_equal(
                    tensors[layer.output][i : i + 1],
                    wheel.tensor(layer.output),
                    err_msg=f"layer {layer.index}",
                )
        np.testing.assert_array_equal(model.run(x), tensors[model.outputs[0]])
        assert np.unique(tensors[model.outputs[0]]).size > 1
