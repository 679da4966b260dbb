# SPDX-License-Identifier: Apache-2.0
"""The simulator's operators that are tables of codes, moves of codes, and the larger ones without training: against
TFLite Micro, bit for bit."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from operator_models import Builder, Wheel, activation_code, assert_same, int8, random_scales
from tflite_micro.tensorflow.lite.python import schema_py_generated as schema

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model
from tflm_zo.simulator.lowering import OPERATORS
from tflm_zo.simulator.model import SimModel

STRANGERS = Path(__file__).resolve().parents[2] / "shared" / "data" / "strangers"
INT32 = schema.TensorType.INT32
ALL_CODES = np.arange(-128, 128, dtype=np.int8)


def integers(b: Builder, *values: int, shape: tuple[int, ...] | None = None) -> int:
    """A constant of int32 values, a vector by default."""
    return b.tensor((len(values),) if shape is None else shape, 1.0, data=np.array(values, np.int32), kind=INT32)


def options(kind: str, **values: Any) -> tuple[Any, str]:
    made = getattr(schema, f"{kind}T")()
    for name, value in values.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made, kind


# ---- Tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("name", ["ABS", "ELU", "HARD_SWISH", "LEAKY_RELU", "RELU", "RELU6", "TANH"])
def test_functions_of_every_code(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = float(np.exp(rng.uniform(np.log(0.003), np.log(0.3))))
    ratio = float(np.exp2(rng.uniform(-2, 2))) if seed % 3 else 1.0
    target, point = source * ratio, int(rng.integers(-128, 128))
    zero_point = int(rng.integers(-128, 128)) if seed % 3 else point
    if name == "HARD_SWISH":
        target = max(target, source / 100)
    if name == "RELU6":
        point = min(point, 127 - round(6 / source)) if 6 / source < 200 else point
        target, zero_point = source, point
    if name == "TANH":
        target, zero_point = 1 / 128, 0
    b = Builder()
    x, y = b.tensor((1, 256), source, point), b.tensor((1, 256), target, zero_point)
    b.operator(name, [x], y, *(options("LeakyReluOptions", alpha=0.3 if seed % 2 else -0.1) if "LEAKY" in name else ()))
    assert np.unique(assert_same(b.build([x], [y]), "auto", ALL_CODES[None])).size > 1


@pytest.mark.parametrize("seed", range(24))
def test_rsqrt(seed: int) -> None:
    rng = np.random.default_rng(seed)
    point = int(rng.integers(-128, 100))
    source = float(np.exp(rng.uniform(np.log(0.001), np.log(1.0))))
    target = 1 / math.sqrt(source) / 100 * float(np.exp2(rng.uniform(-2, 2)))
    b = Builder()
    codes = np.arange(point, 128, dtype=np.int8)  # smaller ones, of negative numbers, TFLite Micro refuses
    x, y = b.tensor((1, len(codes)), source, point), b.tensor((1, len(codes)), target, int(rng.integers(-128, 0)))
    b.operator("RSQRT", [x], y)
    assert np.unique(assert_same(b.build([x], [y]), "auto", codes[None])).size > 5


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", ["MAXIMUM", "MINIMUM", "PRELU", "SQUARED_DIFFERENCE"])
def test_functions_of_every_pair_of_codes(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (float(s) for s in random_scales(rng, 2))
    spread = {"PRELU": first * 20, "SQUARED_DIFFERENCE": (max(first, second) * 200) ** 2 / 255}.get(name, first)
    target = spread * float(np.exp2(rng.uniform(-1, 1))) if "M" not in name[:1] else first
    points = [int(p) for p in rng.integers(-128, 128, 3)]
    if name in ("MAXIMUM", "MINIMUM"):  # of codes, so they mean the same
        second, points = first, [points[0]] * 3
    b = Builder()
    shapes: list[tuple[int, ...]] = [(1, 256, 1, 1), (1, 1, 256, 1), (1, 256, 256, 1)]
    ends = [b.tensor(shape, s, p) for shape, s, p in zip(shapes, (first, second, target), points, strict=True)]
    b.operator(name, ends[:2], ends[2])
    x, y = ALL_CODES[None, :, None, None], ALL_CODES[None, None, :, None]
    assert np.unique(assert_same(b.build(ends[:2], ends[2:]), "auto", x, y)).size > 5


def test_slopes_for_channels() -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    x, y = b.tensor((1, 4, 3, 5), 0.05, 3), b.tensor((1, 4, 3, 5), 0.04, -9)
    slope = b.tensor((1, 1, 5), 0.01, 0, data=int8(rng, 5))
    b.operator("PRELU", [x, slope], y)
    assert np.unique(assert_same(b.build([x], [y]), "auto", int8(rng, 20, 4, 3, 5))).size > 50


# ---- Moves ----------------------------------------------------------------------------------------


def moved(name: str, b: Builder, x: int) -> tuple[list[int], tuple[int, ...], Any]:
    """Inputs, shape of the output and options of an operator that moves the codes of ``x`` (1, 4, 6, 8)."""
    match name:
        case "TRANSPOSE":
            return [x, integers(b, 0, 3, 1, 2)], (1, 8, 4, 6), options("TransposeOptions")
        case "TRANSPOSE with the first axis":
            return [x, integers(b, 2, 0, 3, 1)], (6, 1, 8, 4), options("TransposeOptions")
        case "SLICE":
            return [x, integers(b, 0, 1, 2, 0), integers(b, 1, 2, -1, 5)], (1, 2, 4, 5), options("SliceOptions")
        case "STRIDED_SLICE":
            begin, end, stride = integers(b, 0, 1, 5, 0), integers(b, 1, 0, -7, 8), integers(b, 1, 2, -2, 1)
            masks = options("StridedSliceOptions", endMask=2)
            return [x, begin, end, stride], (1, 2, 3, 8), masks
        case "STRIDED_SLICE without an axis":
            begin, end, stride = integers(b, 0, 3, 0, 2), integers(b, 0, 4, 6, 7), integers(b, 1, 1, 1, 1)
            masks = options("StridedSliceOptions", beginMask=1, endMask=5, shrinkAxisMask=2)
            return [x, begin, end, stride], (1, 6, 5), masks
        case "MIRROR_PAD":
            border = integers(b, 0, 0, 2, 1, 1, 3, 0, 0, shape=(4, 2))
            return [x, border], (1, 7, 10, 8), options("MirrorPadOptions", mode=schema.MirrorPadMode.SYMMETRIC)
        case "MIRROR_PAD without the border":
            border = integers(b, 0, 0, 2, 1, 1, 3, 0, 0, shape=(4, 2))
            return [x, border], (1, 7, 10, 8), options("MirrorPadOptions", mode=schema.MirrorPadMode.REFLECT)
        case "SPACE_TO_DEPTH":
            return [x], (1, 2, 3, 32), options("SpaceToDepthOptions", blockSize=2)
        case "DEPTH_TO_SPACE":
            return [x], (1, 8, 12, 2), options("DepthToSpaceOptions", blockSize=2)
        case "SPACE_TO_BATCH_ND":
            inputs = [x, integers(b, 2, 3), integers(b, 0, 0, 0, 0, shape=(2, 2))]
            return inputs, (6, 2, 2, 8), options("SpaceToBatchNDOptions")
        case "BROADCAST_TO":
            return [x, integers(b, 3, 4, 6, 8)], (3, 4, 6, 8), options("BroadcastToOptions")
        case "GATHER":
            return [x, integers(b, 5, 0, 5)], (1, 4, 3, 8), options("GatherOptions", axis=2)
        case "RESIZE_NEAREST_NEIGHBOR":
            return [x, integers(b, 9, 3)], (1, 9, 3, 8), options("ResizeNearestNeighborOptions")
        case "RESIZE_NEAREST_NEIGHBOR aligned":
            made = options("ResizeNearestNeighborOptions", alignCorners=True)
            return [x, integers(b, 9, 11)], (1, 9, 11, 8), made
        case "RESIZE_NEAREST_NEIGHBOR half":
            made = options("ResizeNearestNeighborOptions", halfPixelCenters=True)
            return [x, integers(b, 7, 12)], (1, 7, 12, 8), made
    raise AssertionError(name)


MOVES = (
    "TRANSPOSE",
    "TRANSPOSE with the first axis",
    "SLICE",
    "STRIDED_SLICE",
    "STRIDED_SLICE without an axis",
    "MIRROR_PAD",
    "MIRROR_PAD without the border",
    "SPACE_TO_DEPTH",
    "DEPTH_TO_SPACE",
    "SPACE_TO_BATCH_ND",
    "BROADCAST_TO",
    "GATHER",
    "RESIZE_NEAREST_NEIGHBOR",
    "RESIZE_NEAREST_NEIGHBOR aligned",
    "RESIZE_NEAREST_NEIGHBOR half",
)


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str) -> None:
    """Behind it a reshape, since the model's output has the batch for its first axis."""
    b = Builder()
    x = b.tensor((1, 4, 6, 8), 0.05, -7)
    inputs, shape, made = moved(name, b, x)
    between, y = b.tensor(shape, 0.05, -7), b.tensor((1, math.prod(shape)), 0.05, -7)
    b.operator(name.split()[0], inputs, between, *made)
    b.operator("RESHAPE", [between], y)
    assert_same(b.build([x], [y]), "auto", int8(np.random.default_rng(0), 9, 4, 6, 8))


