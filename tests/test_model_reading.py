# SPDX-License-Identifier: Apache-2.0
"""How a model is read: one reading for patcher and simulator, and it is TFLite Micro's."""

from __future__ import annotations

import numpy as np
import pytest
from operator_models import Builder, Wheel, activation_code, conv_options, int8, output_size
from tflite_micro.tensorflow.lite.python import schema_py_generated as schema

from tflm_zo import Trainer, patch
from tflm_zo.errors import ZoError
from tflm_zo.model.activation import activation_range
from tflm_zo.model.file import load_model, save_model
from tflm_zo.model.layers import trainable_layers
from tflm_zo.ops.options import LayerShape
from tflm_zo.patching.layer_shape import layer_shape
from tflm_zo.patching.loss_path import closed_forms, find_loss_end
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.simulator.model import SimModel

LIMITS = {"RELU6": 6.0, "RELU_N1_TO_1": 1.0}
NO_INPUT = np.zeros((1, 2, 1, 1), np.int8)


# ---- Activation ranges --------------------------------------------------------------------------------


def all_codes(activation: str, single: np.float32, zero_point: int) -> bytes:
    """A layer whose accumulators, its biases, are all codes and more, so that its outputs span what is let through.

    It has two pixels: at one alone it would be a head, which is trained without a node op.
    """
    scale, biases = float(single), np.arange(-400, 401, dtype=np.int32)
    b = Builder()
    x = b.tensor((1, 2, 1, 1), 1.0)
    w = b.tensor((biases.size, 1, 1, 1), scale, data=np.zeros(biases.size, np.int8))
    c = b.tensor((biases.size,), scale, data=biases, kind=schema.TensorType.INT32)
    y = b.tensor((1, 2, 1, biases.size), scale, zero_point)
    options = conv_options(False, "VALID", (1, 1), (1, 1), activation)
    b.operator("CONV_2D", [x, w, c], y, options, "Conv2DOptions")
    return b.build([x], [y])


def tie_scales(limit: float, rng: np.random.Generator, count: int) -> np.ndarray:
    """Scales of which the limit is k + 1/2 codes, or as nearly as single precision lets it be, and their neighbours."""
    nearest = np.float32(limit) / (rng.integers(0, 130, count) + 0.5).astype(np.float32)
    return np.concatenate([nearest, np.nextafter(nearest, np.float32(0)), np.nextafter(nearest, np.float32(9))])


def check_range(activation: str, scale: np.float32, zero_point: int) -> tuple[int, int]:
    """TFLite Micro, the simulator, and the patcher's node op agree on where an output saturates."""
    model = all_codes(activation, scale, zero_point)
    outputs = Wheel(model).run(NO_INPUT)
    np.testing.assert_array_equal(SimModel(model).run(NO_INPUT), outputs)
    found = (int(outputs.min()), int(outputs.max()))
    layer = SimModel(model).layers[0]
    assert (layer.activation_min, layer.activation_max) == found
    options = read_patched(patch(model, "all", "mse")).nodes[0].options
    assert (options.activation_min, options.activation_max) == found
    assert activation_range(activation, scale, zero_point) == found
    return found


def test_six_at_a_tie_in_single_precision() -> None:
    # 6 / scale is 67.5 in single precision, just below it in double: TFLite Micro rounds to 68.
    scale = np.float32(0.08888889)
    assert 6.0 / float(scale) < 67.5 == np.float32(6) / scale
    assert check_range("RELU6", scale, -128) == (-128, -60)


@pytest.mark.parametrize("activation", ["NONE", "RELU", "RELU6", "RELU_N1_TO_1"])
def test_activation_ranges_are_those_of_tflite_micro(activation: str) -> None:
    rng = np.random.default_rng(activation_code(activation))
    scales = np.exp(rng.uniform(np.log(1e-4), np.log(5), 40)).astype(np.float32)
    if activation in LIMITS:
        scales = np.concatenate([scales, tie_scales(LIMITS[activation], rng, 25)])
    for scale in scales:
        check_range(activation, scale, int(rng.integers(-128, 128)))


def test_ties_are_where_roundings_differ() -> None:
    # Else the test above would not tell them apart.
    scales = tie_scales(6.0, np.random.default_rng(activation_code("RELU6")), 25).astype(np.float64)
    codes = [activation_range("RELU6", np.float32(s), -128)[1] for s in scales]
    assert any(code != min(127, round(6.0 / s) - 128) for code, s in zip(codes, scales, strict=True))


@pytest.mark.parametrize("activation", ["TANH", "SIGN_BIT"])
def test_functions_that_tflite_micro_leaves_out(activation: str) -> None:
    assert check_range(activation, np.float32(0.1), -20) == (-128, 127)


def test_a_limit_beyond_int32() -> None:
    model = all_codes("RELU6", np.float32(1e-9), 0)
    with pytest.raises(RuntimeError):
        Wheel(model)
    for read in (SimModel, lambda data: patch(data, "all", "mse")):
        with pytest.raises(ZoError, match="too small for an output with the activation RELU6"):
            read(model)


