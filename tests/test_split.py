# SPDX-License-Identifier: Apache-2.0
"""The frozen layers in front as a model of their own: the same bits as the whole model, in fewer executions."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import small_models
from trainers import TflmTrainer, values_of

from tflm_zo import Trainer, patch
from tflm_zo.errors import ZoError
from tflm_zo.model.file import builtin_code, builtin_name, load_model, save_model, schema, shape_of, tensor_name
from tflm_zo.ops.names import OP_PREFIX, custom_code
from tflm_zo.patching.frozen_prefix import SplitModel, layer_count, split
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.tflm.interpreter import Interpreter
from tflm_zo.training import tflm_passes
from tflm_zo.training.tflm_engine import TflmEngine
from tflm_zo.training.tflm_passes import TrainingInterpreter

X, Y = small_models.separable_samples(22, seed=1)
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 4,
    "queries": 3,
    "lr": 3e-3,
    "node_lr": 1e-2,
    "lr_end": 0.3,
    "holdout": 0.0,  # what is compared is the training itself
    "verbose": False,
}

# Model, what is trained, method; layers of the prefix, tensors that lead on.
LATE: dict[str, tuple[bytes, str, str, int, int]] = {
    "head": (small_models.small_model(), "head", "auto", 4, 1),
    "exact": (small_models.small_model(), "exact", "auto", 1, 1),
    "weights": (small_models.small_model(), "spread,dense", "weights", 1, 1),
    "nodes": (small_models.small_model(), "spread,dense", "nodes", 1, 1),
    "bias of the head": (small_models.small_model(), "head/bias", "auto", 4, 1),
    "biases by closed forms": (small_models.small_model(), "exact/bias", "auto", 1, 1),
    "bias by nodes": (small_models.small_model(), "spread/bias,dense", "nodes", 1, 1),
    "residual head": (small_models.residual_model(), "head", "auto", 9, 1),
    "residual weights": (small_models.residual_model(), "a2,b2", "weights", 4, 1),
    "residual nodes": (small_models.residual_model(), "a2,b2", "nodes", 4, 1),
    # Within a block: its input leads on to the sum.
    "within a block": (small_models.residual_model(), "b2,dense", "nodes", 5, 2),
    "within the first block": (small_models.residual_model(), "b1", "weights", 2, 2),
}


def parts_of(model: bytes) -> SplitModel:
    parts = split(model)
    assert parts is not None
    return parts


def operators(model: bytes) -> list[str]:
    tree = load_model(model)
    return [custom_code(tree, op) or builtin_name(builtin_code(tree, op)) for op in tree.subgraphs[0].operators]


def whole(model: bytes, seed: int = 0) -> Trainer:
    """A trainer that runs all layers in every pass."""
    with mock.patch.object(tflm_passes, "split", lambda model: None):
        return TflmTrainer(model, seed=seed)


def state(trainer: Trainer) -> dict[str, np.ndarray]:
    return values_of(trainer)


def assert_trained_alike(model: bytes, x: np.ndarray, y: np.ndarray, **settings: Any) -> tuple[Trainer, Trainer]:
    split_up, reference = TflmTrainer(model, seed=5), whole(model, seed=5)
    found = split_up.fit(x, y, validation_data=(x[:5], y[:5]), **settings)
    expected = reference.fit(x, y, validation_data=(x[:5], y[:5]), **settings)
    assert found == expected
    assert split_up.progress == reference.progress
    changed = False
    for parameter in reference.model.parameters:
        values = state(split_up)[parameter.name]
        np.testing.assert_array_equal(values, state(reference)[parameter.name], err_msg=parameter.name)
        changed |= parameter.in_model and not np.array_equal(values.reshape(-1), parameter.initial)
    assert changed
    assert split_up.evaluate(x, y) == reference.evaluate(x, y)
    np.testing.assert_array_equal(split_up.predict_codes(x), reference.predict_codes(x))
    assert split_up.bake() == reference.bake()
    return split_up, reference


# -- the two models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LATE)
def test_cut(name: str) -> None:
    original, trainable, _, layers, kept = LATE[name]
    model = patch(original, trainable)
    parts = parts_of(model)
    assert (parts.prefix_layers, len(parts.kept_shapes)) == (layers, kept)
    assert parts.prefix_layers + parts.suffix_layers == layer_count(model) == len(operators(original))
    ahead, rest = operators(parts.prefix), operators(parts.suffix)
    assert not any(op.startswith(OP_PREFIX) for op in ahead)
    assert [rest[0], *ahead, *rest[1:]] == operators(model)
    outputs = load_model(parts.prefix).subgraphs[0]
    assert parts.kept_bytes == sum(int(np.prod(shape_of(outputs.tensors[i]))) for i in outputs.outputs)
    # A place later, a trained layer would be ahead, or more would lead on.
    trained = {p.layer for p in read_patched(model).parameters}
    first = next(i for i, t in enumerate(operator_layers(model)) if t in trained)
    assert parts.prefix_layers <= first


def operator_layers(model: bytes) -> list[str]:
    """For each of the model's own operators the layer that its weights are of, '' without weights."""
    tree = load_model(model)
    graph = tree.subgraphs[0]
    names = []
    for op in graph.operators:
        if custom_code(tree, op).startswith(OP_PREFIX):
            continue
        weights = tensor_name(graph.tensors[op.inputs[1]]) if len(op.inputs) > 1 else ""
        names.append(weights.rsplit("/", 1)[0] if "/" in weights else "")
    return names


