# SPDX-License-Identifier: Apache-2.0
"""Heads of any form: convolutions that are fully connected layers in all but name, and what stands behind a head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from test_monitor import Board
from trainers import SimTrainer, TflmTrainer, board_trainer, values_of

from tflm_zo import ZoError, patch
from tflm_zo.model.file import load_model, save_model, schema
from tflm_zo.model.graph import main_graph
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.serial.device import Device
from tflm_zo.serial.port import SerialPort
from tflm_zo.tflm.evaluate import predict_plain

X, Y = small_models.separable_samples(40, seed=1)
FIT: dict[str, Any] = {"epochs": 2, "batch_size": 4, "holdout": 0.0, "verbose": False}

FORMS: dict[str, dict[str, Any]] = {
    "one pixel": {"head": "point"},
    "the whole map": {"head": "map"},
    "reshaped before softmax": {"head": "point", "behind": ["reshape"]},
    "squeezed before softmax": {"head": "map", "behind": ["squeeze", "squeeze"]},
    "reshaped after softmax": {"head": "map", "last": ["reshape"]},
    "on both sides": {"head": "point", "behind": ["squeeze"], "last": ["expand", "reshape"]},
    "no bias": {"head": "point", "bias": False},
    "one scale": {"head": "map", "per_channel": False},
    "sigmoid": {"head": "point", "behind": ["reshape"], "end": "logistic", "outputs": 1},
    "dense, reshaped": {"head": "dense", "behind": ["image"]},
    "dense, reshaped after softmax": {"head": "dense", "last": ["expand"]},
}


def labels(form: dict[str, Any]) -> np.ndarray:
    return np.minimum(Y, form.get("outputs", 3) - 1 or 1)


def as_dense(model: bytes) -> bytes:
    """The model with its last convolution written as a fully connected layer of the same weights."""
    tree = load_model(model)
    graph = tree.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    tree.operatorCodes.append(code)
    top = [op.index for op in main_graph(tree).operators if op.name == "CONV_2D"][-1]
    operator = graph.operators[top]
    operator.opcodeIndex = len(tree.operatorCodes) - 1
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    weights = graph.tensors[operator.inputs[1]]
    weights.shape = np.array([weights.shape[0], np.prod(weights.shape[1:])], dtype=np.int32)
    return save_model(tree)


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
@pytest.mark.parametrize("trainable", ["head", "exact"])
def test_exact_head_of_any_form(form: dict[str, Any], trainable: str) -> None:
    """Trained exactly, in both engines to the same bits; what is baked is the model with its operators, trained."""
    model = small_models.head_model(**form)
    patched = patch(model, trainable)
    described = read_patched(patched)
    assert described.exact_head
    assert [node.layer for node in described.nodes if node.closed_form] == ([] if trainable == "head" else ["stem"])
    tflm, sim = TflmTrainer(patched, seed=3), SimTrainer(patched, seed=3)
    np.testing.assert_array_equal(tflm.predict_codes(X), predict_plain(model, X))
    y = labels(form)
    assert tflm.fit(X, y, **FIT) == sim.fit(X, y, **FIT)
    found, ours = values_of(tflm), values_of(sim)
    for name, value in found.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    parameters = {p.name: p for p in described.parameters}
    assert np.any(found["top/weights"].reshape(-1) != parameters["top/weights"].initial)
    baked = tflm.bake()
    np.testing.assert_array_equal(predict_plain(baked, X), tflm.predict_codes(X))
    names = [[op.name for op in main_graph(load_model(m)).operators] for m in (model, baked)]
    assert names[0] == names[1]


@pytest.mark.parametrize("form", [f for f in FORMS.values() if f["head"] != "dense"])
def test_convolution_learns_what_the_fully_connected_layer_learns(form: dict[str, Any]) -> None:
    model = small_models.head_model(**form)
    trained = []
    for network in (model, as_dense(model)):
        trainer = TflmTrainer(patch(network), seed=3)
        trainer.fit(X, labels(form), **FIT)
        trained.append(values_of(trainer))
    assert trained[0].keys() == trained[1].keys()
    for name, value in trained[0].items():
        np.testing.assert_array_equal(trained[1][name].reshape(-1), value.reshape(-1), err_msg=name)


def test_a_board_learns_the_same(tmp_path: Path) -> None:
    """The app in C++ trains a convolution as the host does."""
    patched = patch(small_models.head_model("map", behind=["reshape"]))
    host = TflmTrainer(patched, seed=3)
    board = Board(patched, tmp_path / "flash")
    try:
        remote = board_trainer(Device(SerialPort(board.port), 20.0), seed=3)
        for trainer in (remote, host):
            trainer.fit(X, Y, **FIT)
        assert remote.bake() == host.bake()
    finally:
        board.stop()


@pytest.mark.parametrize("loss", ["mse", "entropy"])
@pytest.mark.parametrize("behind", [[], ["reshape"]])
def test_other_losses(loss: str, behind: list[str]) -> None:
    """A squared error compares with the model's own output, of its own shape."""
    model = small_models.head_model("map", behind=behind, end="softmax" if loss == "entropy" else "")
    patched = patch(model, "head", loss)
    y = None
    if loss == "mse":
        y = np.random.default_rng(0).random((len(X), *TflmTrainer(patched).model.output_shape[1:])).astype(np.float32)
    tflm, sim = TflmTrainer(patched, seed=3), SimTrainer(patched, seed=3)
    assert read_patched(patched).exact_head
    assert tflm.fit(X, y, **FIT) == sim.fit(X, y, **FIT)
    for name, value in values_of(tflm).items():
        np.testing.assert_array_equal(values_of(sim)[name], value, err_msg=name)


def test_softmax_over_rows_is_no_vector_of_logits() -> None:
    """Six logits in two rows: the softmax is that of a row, whatever the layer before the reshape makes."""
    tree = load_model(small_models.head_model("dense", outputs=6, behind=["image"]))
    graph = tree.subgraphs[0]
    for name in ("flat", "probabilities"):
        tensor = [t for t in graph.tensors if t.name.decode() == name][-1]
        tensor.shape = np.array([1, 1, 2, 3], dtype=np.int32)
    with pytest.raises(ZoError, match=r"top makes the output, but has logits at many positions|does not see its whole"):
        patch(save_model(tree))
    with pytest.raises(ZoError, match="one vector of logits"):
        patch(save_model(tree), "last:1", "entropy")
    assert read_patched(patch(save_model(tree), "last:1")).loss.positions == 2


@pytest.mark.parametrize("name", ["c_himax_handwriting"])
def test_models_of_strangers(name: str, shared_data: Path) -> None:
    model = (shared_data / "strangers" / f"{name}.tflite").read_bytes()
    patched = patch(model)
    described = read_patched(patched)
    assert described.exact_head
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (16, *described.input_shape[1:])).astype(np.int8)
    y = rng.integers(0, described.loss.classes, len(x))
    tflm, sim = TflmTrainer(patched, seed=3), SimTrainer(patched, seed=3)
    assert tflm.fit(x, y, **FIT) == sim.fit(x, y, **FIT)
    for parameter, value in values_of(tflm).items():
        np.testing.assert_array_equal(values_of(sim)[parameter], value, err_msg=parameter)
    np.testing.assert_array_equal(predict_plain(tflm.bake(), x), tflm.predict_codes(x))