@pytest.mark.parametrize("border", [0, 2])
def test_space_to_batch_and_back(border: int) -> None:
    """TFLite Micro pads with what happens to be in its memory."""
    b = Builder()
    x, y = b.tensor((1, 6, 9, 3), 0.05, 5), b.tensor((1, 4, 8, 3), 0.05, 5)
    between = b.tensor((6, 3 + border // 2, 3, 3), 0.05, 5)
    block = integers(b, 2, 3)
    borders, crops = integers(b, border, 0, 0, 0, shape=(2, 2)), integers(b, border, 2, 1, 0, shape=(2, 2))
    b.operator("SPACE_TO_BATCH_ND", [x, block, borders], between, *options("SpaceToBatchNDOptions"))
    b.operator("BATCH_TO_SPACE_ND", [between, block, crops], y, *options("BatchToSpaceNDOptions"))
    model = b.build([x], [y])
    if border:
        with pytest.raises(ZoError, match=r"operator 0 \(SPACE_TO_BATCH_ND\): .* pads"):
            SimModel(model)
    else:
        assert_same(model, "auto", int8(np.random.default_rng(0), 9, 6, 9, 3))


@pytest.mark.parametrize("axis", [1, 3, -2])
def test_concatenation_of_tensors_and_constants(axis: int) -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    sizes = [[4, 3, 5] for _ in range(3)]
    for i, size in enumerate(sizes):
        size[axis - 1 if axis > 0 else axis] += i
    x = b.tensor((1, *sizes[0]), 0.05, 3)
    z = b.tensor((1, *sizes[1]), 0.05, 3)
    constant = b.tensor((1, *sizes[2]), 0.05, 3, data=int8(rng, *sizes[2]))
    parts = [z, constant, x, z]
    shape = np.concatenate([np.empty(sizes[i]) for i in (1, 2, 0, 1)], axis - 1 if axis > 0 else axis).shape
    y = b.tensor((1, *shape), 0.05, 3)
    b.operator("CONCATENATION", parts, y, *options("ConcatenationOptions", axis=axis))
    assert_same(b.build([x, z], [y]), "auto", int8(rng, 9, *sizes[0]), int8(rng, 9, *sizes[1]))


def test_concatenation_of_other_scales_is_refused() -> None:
    b = Builder()
    x, z, y = b.tensor((1, 4), 0.05), b.tensor((1, 4), 0.06), b.tensor((1, 8), 0.05)
    b.operator("CONCATENATION", [x, z], y, *options("ConcatenationOptions", axis=1))
    with pytest.raises(ZoError, match=r"operator 0 \(CONCATENATION\): .*same scale"):
        SimModel(b.build([x, z], [y]))


@pytest.mark.parametrize("name", ["SPLIT", "SPLIT_V", "UNPACK"])
def test_operators_with_several_outputs(name: str) -> None:
    """Parts of a sequence, of which one is left out, packed together in another order."""
    rng = np.random.default_rng(0)
    b = Builder()
    x = b.tensor((1, 6, 4), 0.05, 3)
    shapes: list[tuple[int, ...]] = [(1, 2, 4)] * 3
    if name == "SPLIT":
        inputs, made = [integers(b, 1, shape=()), x], options("SplitOptions", numSplits=3)
    elif name == "SPLIT_V":
        inputs = [x, integers(b, 2, -1, 2), integers(b, 1, shape=())]
        made = options("SplitVOptions", numSplits=3)
    else:
        inputs, shapes, made = [x], [(1, 4)] * 6, options("UnpackOptions", num=6, axis=1)
    parts = [b.tensor(shape, 0.05, 3) for shape in shapes]
    b.operator(name, inputs, parts, *made)
    taken = parts[::-2]
    y = b.tensor((1, len(taken), *shapes[0][1:]), 0.05, 3)
    b.operator("PACK", taken, y, *options("PackOptions", axis=1, valuesCount=len(taken)))
    assert_same(b.build([x], [y]), "auto", int8(rng, 9, 6, 4))


@pytest.mark.parametrize("axes", [[1, 2], [1, 3], [2], [-1], [1, 2, 3]], ids=str)
@pytest.mark.parametrize("name", ["REDUCE_MAX", "REDUCE_MIN"])
def test_extrema(name: str, axes: list[int]) -> None:
    shape = (1, 5, 3, 7)
    kept = tuple(size for i, size in enumerate(shape) if i not in {axis % 4 for axis in axes})
    b = Builder()
    x, y = b.tensor(shape, 0.05, 3), b.tensor(kept, 0.05, 3)
    b.operator(name, [x, integers(b, *axes)], y, *options("ReducerOptions"))
    assert_same(b.build([x], [y]), "auto", int8(np.random.default_rng(0), 9, *shape[1:]))


# ---- Others ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("size", [(8, 12), (5, 3), (4, 6), (1, 20)], ids=str)
def test_bilinear_resizing(size: tuple[int, int], half: bool, align: bool) -> None:
    if half and align:
        return  # no such operator
    b = Builder()
    x, y = b.tensor((1, 4, 6, 3), 0.05, 3), b.tensor((1, *size, 3), 0.05, 3)
    made = options("ResizeBilinearOptions", alignCorners=align, halfPixelCenters=half)
    b.operator("RESIZE_BILINEAR", [x, integers(b, *size)], y, *made)
    assert np.unique(assert_same(b.build([x], [y]), "auto", int8(np.random.default_rng(0), 30, 4, 6, 3))).size > 99


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("adjoint", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("outer", [((), ()), ((3,), (3,)), ((3,), (1,)), ((2, 3), (2, 1))], ids=str)
def test_products_of_matrices(outer: Any, adjoint: tuple[bool, bool], constant: bool) -> None:
    rng = np.random.default_rng(0)
    b = Builder()
    shapes: list[tuple[int, ...]] = [(5, 7), (7, 4)]
    for i in range(2):
        shapes[i] = (*outer[i], *(shapes[i][::-1] if adjoint[i] else shapes[i]))
    left = b.tensor((1, *shapes[0]), 0.02, 5)
    right = b.tensor((1, *shapes[1]), 0.03, -9, data=int8(rng, *shapes[1]) if constant else None)
    y = b.tensor((1, *np.broadcast_shapes(*outer), 5, 4), 0.2, 11)
    b.operator("BATCH_MATMUL", [left, right], y, *options("BatchMatMulOptions", adjX=adjoint[0], adjY=adjoint[1]))
    inputs, samples = [left], [int8(rng, 9, *shapes[0])]
    if not constant:
        inputs.append(right)
        samples.append(int8(rng, 9, *shapes[1]))
    assert np.unique(assert_same(b.build(inputs, [y]), "auto", *samples)).size > 50


@pytest.mark.parametrize("seed", range(16))
def test_transposed_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2).tolist(), rng.integers(1, 4, 2).tolist()
    height, width, channels, outputs = rng.integers(1, [6, 6, 9, 7]).tolist()
    same = bool(seed % 2)
    size = [n * s if same else (n - 1) * s + k for n, s, k in zip((height, width), stride, kernel, strict=True)]
    scales = random_scales(rng, outputs)
    b = Builder()
    x = b.tensor((1, height, width, channels), 0.02, int(rng.integers(-128, 128)))
    w = b.tensor((outputs, *kernel, channels), scales, data=int8(rng, outputs, *kernel, channels))
    inputs = [integers(b, 1, *size, outputs), w, x]
    if seed % 4 < 2:
        bias = rng.integers(-20000, 20000, outputs).astype(np.int32)
        inputs.append(b.tensor((outputs,), 0.02 * scales, data=bias, kind=INT32))
    depth = channels * math.prod(kernel) / math.prod(stride)
    y = b.tensor((1, *size, outputs), 0.02 * float(np.median(scales)) * 74 * math.sqrt(depth), 9)
    made = options(
        "TransposeConvOptions",
        padding=schema.Padding.SAME if same else schema.Padding.VALID,
        strideH=stride[0],
        strideW=stride[1],
        fusedActivationFunction=activation_code("RELU" if seed % 3 == 0 else "NONE"),
    )
    b.operator("TRANSPOSE_CONV", inputs, y, *made)
    assert np.unique(assert_same(b.build([x], [y]), "auto", int8(rng, 9, height, width, channels))).size > 5


def lstm_model(rng: np.random.Generator, steps: int, inputs: int, units: int, power: int, clip: float) -> bytes:
    b = Builder()
    x = b.tensor((1, steps, inputs), 0.03, 7)
    hidden_scale, hidden_point = 1 / 128, 3
    weights = [
        b.tensor((units, columns), float(random_scales(rng, 1)[0]), data=int8(rng, units, columns))
        for columns in [inputs] * 4 + [units] * 4
    ]
    biases = [
        b.tensor((units,), 0.0001, data=rng.integers(-5000, 5000, units).astype(np.int32), kind=INT32) for _ in range(4)
    ]
    hidden = b.tensor((1, units), hidden_scale, hidden_point)
    cell = b.tensor((1, units), 2.0**power, kind=schema.TensorType.INT16)
    for state in (hidden, cell):
        b.graph.tensors[state].isVariable = True
    y = b.tensor((1, steps, units), hidden_scale, hidden_point)
    made = options("UnidirectionalSequenceLSTMOptions", fusedActivationFunction=activation_code("TANH"), cellClip=clip)
    states = [-1, -1, hidden, cell, -1, -1, -1, -1]
    b.operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, *weights, -1, -1, -1, *biases, *states], y, *made)
    return b.build([x], [y])