@pytest.mark.parametrize("name", LATE)
def test_constants_are_stored_once(name: str) -> None:
    original, trainable, _, _, _ = LATE[name]
    model = patch(original, trainable)
    parts = parts_of(model)
    image = parts.image
    assert image[parts.model_offset :][: len(model)] == model
    assert parts.prefix_offset % 16 == parts.model_offset % 16 == 0
    # What is added are tables: some 60 bytes an operator, and two models' ends.
    assert len(image) - len(model) < 64 * len(operators(model)) + 600
    assert split(model) == parts


@pytest.mark.parametrize(
    ("model", "trainable", "options"),
    [
        (small_models.small_model(), "all", {}),
        (small_models.small_model(), "stem", {}),
        (small_models.small_model(), "bias", {}),
        (small_models.small_model(), "head", {"adapter": True}),
        (small_models.small_model(), "exact", {"adapter": True}),
        (small_models.dense_model(), "head", {}),
        (small_models.twin_dense_model(bias=True), "all", {}),
    ],
)
def test_nothing_to_run_ahead(model: bytes, trainable: str, options: dict[str, Any]) -> None:
    patched = patch(model, trainable, **options)
    assert split(patched) is None
    engine = TrainingInterpreter(patched)
    assert engine.arena_bytes == Interpreter(patched).arena_bytes


def test_plain_model_is_not_split() -> None:
    assert split(small_models.small_model()) is None


def test_model_with_two_inputs_is_not_split() -> None:
    tree = load_model(patch(small_models.small_model(), "head"))
    graph = tree.subgraphs[0]
    graph.inputs = np.array([graph.inputs[0], graph.operators[3].outputs[0], *graph.inputs[1:]], np.int32)
    assert split(save_model(tree)) is None


def test_layers_with_state_do_not_run_ahead() -> None:
    """A frozen layer that keeps something from pass to pass, and those behind it, run in every pass."""
    tree = load_model(patch(small_models.small_model(), "head"))
    graph = tree.subgraphs[0]
    assert parts_of(save_model(tree)).prefix_layers == 4
    kept = schema.TensorT()
    kept.name, kept.shape, kept.type, kept.isVariable = "kept", np.array([4], np.int32), schema.TensorType.INT8, True
    graph.tensors.append(kept)
    second = graph.operators[2]
    second.inputs = np.array([*second.inputs, len(graph.tensors) - 1], np.int32)
    assert parts_of(save_model(tree)).prefix_layers == 1


def test_output_of_a_frozen_layer_ends_the_prefix() -> None:
    tree = load_model(patch(small_models.small_model(), "head"))
    graph = tree.subgraphs[0]
    early = graph.operators[2].outputs[0]
    graph.outputs = np.array([graph.outputs[0], early, graph.outputs[1]], np.int32)
    assert parts_of(save_model(tree)).prefix_layers == 1


# -- training ----------------------------------------------------------------------------------------------


def test_entropy_without_labels() -> None:
    """The mean prediction is kept in the suffix."""
    model = patch(small_models.small_model(), "exact", "entropy")
    parts_of(model)
    split_up, reference = TflmTrainer(model), whole(model)
    for trainer in (split_up, reference):
        trainer.fit(X, **SETTINGS)
    np.testing.assert_equal(state(split_up), state(reference))
    assert np.any(state(split_up)["loss/mean_prediction"])


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("antithetic", [True, False])
def test_same_bits_as_the_whole_model(name: str, antithetic: bool) -> None:
    original, trainable, method, layers, _ = LATE[name]
    model = patch(original, trainable)
    split_up, reference = assert_trained_alike(model, X, Y, method=method, antithetic=antithetic, **SETTINGS)
    apart, executed = split_up.engine.executions(), reference.engine.executions()
    assert executed.saved == 0
    assert apart.done + apart.saved == executed.done
    assert layers * len(X) <= executed.done - apart.saved