# ---- Windows ------------------------------------------------------------------------------------------


def convolution(
    rng: np.random.Generator,
    depthwise: bool,
    padding: str,
    sizes: tuple[tuple[int, ...], ...],
    output: tuple[int, int] | None = None,
) -> bytes:
    """A convolution of two channels to four with scales that let accumulators through; ``sizes`` (rows, columns) of
    image, kernel, strides, dilations; ``output``: what is written for the output's size."""
    image, kernel, stride, dilation = sizes
    shape = (1, *kernel, 4) if depthwise else (4, *kernel, 2)
    b = Builder()
    x = b.tensor((1, *image, 2), 0.5, 3)
    w = b.tensor(shape, 0.5, axis=3 if depthwise else 0, data=rng.integers(-1, 2, shape, dtype=np.int8))
    size = output or tuple(output_size(padding, *along) for along in zip(*sizes, strict=True))
    y = b.tensor((1, *size, 4), 0.25)
    options = conv_options(depthwise, padding, stride, dilation, "NONE")
    if depthwise:
        options.depthMultiplier = 2
    kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    b.operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [x, w], y, options, kind)
    return b.build([x], [y])


def convolve(s: LayerShape, weights: np.ndarray, x: np.ndarray, depthwise: bool) -> np.ndarray:
    """What a convolution of this geometry is by its definition; x (rows, columns, channels) without zero point."""
    y = np.zeros((s.output_height, s.output_width, s.output_channels), np.int64)
    for row, column in np.ndindex(s.output_height, s.output_width):
        for i, j in np.ndindex(s.filter_height, s.filter_width):
            from_row = row * s.stride_height - s.pad_top + i * s.dilation_height
            from_column = column * s.stride_width - s.pad_left + j * s.dilation_width
            if not (0 <= from_row < s.input_height and 0 <= from_column < s.input_width):
                continue
            seen = x[from_row, from_column].astype(np.int64)
            if depthwise:
                y[row, column] += seen.repeat(s.depth_multiplier) * weights[0, i, j]
            else:
                y[row, column] += weights[:, i, j] @ seen
    return y


@pytest.mark.parametrize("depthwise", [False, True], ids=["conv", "depthwise"])
def test_windows_slide_as_in_tflite_micro(depthwise: bool) -> None:
    # Strides beyond the kernel, even kernels, dilations, other rows than columns; images smaller than the window.
    rng = np.random.default_rng(depthwise)
    for _ in range(60):
        padding = str(rng.choice(["SAME", "VALID"]))
        kernel, stride, dilation = ((int(rng.integers(1, most)), int(rng.integers(1, most))) for most in (6, 8, 4))
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        image = tuple(int(rng.integers(1 if padding == "SAME" else span, span + 8)) for span in spans)
        model = convolution(rng, depthwise, padding, (image, kernel, stride, dilation))
        x = rng.integers(-2, 9, (1, *image, 2), dtype=np.int8)
        tree = load_model(model)
        shape = layer_shape(tree, trainable_layers(tree)[0])
        weights = SimModel(model).layers[0].weights
        assert weights is not None
        expected = np.clip(convolve(shape, weights.astype(np.int64), x[0] - np.int64(3), depthwise), -128, 127)
        outputs = Wheel(model).run(x)
        np.testing.assert_array_equal(outputs[0], expected)
        np.testing.assert_array_equal(SimModel(model).run(x), outputs)


@pytest.mark.parametrize("output", [(2, 3), (4, 3), (3, 2)])
def test_an_output_of_another_size_than_the_window_gives(output: tuple[int, int]) -> None:
    sizes = ((6, 6), (3, 3), (2, 2), (1, 1))
    model = convolution(np.random.default_rng(0), False, "SAME", sizes, output)
    for read in (SimModel, lambda data: patch(data, "all", "mse")):
        with pytest.raises(ZoError, match=r"operator 0 \(CONV_2D\): output 't2' is .*, the window gives \(3, 3\)"):
            read(model)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_depth_multiplier_that_contradicts_the_shapes(multiplier: int) -> None:
    model = load_model(convolution(np.random.default_rng(0), True, "SAME", ((4, 4), (3, 3), (1, 1), (1, 1))))
    model.subgraphs[0].operators[0].builtinOptions.depthMultiplier = multiplier
    for read in (SimModel, lambda data: patch(data, "all", "mse")):
        with pytest.raises(ZoError, match="do not fit 2 input channels"):
            read(save_model(model))


# ---- What can be trained ------------------------------------------------------------------------------


