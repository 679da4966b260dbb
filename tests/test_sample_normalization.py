# SPDX-License-Identifier: Apache-2.0
"""Samples normalized in front: the same bytes in NumPy, TFLite Micro and LiteRT, and training behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import small_models
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from trainers import TflmTrainer, values_of

from tflm_zo import ZoError, patch, realign
from tflm_zo.conversion.evaluate import evaluate_plain
from tflm_zo.model.file import builtin_code, builtin_name, load_model, save_model, schema, tensor_name
from tflm_zo.patching.adapter import add_adapter
from tflm_zo.patching.front_layer import quantized
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.realignment.filters import add_filter
from tflm_zo.realignment.sample_normalization import (
    SampleNormalization,
    add_sample_normalization,
    normalize_codes,
    take_sample_normalization,
)
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm.arena import plan_arena
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.tflm.interpreter import Interpreter
from tflm_zo.tflm.layouts import WHEEL_64
from tflm_zo.training import tflm_passes

RNG = np.random.default_rng(11)
MEAN, SPREAD = SampleNormalization((-9,)), SampleNormalization((12,), 41.7)
BOTH = pytest.mark.parametrize("normalization", [MEAN, SPREAD], ids=["mean", "mean and spread"])
X, Y = small_models.separable_samples(24, seed=3)


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(11).bit_generator.state


def identity_model(shape: tuple[int, ...]) -> bytes:
    """A model whose output is its input [1, *shape], with a quantization unlike the normalization's own."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.buffers, model.subgraphs = 3, [schema.BufferT()], [graph]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version = 1
    model.operatorCodes = [code]
    graph.tensors = []
    for name in ("in", "out"):
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.shape = name, schema.TensorType.INT8, np.array((1, *shape), np.int32)
        tensor.quantization = quantized([0.37], [-5])
        graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = np.array([0], np.int32), np.array([1], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.builtinOptions = schema.ReshapeOptionsT()
    operator.builtinOptions.newShape = np.array((1, *shape), np.int32)
    graph.operators, graph.inputs, graph.outputs = [operator], np.array([0], np.int32), np.array([1], np.int32)
    return save_model(model)


def with_front(model: bytes, normalization: SampleNormalization) -> bytes:
    tree = load_model(model)
    add_sample_normalization(tree, normalization)
    return save_model(tree)


def samples_of_all_kinds(shape: tuple[int, ...], count: int = 120) -> np.ndarray:
    """Dark and bright, flat, constant, and saturated samples."""
    each = (count, *(1 for _ in shape))
    mean, spread = RNG.uniform(-140, 140, each), RNG.choice([0, 0.3, 1, 3, 6, 20, 60, 150], each)
    return np.clip(np.rint(RNG.normal(mean, spread, (count, *shape))), -128, 127).astype(np.int8)


def litert_outputs(model: bytes, x: np.ndarray, kernels: str) -> np.ndarray:
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    engine = litert.Interpreter(
        model_content=model, experimental_op_resolver_type=getattr(litert.OpResolverType, kernels)
    )
    engine.allocate_tensors()
    source, result = engine.get_input_details()[0]["index"], engine.get_output_details()[0]["index"]
    outputs = []
    for sample in x:
        engine.set_tensor(source, sample[None])
        engine.invoke()
        outputs.append(engine.get_tensor(result)[0].copy())
    return np.array(outputs)


# -- what it computes --------------------------------------------------------------------------------------

SHAPES = [(1,), (7,), (20,), (1, 1), (5, 4), (8, 8, 1), (49, 10, 1), (16, 16, 3)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[SampleNormalization, np.ndarray]:
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple))
    code = st.integers(-128, 127)
    x = draw(arrays.arrays(np.int8, (4, *shape), elements=code))
    kind = draw(st.sampled_from(["mean", "channel", "spread"]))
    if kind == "channel":
        channels = next((n for n in reversed(shape) if n > 1), 1)
        means = tuple(draw(st.lists(code, min_size=channels, max_size=channels)))
        return SampleNormalization(means, axes="channel"), x
    return SampleNormalization((draw(code),), draw(st.floats(0.5, 128)) if kind == "spread" else None), x