@pytest.mark.parametrize("seed", range(12))
def test_lstms_start_each_sample_anew(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, inputs, units = rng.integers(1, [9, 12, 9]).tolist()
    model = lstm_model(rng, steps, inputs, units, int(rng.integers(-14, -9)), float(seed % 2) * 1.5)
    x = int8(rng, 5, steps, inputs)
    expected = np.concatenate([Wheel(model).run(sample[None]) for sample in x])
    assert np.unique(expected).size > 3
    simulated = SimModel(model)
    np.testing.assert_array_equal(simulated.run(x), expected)
    np.testing.assert_array_equal(simulated.run(x), expected)


def test_peepholes_are_refused() -> None:
    model = schema.ModelT.InitFromPackedBuf(bytearray(lstm_model(np.random.default_rng(0), 2, 3, 4, -11, 0.0)), 0)
    model.subgraphs[0].operators[0].inputs[9] = 1
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ZoError, match=r"operator 0 \(UNIDIRECTIONAL_SEQUENCE_LSTM\): peepholes"):
        SimModel(bytes(builder.Output()))


def test_the_docs_name_all_operators() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "tuning.md").read_text()
    listed = page.split("Keep to int8 models of ")[1].split("of variables")[0]
    assert re.findall(r"[A-Z][A-Z0-9_]+", listed) == sorted(OPERATORS)


