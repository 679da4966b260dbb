# SPDX-License-Identifier: Apache-2.0
"""Patching: same outputs, small memory, any selection, clear refusals; baking takes it all back."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from trainers import TflmTrainer

from tflm_zo import ZoError, bake, patch
from tflm_zo.model.file import FILE_IDENTIFIER, load_model, save_model, schema, shape_of
from tflm_zo.model.layers import trainable_layers
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.tflm.interpreter import Interpreter

MLPERF = [
    "kws_ref_model.tflite",
    "pretrainedResnet_quant.tflite",
    "vww_96_int8.tflite",
    "ad01_int8.tflite",
    "str_ww_ref_model.tflite",
]
VARIANTS: dict[str, dict[str, Any]] = {
    "softmax": {},
    "no softmax": {"end": ""},
    "one logistic unit": {"end": "logistic", "outputs": 1},
    "fused ReLU": {"end": "relu"},
    "no bias": {"bias": False},
    "per tensor": {"per_channel": False},
    "shared tensor": {"shared": "tensor"},
    "shared buffer": {"shared": "buffer"},
    "ends of the range": {"extreme": True},
    "float input and output": {"float_ends": True},
}


def inputs_for(name: str, folder: Path, shape: tuple[int, ...], count: int = 50) -> np.ndarray:
    """Real samples where there are some, int8 (count, *shape)."""
    if name.startswith("kws"):
        return np.load(folder / "kws01_dev.npz")["x"][:count, None]
    if name.startswith("pretrained"):
        pixels = np.load(folder / "cifar10_jpeg_dev.npz")["x"][:count, None]
        return (pixels.astype(np.int16) - 128).astype(np.int8)
    return np.random.default_rng(17).integers(-128, 128, (count, *shape)).astype(np.int8)


def litert_outputs(model: bytes, x: np.ndarray) -> np.ndarray:
    """Outputs of LiteRT's reference kernels; skips where these no longer compute as TFLM's do."""
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    if tuple(map(int, version("ai-edge-litert").split(".")[:2])) >= (1, 3):
        pytest.skip("LiteRT's fully connected reference kernel rounds in float from 1.3 on: install 1.2")
    interpreter = litert.Interpreter(
        model_content=model,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    outputs = []
    for sample in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(outputs)


@pytest.mark.parametrize("name", MLPERF)
def test_mlperf_models_stay_what_they_are(name: str, shared_data: Path) -> None:
    """The patched model's outputs are the original's, byte for byte."""
    model = (shared_data / "mlperf_tiny" / name).read_bytes()
    trainer = TflmTrainer(patch(model, "all"))
    x = inputs_for(name, shared_data, trainer.model.input_shape)
    plain = predict_plain(model, x[:, 0])
    assert plain.dtype == np.int8 and len(np.unique(plain, axis=0)) > 1
    np.testing.assert_array_equal(trainer.predict_codes(x[:, 0]), plain)
    for trainable in ("head", "last:3", "bias"):
        chosen = TflmTrainer(patch(model, trainable))
        np.testing.assert_array_equal(chosen.predict_codes(x[:5, 0]), plain[:5])


@pytest.mark.parametrize("name", MLPERF)
def test_originals_are_within_a_code_of_litert(name: str, shared_data: Path) -> None:
    model = (shared_data / "mlperf_tiny" / name).read_bytes()
    x = inputs_for(name, shared_data, TflmTrainer(patch(model)).model.input_shape)
    assert np.abs(litert_outputs(model, x).astype(int) - predict_plain(model, x[:, 0])).max() <= 1


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"no bias", "float input and output"}))
def test_small_models_are_within_a_code_of_litert(variant: str) -> None:
    """What the built-in models compute is what any runtime makes of them (LiteRT wants a bias)."""
    model = small_models.small_model(**VARIANTS[variant])
    x = np.random.default_rng(3).integers(-128, 128, (50, 1, 8, 8, 1)).astype(np.int8)
    assert np.abs(litert_outputs(model, x).astype(int) - predict_plain(model, x[:, 0])).max() <= 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("trainable", ["all", "head", "bias", "stem,d*"])
def test_any_small_model_stays_what_it_is(variant: str, trainable: str) -> None:
    if variant == "no bias" and trainable == "bias":
        pytest.skip("nothing to select")
    model = small_models.small_model(**VARIANTS[variant])
    x, _ = small_models.separable_samples(50, seed=1)
    plain = predict_plain(model, x)
    np.testing.assert_array_equal(TflmTrainer(patch(model, trainable)).predict_codes(x), plain)


# -- selection ---------------------------------------------------------------------------------------------

STEM = ["stem/weights", "stem/bias"]
SPREAD = ["spread/weights", "spread/bias"]
DENSE = ["dense/weights", "dense/bias", "dense/residual"]


@pytest.mark.parametrize(
    ("trainable", "names"),
    [
        ("all", STEM + SPREAD + DENSE),
        ("exact", SPREAD + DENSE),
        ("head", DENSE),
        ("last:1", DENSE),
        ("last:2", SPREAD + DENSE),
        ("last:3", STEM + SPREAD + DENSE),
        ("bias", ["stem/bias", "spread/bias", "dense/bias"]),
        ("s*", STEM + SPREAD),
        ("spread", SPREAD),
        ("stem/Conv2D", STEM),
        ("st?m, head", STEM + DENSE),
        ("head,bias", ["stem/bias", "spread/bias", *DENSE]),
        ("s*/bias", ["stem/bias", "spread/bias"]),
        ("stem, exact/bias", [*STEM, "spread/bias", "dense/bias"]),
    ],
)
def test_selection(small: bytes, trainable: str, names: list[str]) -> None:
    patched = read_patched(patch(small, trainable))
    assert [p.name for p in patched.parameters] == names
    assert patched.exact_head is ("dense/bias" in names)


@pytest.mark.parametrize(
    "trainable", ["nothing*", "stem,nothing", "", "stem,,dense", "stem,x/bias", "last:0", "last:4", "last:x"]
)
def test_pattern_that_matches_no_layer_names_the_part(small: bytes, trainable: str) -> None:
    with pytest.raises(ZoError, match="--trainable") as caught:
        patch(small, trainable)
    wrong = next(p for p in trainable.split(",") if p not in ("stem", "dense"))
    assert wrong in str(caught.value)


def test_nothing_to_select() -> None:
    with pytest.raises(ZoError, match="none of the layers has a bias"):
        patch(small_models.small_model(bias=False), "bias")
    tree = load_model(small_models.small_model())
    graph = tree.subgraphs[0]
    graph.operators = graph.operators[-1:]
    graph.inputs = graph.operators[0].inputs
    with pytest.raises(ZoError, match="nothing can be trained"):
        patch(save_model(tree))


# -- refusals ----------------------------------------------------------------------------------------------


def test_what_is_not_a_model_is_refused(small: bytes) -> None:
    for data in (b"", b"TFL3", b"PK\3\4" + bytes(100), small[:4] + b"TFL2" + small[8:]):
        with pytest.raises(ZoError, match="not a TFLite model"):
            patch(data)


def test_every_truncation_is_refused(small: bytes) -> None:
    for length in range(len(small)):
        with pytest.raises(ZoError):
            patch(small[:length])


def test_truncated_real_models_are_refused(shared_data: Path) -> None:
    for name in MLPERF:
        model = (shared_data / "mlperf_tiny" / name).read_bytes()
        rng = np.random.default_rng(len(model))
        for length in [*rng.integers(8, len(model), 40), len(model) - 1, len(model) - 16]:
            with pytest.raises(ZoError):
                patch(model[: int(length)])


def test_float_and_patched_models_and_unknown_losses_are_refused(small: bytes) -> None:
    with pytest.raises(ZoError, match=r"layer dense .*FLOAT32.*int8"):
        patch(small_models.float_model())
    with pytest.raises(ZoError, match="patched already"):
        patch(patch(small))
    with pytest.raises(ZoError, match=r"'huber'.*cross-entropy"):
        patch(small, loss="huber")
    with pytest.raises(ZoError, match="not patched"):
        bake(small, {})


def test_hybrid_model_is_refused_by_the_name_of_its_layer(small: bytes) -> None:
    tree = load_model(small)
    graph = tree.subgraphs[0]
    graph.tensors[graph.operators[1].outputs[0]].type = schema.TensorType.INT16
    with pytest.raises(ZoError, match=r"spread .*INT16 output"):
        patch(save_model(tree))


# -- loss --------------------------------------------------------------------------------------------------


def test_loss_is_taken_where_the_model_ends() -> None:
    for end, loss, kind in (
        ("softmax", "auto", 0),
        ("logistic", "auto", 0),
        ("", "auto", 1),
        ("", "cross-entropy", 0),
    ):
        patched = read_patched(patch(small_models.small_model(end), loss=loss))
        assert patched.loss.kind == kind
        assert patched.target_shape == ((1,) if kind == 0 else (1, 3))


@pytest.mark.parametrize("end", ["softmax", "logistic"])
def test_mean_squared_error_compares_with_the_models_own_output(end: str) -> None:
    """A sigmoid or softmax at the end belongs to the output that a target vector is compared with."""
    trainer = TflmTrainer(patch(small_models.small_model(end), "all", "mse"))
    x, _ = small_models.separable_samples(5, seed=2)
    y = trainer.predict(x)
    assert trainer.evaluate(x, y)["loss"] == 0.0
    off = np.clip(y + 0.25, 0, 0.99).astype(np.float32)
    np.testing.assert_allclose(trainer.evaluate(x, off)["loss"], np.mean((y - off) ** 2), rtol=0.05)


# -- memory ------------------------------------------------------------------------------------------------


def test_no_copy_of_the_weights_in_ram(shared_data: Path) -> None:
    model = (shared_data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    layers = trainable_layers(load_model(model))
    trainable = sum(layer.weight_count + 4 * layer.bias_count for layer in layers)
    before, after = Interpreter(model).arena_bytes, Interpreter(patch(model, "all")).arena_bytes
    assert trainable <= after - before <= trainable + 4096
    head = layers[-1]
    after = Interpreter(patch(model, "head")).arena_bytes
    assert after - before <= head.weight_count + 4 * head.bias_count + 4096


@pytest.mark.parametrize("variant", VARIANTS)
def test_constants_are_aligned(variant: str) -> None:
    """Kernels read constant tensors, and the ops their options, where they lie in the file."""
    data = patch(small_models.small_model(**VARIANTS[variant]), "all")
    model = schema.Model.GetRootAsModel(data, 0)
    count = 0
    for i in range(model.BuffersLength()):
        vector = model.Buffers(i)._tab
        offset = vector.Offset(4)
        if offset and vector.VectorLen(offset):
            assert vector.Vector(offset) % 16 == 0
            count += 1
    graph = model.Subgraphs(0)
    for i in (0, graph.OperatorsLength() - 1):
        table = graph.Operators(i)._tab
        assert table.Vector(table.Offset(14)) % 4 == 0
    assert count >= 4 and data[4:8] == FILE_IDENTIFIER


# -- taking it back ----------------------------------------------------------------------------------------


def plain_tree(value: Any) -> Any:
    """A ``ModelT`` as comparable Python values: absent and empty vectors, text and bytes are the same."""
    if hasattr(value, "__dict__"):
        return {k: plain_tree(v) for k, v in vars(value).items()}
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, (list, np.ndarray)) and len(value):
        return [plain_tree(v) for v in value]
    if value is None or (isinstance(value, (list, np.ndarray, bytes)) and not len(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_int8_variable_has_a_zero_point(variant: str) -> None:
    """TFLM in Arduino's libraries reads it unasked, and goes astray without."""
    model = patch(small_models.small_model(**VARIANTS[variant]), "all", adapter=variant != "float input and output")
    variables = [t for t in load_model(model).subgraphs[0].tensors if t.isVariable and t.type == schema.TensorType.INT8]
    assert len(variables) >= 2
    for tensor in variables:
        assert len(tensor.quantization.zeroPoint) == len(tensor.quantization.scale) >= 1
        assert not np.any(tensor.quantization.zeroPoint)


