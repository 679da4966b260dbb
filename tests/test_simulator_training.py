# SPDX-License-Identifier: Apache-2.0
"""Training in the simulator against training in TFLite Micro: the same weights, losses and outputs, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from trainers import SimTrainer, TflmTrainer, values_of

from tflm_zo import Trainer, ZoError, patch
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm.evaluate import predict_plain

X, Y = small_models.separable_samples(44, seed=1)
# 12 batches an epoch, the last of fewer samples: 24 steps.
SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 4,
    "queries": 2,
    "lr": 3e-3,
    "node_lr": 1e-2,
    "lr_end": 0.3,
    "adapter_lr": 0.03,
    "holdout": 0.0,  # what is compared is the training itself
    "verbose": False,
}


def states(trainer: Trainer) -> dict[str, np.ndarray]:
    """Everything that training changes: weights, residuals, moments, by name."""
    return values_of(trainer)


def assert_same(tflm: Trainer, sim: Trainer) -> None:
    ours = states(sim)
    for name, value in states(tflm).items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert sim.progress == tflm.progress


def assert_changed(trainer: Trainer, *layers: str) -> None:
    """At least ``layers``, all trained ones by default, are not what they were."""
    for p in trainer.model.parameters:
        if not p.in_model or (layers and p.layer not in layers):
            continue
        assert np.any(states(trainer)[p.name].reshape(-1) != p.initial), p.name


def train_both(
    model: bytes, x: np.ndarray = X, y: np.ndarray | None = Y, seed: int = 3, **changes: Any
) -> tuple[Trainer, Trainer]:
    """Both trainers after the same fit; all they show of it must be the same."""
    settings = SETTINGS | changes
    tflm, sim = TflmTrainer(model, seed=seed), SimTrainer(model, seed=seed)
    expected = tflm.fit(x, y, **settings)
    assert sim.fit(x, y, **settings) == expected
    assert_same(tflm, sim)
    assert sim.bake() != SimTrainer(model).bake()
    assert sim.evaluate(x, y) == tflm.evaluate(x, y)
    np.testing.assert_array_equal(sim.predict_codes(x), tflm.predict_codes(x))
    assert sim.bake() == tflm.bake()
    return tflm, sim


# -- every method ------------------------------------------------------------------------------------------


def test_exact_head(small: bytes) -> None:
    assert_changed(train_both(patch(small, "head"))[1])


def test_closed_form_before_the_head(small: bytes) -> None:
    assert_changed(train_both(patch(small, "exact"))[1], "spread", "dense")


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("layerwise", [True, False])
@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(
    "method",
    ["weights", "nodes", {"stem": "weights", "spread": "nodes"}, {"stem": "nodes", "spread": "weights"}],
    ids=str,
)
def test_perturbation(small: bytes, method: Any, antithetic: bool, layerwise: bool, accumulate: bool) -> None:
    """Weights and nodes, each alone and mixed, together with the exact head."""
    model = patch(small, "all", accumulate=accumulate)
    _, sim = train_both(model, method=method, antithetic=antithetic, layerwise=layerwise)
    assert_changed(sim)


@pytest.mark.parametrize("accumulate", [False, True])
def test_masks_and_gradient_scaling(small: bytes, accumulate: bool) -> None:
    model = patch(small, "all", accumulate=accumulate)
    settings: dict[str, Any] = {"keep": 0.4, "method": {"stem": "weights"}, "node_lr": 0.3}
    _, masked = train_both(model, gradient_scaling="sqrt-dim", layerwise=accumulate, **settings)
    assert_changed(masked)
    assert masked.bake() != train_both(model, layerwise=accumulate, **settings)[1].bake()


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "step"])
def test_lr_schedules(small: bytes, lr_schedule: str) -> None:
    model = patch(small, "exact", adapter=True)
    assert train_both(model, lr_schedule=lr_schedule)[1].bake() != train_both(model)[1].bake()


@pytest.mark.parametrize("block", [0, 3])
def test_node_blocks(small: bytes, block: int) -> None:
    train_both(patch(small, "all"), method="nodes", node_block=block, layerwise=False)


@pytest.mark.parametrize("trainable", ["head", "exact", "all"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_adapter(small: bytes, trainable: str, accumulate: bool) -> None:
    """Directions of each sample, Adam."""
    _, sim = train_both(patch(small, trainable, adapter=True, accumulate=accumulate))
    assert_changed(sim, "adapter")


def test_adapter_after_other_weights(small: bytes) -> None:
    model = patch(small, "all", adapter=True)
    train_both(model, method={"adapter": "weights", "stem": "weights", "spread": "nodes"}, layerwise=False)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    "method", ["auto", "weights", {"stem": "nodes", "spread": "weights", "dense": "exact"}], ids=str
)
def test_bias_only(small: bytes, method: Any, accumulate: bool) -> None:
    model = patch(small, "bias", accumulate=accumulate)
    assert_changed(train_both(model, batch_size=3, method=method)[1])
    train_both(patch(small, "stem/bias,spread", accumulate=accumulate), keep=0.5)


def test_bias_only_beside_the_exact_head(small: bytes) -> None:
    assert_changed(train_both(patch(small, "bias,head"), method={"stem": "weights"})[1])


@pytest.mark.parametrize("method", ["nodes", "weights"])
def test_mean_squared_error(small: bytes, method: str) -> None:
    model = patch(small_models.small_model("none", outputs=5), "all", "mse", adapter=True)
    targets = np.random.default_rng(4).uniform(-1, 1, (len(X), 5)).astype(np.float32)
    assert_changed(train_both(model, X, targets, method=method)[1], "stem", "spread")


@pytest.mark.parametrize("antithetic", [True, False])
def test_entropy(small: bytes, antithetic: bool) -> None:
    """Without labels; the mean prediction is a part of the state."""
    model = patch(small, "all", "entropy", adapter=antithetic)
    assert "loss/mean_prediction" in states(SimTrainer(model))
    sim = train_both(model, y=None, antithetic=antithetic, method={"stem": "weights"})[1]
    assert np.any(states(sim)["loss/mean_prediction"])
    assert "accuracy" not in sim.evaluate(X)


@pytest.mark.parametrize("shared", ["tensor", "buffer"])
@pytest.mark.parametrize("method", ["auto", "weights"])
def test_shared_weights(shared: str, method: str) -> None:
    train_both(patch(small_models.small_model(shared=shared), "all"), method=method)


@pytest.mark.parametrize("changes", [{"bias": False}, {"per_channel": False}, {"extreme": True}], ids=str)
def test_other_models(changes: dict[str, Any]) -> None:
    for end, loss in (("softmax", "auto"), ("relu", "mse")):
        model = patch(small_models.small_model(end, **changes), "all", loss)
        y = Y if loss == "auto" else np.eye(3, dtype=np.float32)[Y]
        train_both(model, X, y, layerwise=False)


@pytest.mark.parametrize("finer", [1.0, 1.7])
@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize(
    ("trainable", "adapter"), [("exact", False), ("exact", True), ("all", False), ("all", True)], ids=str
)
def test_mean_before_the_head(trainable: str, adapter: bool, keep_dims: bool, finer: float) -> None:
    """Keras' GlobalAveragePooling2D: the layer before it has a closed form."""
    model = patch(small_models.mean_model(keep_dims=keep_dims, finer=finer), trainable, adapter=adapter)
    _, sim = train_both(model)
    assert_changed(sim, "probe", "dense")
    if trainable == "all":
        assert_changed(train_both(model, method={"stem": "nodes", "probe": "weights"})[1])