def pooled(padding: str, stride: tuple[int, int], window: tuple[int, int] = (4, 4)) -> bytes:
    """A 1x1 convolution of a 4 x 4 map, averages over it, a head."""
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.tensor((1, 4, 4, 2), 0.1, 3)
    w = b.tensor((4, 1, 1, 2), 0.01, data=int8(rng, 4, 1, 1, 2))
    y = b.tensor((1, 4, 4, 4), 0.1)
    b.operator("CONV_2D", [x, w], y, conv_options(False, "SAME", (1, 1), (1, 1), "NONE"), "Conv2DOptions")
    options = schema.Pool2DOptionsT()
    options.padding = getattr(schema.Padding, padding)
    options.strideH, options.strideW = stride
    options.filterHeight, options.filterWidth = window
    size = [output_size(padding, 4, k, s, 1) for k, s in zip(window, stride, strict=True)]
    z = b.tensor((1, *size, 4), 0.1)
    b.operator("AVERAGE_POOL_2D", [y], z, options, "Pool2DOptions")
    return with_head(b, rng, x, z, int(np.prod(size)) * 4)


def with_head(b: Builder, rng: np.random.Generator, x: int, last: int, features: int) -> bytes:
    flat = b.tensor((1, features), 0.1)
    b.operator("RESHAPE", [last], flat)
    w = b.tensor((3, features), 0.01, data=int8(rng, 3, features))
    logits = b.tensor((1, 3), 0.2)
    b.operator("FULLY_CONNECTED", [flat, w], logits, schema.FullyConnectedOptionsT(), "FullyConnectedOptions")
    return b.build([x], [logits])


@pytest.mark.parametrize(
    ("padding", "stride", "window", "closed"),
    [
        ("VALID", (1, 1), (4, 4), True),
        ("VALID", (3, 5), (4, 4), True),
        ("SAME", (4, 4), (4, 4), True),
        ("SAME", (2, 2), (2, 2), True),
        ("VALID", (1, 1), (2, 2), False),
        # The window is as large as the map, but padding lets it move: its places overlap.
        ("SAME", (1, 1), (4, 4), False),
        ("SAME", (2, 2), (4, 4), False),
        ("SAME", (3, 5), (4, 4), False),
    ],
)
def test_closed_forms_behind_averages(
    padding: str, stride: tuple[int, int], window: tuple[int, int], closed: bool
) -> None:
    tree = load_model(pooled(padding, stride, window))
    layers = trainable_layers(tree)
    forms = closed_forms(tree, layers, find_loss_end(tree, layers, "cross-entropy").head)
    assert [(form.window_height, form.window_width) for form in forms] == [window] * closed


def test_weights_with_a_zero_point() -> None:
    # TFLite Micro subtracts it in fully connected layers; the training ops do not know of it.
    rng = np.random.default_rng(2)
    b = Builder()
    x = b.tensor((1, 8), 0.1, 3)
    y = b.tensor((1, 5), 0.1)
    w = b.tensor((5, 8), 0.01, 7, data=int8(rng, 5, 8))
    b.operator("FULLY_CONNECTED", [x, w], y, schema.FullyConnectedOptionsT(), "FullyConnectedOptions")
    model = with_head(b, rng, x, y, 5)
    assert [layer.operator_index for layer in trainable_layers(load_model(model))] == [2]
    with pytest.raises(ZoError, match="zero point 0"):
        SimModel(model)
    samples = int8(rng, 20, 8)
    trainer = Trainer(patch(model, "all", "cross-entropy"))
    np.testing.assert_array_equal(trainer.predict_codes(samples), Wheel(model).run(samples))


def grouped() -> bytes:
    """A convolution of four groups, averages, a head."""
    rng = np.random.default_rng(4)
    b = Builder()
    x = b.tensor((1, 4, 4, 8), 0.1, 3)
    w = b.tensor((8, 3, 3, 2), 0.01, data=int8(rng, 8, 3, 3, 2))
    c = b.tensor((8,), 0.001, data=np.zeros(8, np.int32), kind=schema.TensorType.INT32)
    y = b.tensor((1, 4, 4, 8), 0.1)
    b.operator("CONV_2D", [x, w, c], y, conv_options(False, "SAME", (1, 1), (1, 1), "RELU"), "Conv2DOptions")
    options = schema.Pool2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH = options.strideW = options.filterHeight = options.filterWidth = 4
    z = b.tensor((1, 1, 1, 8), 0.1)
    b.operator("AVERAGE_POOL_2D", [y], z, options, "Pool2DOptions")
    return with_head(b, rng, x, z, 8)


def fitted(engine: str, model: bytes) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    trainer = Trainer(model, seed=1, engine=engine)
    trainer.fit(int8(rng, 12, 4, 4, 8), rng.integers(0, 3, 12), epochs=2, holdout=0)
    weights: dict[str, np.ndarray] = trainer.weights
    return weights


def test_grouped_convolutions_are_trained_by_their_weights() -> None:
    model = grouped()
    assert [layer.groups for layer in trainable_layers(load_model(model))] == [4, 1]
    patched = patch(model, "all", "cross-entropy")
    assert not read_patched(patched).nodes
    before = {p.name: p.initial for p in read_patched(patched).parameters if p.in_model}
    ours, theirs = fitted("simulator", patched), fitted("tflm", patched)
    for name, values in before.items():
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert np.any(ours[name].reshape(-1) != values)