@settings(max_examples=150)
@given(cases())
def test_tflm_computes_the_same(case: tuple[SampleNormalization, np.ndarray]) -> None:
    normalization, x = case
    model = with_front(identity_model(x.shape[1:]), normalization)
    np.testing.assert_array_equal(predict_plain(model, x), normalize_codes(x, normalization))


@pytest.mark.parametrize("kernels", ["BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "BUILTIN"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@BOTH
def test_litert_computes_the_same(normalization: SampleNormalization, shape: tuple[int, ...], kernels: str) -> None:
    x = samples_of_all_kinds(shape)
    model = with_front(identity_model(shape), normalization)
    expected = normalize_codes(x, normalization)
    np.testing.assert_array_equal(litert_outputs(model, x, kernels), expected)
    np.testing.assert_array_equal(predict_plain(model, x), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_means_are_moved(shape: tuple[int, ...]) -> None:
    x = np.clip(samples_of_all_kinds(shape), -20, 20)
    moved = normalize_codes(x, MEAN).reshape(len(x), -1).astype(float)
    assert np.abs(moved.mean(axis=1) - MEAN.mean_codes[0]).max() <= 0.5
    differences = np.diff(x.reshape(len(x), -1).astype(int), axis=1)
    np.testing.assert_array_equal(np.diff(moved, axis=1), differences)


def test_means_of_channels_are_moved() -> None:
    x = RNG.integers(-20, 21, (30, 12, 5, 1)).astype(np.int8) + np.arange(-40, 60, 20, dtype=np.int8)[:, None]
    usual = SampleNormalization.usual(x[:20], axes="channel")
    np.testing.assert_array_equal(usual.mean_codes, np.rint(x[:20].mean(axis=(0, 1, 3))))
    assert np.abs(normalize_codes(x, usual).mean(axis=(1, 3)) - usual.mean_codes).max() <= 0.5


@pytest.mark.parametrize("contrast", [0.04, 0.1, 0.3, 1.0, 3.0])
def test_spread_is_brought_back(contrast: float) -> None:
    usual = SampleNormalization((5,), 25.0)
    x = np.rint(np.random.default_rng(1).normal(-7.3, 25 * contrast, (40, 24, 24, 3))).clip(-128, 127).astype(np.int8)
    flat = x.reshape(40, -1).astype(float)
    exact = (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True) * 25 + 5
    got = normalize_codes(x, usual).reshape(40, -1)
    assert np.abs(got.std(axis=1) / np.clip(exact, -128, 127).std(axis=1) - 1).max() < (
        0.08 if contrast < 0.1 else 0.03
    )
    assert np.abs(got.mean(axis=1) - 5).max() < 1
    ordinary = SampleNormalization.usual(x, with_spread=True)
    assert ordinary.spread == pytest.approx(flat.std(axis=1).mean())
    assert ordinary.mean_codes == (round(float(flat.mean())),)


@pytest.mark.parametrize("code", [-128, 0, 127])
@BOTH
def test_constant_samples_become_the_usual_mean(normalization: SampleNormalization, code: int) -> None:
    model = with_front(identity_model((6, 6, 3)), normalization)
    x = np.full((1, 6, 6, 3), code, np.int8)
    # A mean alone is moved by up to 128 codes up and 127 down.
    shift = np.clip(code - normalization.mean_codes[0], -128, 127)
    expected = normalization.mean_codes[0] if normalization.spread is not None else code - shift
    np.testing.assert_array_equal(predict_plain(model, x), np.full_like(x, expected))


# -- in a model --------------------------------------------------------------------------------------------


@BOTH
def test_front_of_a_model(small: bytes, normalization: SampleNormalization) -> None:
    x = samples_of_all_kinds(small_models.INPUT_SHAPE, 30)
    model = with_front(small, normalization)
    np.testing.assert_array_equal(predict_plain(model, x), predict_plain(small, normalize_codes(x, normalization)))
    names = [
        tensor_name(t) for t in load_model(model).subgraphs[0].tensors[len(load_model(small).subgraphs[0].tensors) :]
    ]
    assert all(name.startswith("normalize/") for name in names)


@pytest.mark.parametrize("first", [True, False])
@BOTH
def test_it_comes_before_adapter_and_filter(small: bytes, normalization: SampleNormalization, first: bool) -> None:
    """Whichever is added first."""
    x = samples_of_all_kinds(small_models.INPUT_SHAPE, 30)
    behind, both = load_model(small), load_model(small)
    if first:
        add_sample_normalization(both, normalization)
    for tree in (behind, both):
        add_filter(tree, "smooth3", 4)
        add_adapter(tree)
    if not first:
        add_sample_normalization(both, normalization)
    expected = predict_plain(save_model(behind), normalize_codes(x, normalization))
    np.testing.assert_array_equal(predict_plain(save_model(both), x), expected)


@pytest.mark.parametrize(
    "normalization", [MEAN, SPREAD, SampleNormalization(tuple(range(8)), axes="channel")], ids=["m", "s", "c"]
)
def test_it_can_be_taken_out_again(small: bytes, normalization: SampleNormalization) -> None:
    tree = load_model(small)
    # A model may have a layer of this name itself.
    tree.subgraphs[0].tensors[1].name = "normalize/Conv2D"
    assert take_sample_normalization(tree) is None
    own = len(tree.subgraphs[0].tensors)
    add_sample_normalization(tree, normalization)
    add_adapter(tree)
    taken = take_sample_normalization(tree)
    assert taken is not None
    assert (taken.mean_codes, taken.axes) == (normalization.mean_codes, normalization.axes)
    if normalization.spread is not None:
        assert taken.unit == normalization.unit
    x = samples_of_all_kinds(small_models.INPUT_SHAPE, 10)
    np.testing.assert_array_equal(predict_plain(save_model(tree), x), predict_plain(small, x))
    adapter = [t for t in tree.subgraphs[0].tensors if tensor_name(t).startswith("adapter/")]
    assert len(tree.subgraphs[0].tensors) == own + len(adapter)


@pytest.mark.parametrize("name", ["none", "smooth3"])
@BOTH
def test_realigning_behind_it(small: bytes, normalization: SampleNormalization, name: str) -> None:
    before = samples_of_all_kinds(small_models.INPUT_SHAPE, 40)
    after = np.clip(before // 2 + 20, -128, 127).astype(np.int8)
    usual, seen = (normalize_codes(codes, normalization) for codes in (before, after))
    expected = predict_plain(realign(small, usual, seen, name), seen)
    np.testing.assert_array_equal(
        predict_plain(realign(with_front(small, normalization), before, after, name), after), expected
    )


@pytest.mark.parametrize("model", [small_models.small_model(), small_models.dense_model()], ids=["small", "dense"])
@BOTH
def test_arena_plan_knows_the_operators(model: bytes, normalization: SampleNormalization) -> None:
    front = with_front(model, normalization)
    plan = plan_arena([load_model(front)], WHEEL_64)
    assert plan.estimated_ops == ()
    assert abs(plan.used - Interpreter(front).arena_bytes) <= 32


# -- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"adapter": True}, {"trainable": "all"}, {"loss": "entropy"}], ids=str)
@BOTH
def test_training_behind_it(small: bytes, normalization: SampleNormalization, options: dict[str, Any]) -> None:
    """As behind samples that are normalized by hand, to the bit."""
    codes = samples_of_all_kinds(small_models.INPUT_SHAPE, 24)
    labels = None if options.get("loss") == "entropy" else Y
    trained = TflmTrainer(patch(with_front(small, normalization), **options), seed=2)
    reference = TflmTrainer(patch(small, **options), seed=2)
    # Nothing in these samples can be learned: a guard would keep the start.
    trained.fit(codes, labels, epochs=2, holdout=0.0, verbose=False)
    reference.fit(normalize_codes(codes, normalization), labels, epochs=2, holdout=0.0, verbose=False)
    for ours, theirs in zip(trained.model.parameters, reference.model.parameters, strict=True):
        assert ours.name == theirs.name
        np.testing.assert_array_equal(values_of(trained)[ours.name], values_of(reference)[ours.name], err_msg=ours.name)
    expected = predict_plain(reference.bake(), normalize_codes(codes, normalization))
    np.testing.assert_array_equal(predict_plain(trained.bake(), codes), expected)
    assert np.any(expected != predict_plain(small, normalize_codes(codes, normalization)))
    # The front can be put before a model that was trained alone as well.
    np.testing.assert_array_equal(predict_plain(with_front(reference.bake(), normalization), codes), expected)


@BOTH
def test_split_and_whole_train_alike(normalization: SampleNormalization) -> None:
    model = patch(with_front(small_models.residual_model(), normalization), "exact")
    parts = split(model)
    assert parts is not None
    tree = load_model(parts.prefix)
    ahead = [builtin_name(builtin_code(tree, op)) for op in tree.subgraphs[0].operators]
    assert {"SUB", "CONV_2D"} < set(ahead)
    with mock.patch.object(tflm_passes, "split", lambda model: None):
        whole = TflmTrainer(model, seed=4)
    apart = TflmTrainer(model, seed=4)
    found, expected = (t.fit(X, Y, epochs=3, batch_size=4, verbose=False) for t in (apart, whole))
    assert found == expected
    assert apart.bake() == whole.bake()
    assert whole.engine.executions().saved == 0 < apart.engine.executions().saved


# -- what is refused ---------------------------------------------------------------------------------------


def test_refusals(small: bytes) -> None:
    for wrong, words in (
        ({"mean_codes": (1, 2)}, "one usual mean, not 2"),
        ({"mean_codes": (128,)}, "int8 code"),
        ({"mean_codes": (0,), "axes": "rows"}, "choose one of all, channel"),
        ({"mean_codes": (0, 1), "axes": "channel", "spread": 9.0}, "over all elements only"),
        ({"mean_codes": (0,), "spread": 0.0}, "must be 0.5 to 128"),
        ({"mean_codes": (0,), "spread": float("nan")}, "must be 0.5 to 128"),
    ):
        with pytest.raises(ZoError, match=words):
            SampleNormalization(**wrong)
    with pytest.raises(ZoError, match="normalizes samples already"):
        with_front(with_front(small, MEAN), SPREAD)
    with pytest.raises(ZoError, match="8 channels, but the normalization 3 means"):
        with_front(small, SampleNormalization((1, 2, 3), axes="channel"))
    with pytest.raises(ZoError, match="65540 elements"):
        with_front(identity_model((65540,)), SPREAD)
    with pytest.raises(ZoError, match=r"needs an input that is int8 inside, but .* is float32"):
        with_front(small_models.float_model(), MEAN)
    with pytest.raises(ZoError, match="does not run CAST"):
        SimModel(with_front(small, SPREAD))


# -- real models -------------------------------------------------------------------------------------------


def test_a_gain_that_wanders_from_utterance_to_utterance(shared_data: Path) -> None:
    samples = np.load(shared_data / "kws01_dev.npz")
    model = (shared_data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    x, y = samples["x"], samples["y"]
    gains = np.random.default_rng(7).normal(0, 20, (len(x), 1, 1, 1))
    drifted = np.clip(np.rint(x + gains), -128, 127).astype(np.int8)[400:]
    front = with_front(model, SampleNormalization.usual(x[:400]))
    plain, normalized = (evaluate_plain(m, drifted, y[400:])["accuracy"] for m in (model, front))
    assert normalized > plain + 0.2


@pytest.mark.slow
def test_low_contrast(shared_data: Path) -> None:
    samples = np.load(shared_data / "cifar10_jpeg_dev.npz")
    model = (shared_data / "mlperf_tiny" / "pretrainedResnet_quant.tflite").read_bytes()
    codes, y = samples["x"][:900].astype(int) - 128, samples["y"][:900].astype(np.int64)
    means = codes.mean(axis=(1, 2, 3), keepdims=True)
    drifted = np.rint((codes - means) * 0.15 + means).astype(np.int8)[600:]
    front = with_front(model, SampleNormalization.usual(codes[:600].astype(np.int8), with_spread=True))
    plain, normalized = (evaluate_plain(m, drifted, y[600:])["accuracy"] for m in (model, front))
    assert normalized > plain + 0.2