SEQUENCES = np.random.default_rng(5).uniform(-1, 1, (44, 12, 4)).astype(np.float32)


@pytest.mark.parametrize("method", ["nodes", "weights"])
@pytest.mark.parametrize("adapter", [False, True])
def test_sequences(adapter: bool, method: str) -> None:
    """Layers are counted without operators that compute shapes."""
    _, sim = train_both(patch(small_models.sequence_model(), "all", adapter=adapter), SEQUENCES, method=method)
    assert_changed(sim, "first", "second", "dense")


@pytest.mark.parametrize("trainable", ["exact", "last:2"])
def test_frozen_operators_before_trained_ones(trainable: str) -> None:
    train_both(patch(small_models.sequence_model(), trainable), SEQUENCES)


def test_two_classes_behind_a_logistic_function() -> None:
    model = patch(small_models.sequence_model("logistic"), "all", adapter=True)
    assert_changed(train_both(model, SEQUENCES, Y % 2)[1])


@pytest.mark.parametrize("end", ["softmax", "none"])
@pytest.mark.parametrize("method", ["auto", "nodes", "weights"])
def test_float_input_and_output(method: str, end: str) -> None:
    model = patch(small_models.small_model(end, float_ends=True), "all", "cross-entropy")
    _, sim = train_both(model, method=method)
    assert_changed(sim)
    assert sim.predict(X).dtype == sim.predict_codes(X).dtype == np.float32