# ---- Models of strangers --------------------------------------------------------------------------


PLAIN = (
    "c_tflm_magic_wand", "c_vahid_magic_wand", "cookekieran_tinyml", "ei_fomo_balloon", "esphome_okay_nabu_v2",
    "hiimshyy_har", "portiloop2_quant", "tflm_mnist_lstm", "tofai_handpose",
)  # fmt: skip


def with_int8_output(content: bytes) -> bytes:
    """The model without a QUANTIZE to uint8 at its end: what is compared are int8 tensors."""
    tree = load_model(content)
    graph = tree.subgraphs[0]
    last = graph.operators[-1]
    if graph.tensors[int(last.outputs[0])].type == schema.TensorType.UINT8:
        graph.outputs = [int(last.inputs[0])]
        del graph.operators[-1]
        for signature in tree.signatureDefs or []:
            signature.outputs[0].tensorIndex = graph.outputs[0]
    return save_model(tree)


@pytest.mark.skipif(not STRANGERS.is_dir(), reason="the shared data folder with models of strangers is not here")
@pytest.mark.parametrize("name", PLAIN)
def test_every_tensor_of_models_of_strangers(name: str) -> None:
    content = with_int8_output((STRANGERS / f"{name}.tflite").read_bytes())
    model, wheel = SimModel(content), Wheel(content)
    rng = np.random.default_rng(0)
    inputs = {i: int8(rng, 3, *model.tensors[i].sample_shape) for i in model.inputs}
    ours = model.run_layers(0, len(model.layers), inputs, keep=[layer.output for layer in model.layers]).tensors
    for sample in range(3):
        wheel.invoke(*(x[sample : sample + 1] for x in inputs.values()))
        for layer in model.layers:
            found = ours[layer.output][sample]
            np.testing.assert_array_equal(found, wheel.tensor(layer.output).reshape(found.shape))