@pytest.mark.parametrize("method", ["weights", "nodes"])
def test_sums_of_gradients_and_layers_at_once(method: str) -> None:
    model = patch(small_models.residual_model(), "a2,b2,dense", accumulate=True)
    assert_trained_alike(model, X, Y, method=method, layerwise=False, **SETTINGS)


def test_float_input() -> None:
    model = patch(small_models.small_model(float_ends=True), "exact")
    assert parts_of(model).prefix_layers == 2
    split_up, reference = assert_trained_alike(model, X, Y, **SETTINGS)
    np.testing.assert_array_equal(split_up.predict(X), reference.predict(X))


def test_frozen_layers_run_once_a_sample() -> None:
    """Three epochs of two directions and their opposites, and a clean pass that updates: fifteen passes a sample."""
    trainer = TflmTrainer(patch(small_models.residual_model(), "a2,b2"))
    settings = SETTINGS | {"queries": 2, "layerwise": False, "method": "nodes"}
    history = trainer.fit(X, Y, **settings)
    passes = 15 * len(X)
    assert trainer.progress.passes == passes
    assert history.layer_executions == 4 * len(X) + 7 * passes
    assert history.saved_executions == 4 * (passes - len(X))
    again = trainer.fit(X, Y, **settings)
    assert (again.layer_executions, again.saved_executions) == (7 * passes, 4 * passes)


def test_whole_model_saves_nothing() -> None:
    trainer = TflmTrainer(patch(small_models.small_model(), "all"))
    history = trainer.fit(X, Y, **SETTINGS)
    assert history.saved_executions == 0
    assert history.layer_executions == 6 * trainer.progress.passes


def test_forgotten_samples_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflm_passes, "_REMEMBERED_BYTES", 5 * (64 + 96))
    model = patch(small_models.small_model(), "exact")
    assert parts_of(model).kept_bytes == 96
    trainer, _ = assert_trained_alike(model, X, Y, **SETTINGS)
    assert isinstance(trainer.engine, TflmEngine)
    frozen = trainer.engine._interpreter._frozen
    assert frozen is not None
    assert len(frozen._remembered) == 5
    assert frozen.runs > len(X)


def test_checkpoint_goes_on(tmp_path: Path) -> None:
    """Also from a trainer that runs the whole model."""
    model = patch(small_models.residual_model(), "a2,b2")
    reference = whole(model, seed=1)
    reference.fit(X, Y, **SETTINGS)
    reference.save(tmp_path / "state")
    reference.fit(X, Y, **SETTINGS)
    trainer = TflmTrainer(model)
    trainer.load(tmp_path / "state")
    trainer.fit(X, Y, **SETTINGS)
    for name, values in state(reference).items():
        np.testing.assert_array_equal(state(trainer)[name], values, err_msg=name)
    trainer.reset()
    assert trainer.bake() == whole(model).bake()


# -- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LATE)
def test_two_models_share_an_arena(name: str) -> None:
    """By TFLM's own accounting: the parts that passes overwrite count once, so two models take little more than
    one; a second set of structures is some hundred bytes, and what is kept outlasts the suffix's pass."""
    original, trainable, _, _, _ = LATE[name]
    model = patch(original, trainable)
    parts = parts_of(model)
    together, alone = TrainingInterpreter(model).arena_bytes, Interpreter(model).arena_bytes
    assert together <= alone + parts.kept_bytes + 1200
    ahead, rest = Interpreter(parts.prefix).arena_parts, Interpreter(parts.suffix).arena_parts
    assert together == max(ahead[0], rest[0]) + ahead[1] + rest[1]


def test_arena_too_small_for_both() -> None:
    model = patch(small_models.small_model(), "exact")
    needed = TflmTrainer(model).arena_bytes
    with pytest.raises(ZoError, match=rf"arena is too small: {needed - 1} bytes.* {needed}\b"):
        TflmTrainer(model, arena_size=needed - 1)
    trainer = TflmTrainer(model, arena_size=needed)
    trainer.fit(X, Y, **SETTINGS)


# -- real models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layers"), [("kws_ref_model", 8), ("pretrainedResnet_quant", 9)])
def test_closed_form_layers_of_real_models(shared_data: Path, name: str, layers: int) -> None:
    model = patch((shared_data / f"mlperf_tiny/{name}.tflite").read_bytes(), "exact")
    assert parts_of(model).prefix_layers == layers
    patched = read_patched(model)
    x = np.random.default_rng(0).integers(-128, 128, (6, *patched.input_shape[1:])).astype(np.int8)
    y = np.arange(6)
    assert_trained_alike(model, x, y, epochs=2, batch_size=3, verbose=False)