@pytest.mark.parametrize("trainable", ["exact", "all"])
@pytest.mark.parametrize("method", ["auto", "weights"])
def test_a_gate_of_its_own_input(trainable: str, method: str) -> None:
    """A tensor that two operators read, one of them broadcast; the stem is needed behind the gate that is perturbed."""
    model = patch(small_models.gated_model(), trainable, adapter=True)
    assert_changed(train_both(model, method=method)[1])


@pytest.mark.parametrize("trainable", ["exact", "all"])
@pytest.mark.parametrize("method", ["auto", "nodes", "weights"])
def test_branches_of_tables_and_moves(trainable: str, method: str) -> None:
    model = patch(small_models.branches_model(), trainable, adapter=trainable == "all")
    _, sim = train_both(model, method=method)
    assert_changed(sim, *(("stem", "probe") if trainable == "all" else ()))


def test_head_on_the_input_itself() -> None:
    x = np.random.default_rng(2).uniform(-1, 1, (40, 20)).astype(np.float32)
    y = np.arange(40) % 5
    assert_changed(train_both(patch(small_models.dense_model()), x, y)[1])
    train_both(patch(small_models.twin_dense_model(bias=True), "all"), x[:, :6], y, lr=1e-2)


# -- a trainer like the other ------------------------------------------------------------------------------


def test_validation_callbacks_and_a_second_fit(small: bytes) -> None:
    """Measuring and loading in the middle of a fit must not leave stale activations behind."""
    model = patch(small, "exact", adapter=True)
    results = []
    for kind in (TflmTrainer, SimTrainer):
        trainer = kind(model, seed=1)
        trainer.fit(X, Y, validation_data=(X[:10], Y[:10]), **(SETTINGS | {"epochs": 1}))
        history = trainer.fit(
            X[:20],
            Y[:20],
            validation_data=(X[:10], Y[:10]),
            callbacks=[lambda t, logs: logs["passes"] > 150],
            **SETTINGS,
        )
        results.append((history, states(trainer)))
    assert results[0][0] == results[1][0]
    np.testing.assert_equal(results[1][1], results[0][1])


def test_checkpoints_are_those_of_tflm(small: bytes, tmp_path: Path) -> None:
    model = patch(small, "all", adapter=True)
    tflm, sim = train_both(model)
    tflm.save(tmp_path / "tflm")
    sim.save(tmp_path / "sim")
    again = SimTrainer(model)
    again.load(tmp_path / "tflm")
    assert_same(tflm, again)
    tflm.load(tmp_path / "sim")
    for trainer in (tflm, again):
        trainer.fit(X, Y, **(SETTINGS | {"method": "weights"}))
    assert_same(tflm, again)
    for trainer in (tflm, again):
        trainer.reset()
    assert_same(tflm, again)
    assert again.evaluate(X, Y) == tflm.evaluate(X, Y)


def test_errors_and_accounting(small: bytes) -> None:
    model = patch(small)
    assert SimTrainer(model).arena_bytes == TflmTrainer(model).arena_bytes
    with pytest.raises(ZoError, match="arena is too small"):
        SimTrainer(model, arena_size=2000)
    with pytest.raises(ZoError, match="no training ops"):
        SimTrainer(small)
    with pytest.raises(ZoError, match="LOG_SOFTMAX"):
        SimTrainer(patch(small_models.small_model("log-softmax"), "all", "mse"))
    with pytest.raises(ZoError, match="class"):
        SimTrainer(model).fit(X, Y + 7, verbose=False)


# -- the shared models -------------------------------------------------------------------------------------