@pytest.mark.parametrize("variant", VARIANTS)
def test_baking_the_initial_weights_gives_the_original_model(variant: str) -> None:
    model = small_models.small_model(**VARIANTS[variant])
    assert plain_tree(load_model(bake(patch(model, "all"), {}))) == plain_tree(load_model(model))


def test_baking_real_models_gives_the_original_model(shared_data: Path) -> None:
    for name in MLPERF:
        model = (shared_data / "mlperf_tiny" / name).read_bytes()
        assert plain_tree(load_model(bake(patch(model, "all"), {}))) == plain_tree(load_model(model))


@pytest.mark.parametrize("trained", ["first/weights", "second/weights", "both"])
def test_baking_one_of_two_layers_that_share_a_buffer(trained: str) -> None:
    patched = patch(small_models.small_model(shared="buffer"), "all")
    parameters = {p.name: p for p in read_patched(patched).parameters}
    names = ["first/weights", "second/weights"]
    wanted = {n: parameters[n].initial.copy() for n in names}
    for number, name in enumerate(names):
        if trained in (name, "both"):
            wanted[name][3] -= 1 + number
    for given in (names, [n for n in names if trained in (n, "both")]):
        tree = load_model(bake(patched, {parameters[n].index: wanted[n] for n in given}))
        for layer in trainable_layers(tree):
            if f"{layer.name}/weights" in wanted:
                data = tree.buffers[tree.subgraphs[0].tensors[layer.weights].buffer].data
                np.testing.assert_array_equal(np.asarray(data).view(np.int8), wanted[f"{layer.name}/weights"])