def real_model(shared_data: Path, name: str, **options: Any) -> bytes:
    return patch((shared_data / "mlperf_tiny" / name).read_bytes(), **options)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"trainable": "bias", "adapter": True}, {"queries": 1, "layerwise": False}),
        ({"trainable": "exact", "adapter": True}, {}),
        ({"trainable": "conv2d*", "accumulate": True}, {"queries": 1, "layerwise": False, "batch_size": 2}),
    ],
    ids=["biases", "adapter", "nodes"],
)
def test_keyword_spotting(shared_data: Path, options: dict[str, Any], settings: dict[str, Any]) -> None:
    data = np.load(shared_data / "kws01_dev.npz")
    model = real_model(shared_data, "kws_ref_model.tflite", **options)
    train_both(model, data["x"][:44], data["y"][:44], **settings)


@pytest.mark.slow
def test_steps_of_more_passes_than_go_together(shared_data: Path) -> None:
    """A step of 1040 passes needs more memory than the simulator takes at a time."""
    data = np.load(shared_data / "kws01_dev.npz")
    model = real_model(shared_data, "kws_ref_model.tflite", trainable="conv2d*", accumulate=True)
    settings = {"epochs": 1, "batch_size": 16, "queries": 32, "layerwise": False}
    train_both(model, data["x"][:16], data["y"][:16], **settings)


@pytest.mark.parametrize("method", ["auto", "weights"])
def test_resnet(shared_data: Path, method: str) -> None:
    """Additions: a branch that is not perturbed is needed behind one that is."""
    data = np.load(shared_data / "cifar10_jpeg_dev.npz")
    x = (data["x"][:20].astype(np.int16) - 128).astype(np.int8)
    model = real_model(shared_data, "pretrainedResnet_quant.tflite", trainable="all", adapter=True)
    settings = {"epochs": 1, "batch_size": 1, "queries": 1, "layerwise": False, "antithetic": True}
    train_both(model, x, data["y"][:20], method=method, **settings)


def test_autoencoder(shared_data: Path) -> None:
    x = np.random.default_rng(1).integers(-60, 60, (22, 640)).astype(np.int8)
    model = real_model(shared_data, "ad01_int8.tflite", trainable="all", loss="mse")
    train_both(model, x, x, queries=1, batch_size=1, layerwise=False, epochs=1)


def test_streaming_wake_word(shared_data: Path) -> None:
    model = real_model(shared_data, "str_ww_ref_model.tflite", trainable="all")
    shape = SimTrainer(model).model.input_shape[1:]
    x = np.random.default_rng(1).integers(-128, 128, (20, *shape)).astype(np.int8)
    y = np.arange(20) % 3
    train_both(model, x, y, queries=1, batch_size=1, layerwise=False, epochs=1)


def test_visual_wake_words(shared_data: Path) -> None:
    model = real_model(shared_data, "vww_96_int8.tflite", trainable="exact")
    x = np.random.default_rng(1).integers(-128, 128, (20, 96, 96, 3)).astype(np.int8)
    train_both(model, x, np.arange(20) % 2, batch_size=1, epochs=1)


STRANGERS = [
    "c_atomic14_marvin",
    "c_tflm_magic_wand",
    "cookekieran_tinyml",
    "fz_gestes",
    "hiimshyy_har",
    "jomjol_ana_cont",
    "lmanubens_gesture",
    "made/keras_gap",
    "made/ml",
    "openmv_force_int",
    "silabs_fingerprint",
    "silabs_micro_speech",
    "tflm_hello_world",
    "tofai_handpose",
]


@pytest.mark.parametrize("trainable", ["exact", "all"])
@pytest.mark.parametrize("name", STRANGERS)
def test_models_of_strangers(shared_data: Path, name: str, trainable: str) -> None:
    content = (shared_data / "strangers" / f"{name}.tflite").read_bytes()
    sim = SimModel(content)
    source = sim.tensors[sim.inputs[0]]
    rng = np.random.default_rng(1)
    codes = rng.normal(source.zero_point, 40, (20, *source.sample_shape))
    x = ((codes - source.zero_point) * source.scale).astype(np.float32)
    np.testing.assert_array_equal(sim.reals(sim.run(sim.codes(x))), predict_plain(content, x))
    model = patch(content, trainable)
    loss = SimTrainer(model).model.loss
    y = rng.integers(0, max(loss.classes, 2), 20) if loss.classes else rng.uniform(-1, 1, (20, loss.outputs))
    train_both(model, x, y.astype(None if loss.classes else np.float32), epochs=1, queries=1, lr=0.1, head_lr=0.1)