def test_baking_refuses_values_that_do_not_fit(small: bytes) -> None:
    patched = patch(small, "all")
    first = read_patched(patched).parameters[0]
    for values in (first.initial[:-1], first.initial.astype(np.int32), first.initial.astype(float)):
        with pytest.raises(ZoError, match="stem/weights"):
            bake(patched, {first.index: values})


@pytest.mark.parametrize("bias", [True, False])
def test_head_that_shares_its_weights_with_another_layer(bias: bool) -> None:
    model = small_models.twin_dense_model(bias=bias)
    x = np.random.default_rng(0).uniform(-1, 1, (20, 6)).astype(np.float32)
    trainer = TflmTrainer(patch(model, "all"))
    np.testing.assert_array_equal(trainer.predict_codes(x), predict_plain(model, x))
    trainer.fit(x, np.arange(20) % 6, epochs=2, lr=0.01, verbose=False)
    np.testing.assert_array_equal(trainer.predict_codes(x), predict_plain(trainer.bake(), x))


def test_patched_graph_has_the_models_own_inputs_and_outputs_first(small: bytes) -> None:
    before, after = load_model(small).subgraphs[0], load_model(patch(small)).subgraphs[0]
    assert after.inputs[0] == before.inputs[0] and after.outputs[0] == before.outputs[0]
    added = [after.tensors[i] for i in (*after.inputs[1:], *after.outputs[1:])]
    assert [t.name for t in added] == [b"zo/command", b"zo/target", b"zo/report"]
    assert [shape_of(t) for t in added] == [(20,), (1,), (8,)]


@pytest.mark.parametrize("seed", range(6))
def test_damaged_models_are_refused_or_patched(small: bytes, seed: int) -> None:
    """One flipped bit anywhere: a clear refusal, or a patched model; never another error."""
    rng = np.random.default_rng(seed)
    for _ in range(150):
        damaged = bytearray(small)
        damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        with contextlib.suppress(ZoError):
            assert load_model(patch(bytes(damaged), "all")).subgraphs


def test_a_squared_error_trains_the_head_alone_by_default() -> None:
    """At the head's learning rate a hidden layer before it would diverge."""
    regression, classes = (
        read_patched(patch(small_models.small_model(""), loss=loss)) for loss in ("mse", "cross-entropy")
    )
    assert {p.layer for p in regression.parameters} < {p.layer for p in classes.parameters}
