# SPDX-License-Identifier: Apache-2.0
"""What a model's input, output and labels are: one decision, and so one number, whoever measures."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from trainers import SimTrainer, TflmTrainer, values_of

from tflm_zo import Trainer, ZoError, adapt, patch, realign
from tflm_zo.board.memory import input_bytes
from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.conversion.evaluate import evaluate_plain, predict_values
from tflm_zo.errors import DataWarning
from tflm_zo.model.file import load_model, save_model, schema
from tflm_zo.model.labels import plain_ends, read_labels
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.serial.board_engine import BoardEngine
from tflm_zo.serial.device import Device
from tflm_zo.serial.port import SerialPort
from tflm_zo.serial.virtual_board import HostApp, PseudoTerminal
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.tuning.layer_selection import select_layers

X, Y = small_models.separable_samples(48, 1)
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "verbose": False, "holdout": 0.0}
ENDS: dict[str, dict[str, Any]] = {"int8": {}, "float": {"float_ends": True}, "uint8": {"uint8_ends": True}}


@contextmanager
def board_of(model: bytes, flash: Path) -> Iterator[Trainer]:
    """A trainer of the app with ``model``, over a serial line, as ``tflm-zo monitor`` has it."""
    terminal, stopped = PseudoTerminal(), threading.Event()
    app = HostApp(model, terminal.line, flash)
    thread = threading.Thread(target=app.serve, args=(stopped.is_set,), daemon=True)
    thread.start()
    try:
        device = Device(SerialPort(terminal.name), 20.0)
        yield Trainer(model, engine=BoardEngine(device, read_patched(device.read_model())))
    finally:
        stopped.set()
        thread.join()
        app.close()
        terminal.close()


# -- one number ----------------------------------------------------------------------------------------------


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count)[classes]


def class_forms(y: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """The same classes in all forms."""
    names = np.array([f"class {i}" for i in range(count)])
    forms = {
        "indices": y,
        "column": y[:, None],
        "float": y.astype(np.float32),
        "uint8": y.astype(np.uint8),
        "int8": y.astype(np.int8),
        "one-hot": one_hot(y, count),
        "one-hot bool": one_hot(y, count).astype(bool),
        "names": names[y],
        "column of names": names[y][:, None],
    }
    return forms | ({"bool": y.astype(bool), "bool column": y.astype(bool)[:, None]} if count == 2 else {})


FLAGS = (np.arange(48)[:, None] + np.arange(3)) % 4 < 2
VECTORS = np.sin(np.arange(144).reshape(48, 3)).astype(np.float32) * 3
# Model, loss it is patched for, labels in several forms that mean the same, and the measure.
MEASURES: dict[str, tuple[dict[str, Any], str, dict[str, np.ndarray], str]] = {
    "softmax": ({}, "auto", class_forms(Y, 3), "accuracy"),
    "two classes": ({"outputs": 2}, "auto", class_forms(Y % 2, 2), "accuracy"),
    "logits": ({"end": "none"}, "cross-entropy", class_forms(Y, 3), "accuracy"),
    "one sigmoid": ({"end": "logistic", "outputs": 1}, "auto", class_forms(Y % 2, 2), "accuracy"),
    "one sigmoid by mse": (
        {"end": "logistic", "outputs": 1},
        "mse",
        {k: v for k, v in class_forms(Y % 2, 2).items() if "hot" not in k},
        "accuracy",
    ),
    "sigmoids for classes": ({"end": "logistic"}, "auto", class_forms(Y, 3), "accuracy"),
    "sigmoids for labels": (
        {"end": "logistic"},
        "mse",
        {"bool": FLAGS, "int": FLAGS.astype(np.int64), "float": FLAGS.astype(np.float32)},
        "label_accuracy",
    ),
    "scalar": ({"end": "none", "outputs": 1}, "auto", {"row": VECTORS[:, 0], "column": VECTORS[:, :1]}, ""),
    "whole numbers": ({"end": "none", "outputs": 1}, "auto", {"row": Y, "column": Y[:, None], "float": Y * 1.0}, ""),
    "vector": ({"end": "none"}, "mse", {"float32": VECTORS, "float64": VECTORS.astype(np.float64)}, ""),
    "probabilities": ({}, "mse", {"float": abs(VECTORS) / abs(VECTORS).sum(axis=1, keepdims=True)}, ""),
    "fractions": ({"end": "logistic", "outputs": 1}, "mse", {"row": abs(VECTORS[:, 0]) / 3}, ""),
}


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.filterwarnings("ignore::tflm_zo.errors.DataWarning")
def test_everybody_measures_the_same(tmp_path: Path, kind: str, ends: str) -> None:
    """Plain model, both engines and a board, before and after training, whatever form the labels have."""
    options, loss, forms, measure = MEASURES[kind]
    plain = small_models.small_model(**options, **ENDS[ends])
    model = patch(plain, "all", loss)
    trainer = SimTrainer(model)
    assert evaluate_plain(trainer.bake(), X, forms[next(iter(forms))]) == evaluate_plain(
        plain, X, forms[next(iter(forms))]
    )
    trainer.fit(X, next(iter(forms.values())), **SETTINGS)
    baked = trainer.bake()
    trainer.save(tmp_path / "trained.ckpt")
    reference = TflmTrainer(model)
    reference.load(tmp_path / "trained.ckpt")
    with board_of(model, tmp_path / "flash") as board:
        board.engine.write(trainer.engine.read())
        found = {}
        for form, y in forms.items():
            scores = [one.evaluate(X, y) for one in (trainer, reference, board)]
            assert scores[0] == scores[1] == scores[2], form
            (name, value), *others = evaluate_plain(baked, X, y).items()
            assert not others and name == (measure or "mean_squared_error"), form
            assert scores[0][measure or "loss"] == value, form
            found[form] = scores[0]
    assert all(scores == found[next(iter(forms))] for scores in found.values()), (
        "the form of the labels changes nothing"
    )


def test_tied_outputs_are_measured_alike(tmp_path: Path) -> None:
    """Logits that differ by less than the output can tell: who has only the output sees a tie."""
    model = patch(small_models.dense_model(features=8, outputs=4), "head")
    trainer = SimTrainer(model)
    weights = trainer.engine.read()
    for parameter in trainer.model.parameters:
        if parameter.in_model:  # logits all about the same
            weights.values[parameter.index][...] = np.sign(weights.values[parameter.index])
    trainer.engine.write(weights)
    x = np.random.default_rng(3).uniform(-1, 1, (200, 8)).astype(np.float32)
    with board_of(model, tmp_path / "flash") as board:
        board.engine.write(weights)
        for y in (np.zeros(200, int), np.full(200, 1), np.arange(200) % 4):
            accuracy = evaluate_plain(trainer.bake(), x, y)["accuracy"]
            assert trainer.evaluate(x, y)["accuracy"] == board.evaluate(x, y)["accuracy"] == accuracy


@pytest.mark.parametrize(
    ("options", "y", "message"),
    [
        ({}, Y + 0.5, "y has dtype float64"),
        ({}, Y + 1, "is class 3, but the model has 3 classes"),
        ({}, one_hot(Y, 4), "y has 4 values a sample, the model's output 3: give class indices"),
        ({}, np.where(Y == 2, "one", "two"), "y has 2 names .one, two., but the model has 3 classes"),
        ({}, Y[:-1], "y has shape .47,., but x has 48 samples"),
        ({"end": "logistic", "outputs": 1}, Y, "is class 2, but the model has 2 classes"),
        ({"end": "none"}, np.where(VECTORS > 2.9, np.nan, VECTORS), r"y\[\d+\] has a value that is not finite"),
        ({}, Y.astype(object), "y has dtype object"),
    ],
)
def test_labels_that_mean_nothing(options: dict[str, Any], y: np.ndarray, message: str) -> None:
    model = small_models.small_model(**options)
    with pytest.raises(ZoError, match=message):
        evaluate_plain(model, X, y)
    with pytest.raises(ZoError, match=message):
        SimTrainer(patch(model)).evaluate(X, y)


def test_flags_for_a_model_of_classes_say_what_to_do() -> None:
    trainer = SimTrainer(patch(small_models.small_model("logistic")))
    with pytest.raises(ZoError, match=r"several labels, or with none.*patch it with loss mse"):
        trainer.fit(X, FLAGS, **SETTINGS)


def test_loss_is_of_the_labels_as_they_are() -> None:
    """Training compares with codes, which targets beyond the output's range are clipped to; measures do not."""
    trainer = SimTrainer(patch(small_models.small_model("none", outputs=1)))
    y = np.full(len(X), 1000.0)
    with pytest.warns(
        DataWarning, match=r"100 % of the values of y lie beyond the output's range.*clipped in training"
    ):
        loss = trainer.evaluate(X, y)["loss"]
    assert loss == pytest.approx(float(np.mean((trainer.predict(X).reshape(-1) - y) ** 2)))
    losses, right = trainer.sample_scores(X, y)
    assert right is None and losses.mean() == pytest.approx(loss, rel=1e-6)


# -- input and output of other types -----------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("ends", ENDS)
def test_ends_of_all_types_go_the_whole_way(ends: str, adapter: bool) -> None:
    plain = small_models.small_model(**ENDS[ends])
    model = patch(plain, "exact", adapter=adapter)
    expected = predict_plain(plain, X)
    assert expected.dtype == {"int8": np.int8, "float": np.float32, "uint8": np.uint8}[ends]
    trainers = [SimTrainer(model), TflmTrainer(model)]
    for trainer in trainers:
        np.testing.assert_array_equal(trainer.predict_codes(X), expected, "patched and untrained")
        trainer.fit(X, Y, **SETTINGS)
        np.testing.assert_array_equal(predict_plain(trainer.bake(), X), trainer.predict_codes(X))
    first, second = (values_of(trainer) for trainer in trainers)
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], name)
    patched = read_patched(model)
    assert input_bytes(patched) == expected.dtype.itemsize * 64
    assert plan_memory(model, "nano33ble").ram_used > 0


@pytest.mark.parametrize("ends", ENDS)
def test_samples_as_values_codes_and_images(ends: str) -> None:
    """Integers are codes: int8 those of the tensor inside, uint8 the same plus 128."""
    plain = small_models.small_model(**ENDS[ends])
    quantization = plain_ends(plain)[0].quantization
    assert quantization is not None
    codes = np.random.default_rng(0).integers(-128, 128, (20, 8, 8, 1)).astype(np.int8)
    values = quantization.reals(codes).astype(np.float32)
    images = (codes.astype(int) + 128).astype(np.uint8)
    simulated = SimModel(plain)
    expected = predict_values(plain, values)
    np.testing.assert_array_equal(simulated.reals(simulated.run(codes)).shape, expected.shape)
    for x in (codes, values.astype(np.float64)):
        np.testing.assert_array_equal(predict_values(plain, x), expected)
    np.testing.assert_array_equal(predict_values(plain, images), expected)
    assert adapt(plain, codes, np.arange(20) % 3, passes=60).model


@pytest.mark.parametrize("ends", ["float", "uint8"])
def test_preparation_and_selection_behind_other_ends(ends: str) -> None:
    plain = small_models.small_model(**ENDS[ends])
    drifted = (0.5 * X + 0.2).astype(np.float32)
    realigned = realign(plain, X, drifted)
    same = realign(small_models.small_model(), X, drifted)
    np.testing.assert_array_equal(predict_values(realigned, drifted), predict_values(same, drifted))
    found = adapt(plain, drifted, Y, X, epochs=2)
    assert evaluate_plain(found.model, drifted, Y)["accuracy"] >= evaluate_plain(plain, drifted, Y)["accuracy"]
    assert plain_ends(found.model)[0].outer.type == plain_ends(plain)[0].outer.type != "INT8"


def test_other_types_are_refused_by_name_with_the_remedy() -> None:
    tree = load_model(small_models.small_model(float_ends=True))
    graph = tree.subgraphs[0]
    graph.tensors[graph.inputs[0]].type = schema.TensorType.INT16
    model = save_model(tree)
    for use in (lambda: evaluate_plain(model, X, Y), lambda: patch(model, adapter=True), lambda: realign(model, X, X)):
        with pytest.raises(ZoError, match=r"'real' is int16 \[1, 8, 8, 1\].*convert"):
            use()


def test_a_reference_needs_int8_codes() -> None:
    with pytest.raises(ZoError, match=r"reference samples need an int8 input, but 'real' is float32 \[1, 8, 8, 1\]"):
        patch(small_models.small_model(float_ends=True), adapter=True, reference=X)


# -- which loss ----------------------------------------------------------------------------------------------------


def with_scale(model: bytes, scale: float) -> bytes:
    tree = load_model(model)
    graph = tree.subgraphs[0]
    graph.tensors[graph.outputs[0]].quantization.scale = np.array([scale], np.float32)
    return save_model(tree)


@pytest.mark.parametrize(
    ("model", "loss"),
    [
        (small_models.small_model(), "cross-entropy"),
        (small_models.small_model("logistic", outputs=1), "cross-entropy"),
        (with_scale(small_models.small_model("none"), 0.1), "cross-entropy"),
        (with_scale(small_models.small_model("none"), 0.005), "mse"),  # sines, coordinates, embeddings
        (with_scale(small_models.small_model("none", outputs=1), 0.1), "mse"),
        (with_scale(small_models.dense_model("none", features=5, outputs=5), 0.1), "mse"),  # gives its input back
        (with_scale(small_models.small_model("relu"), 0.1), "mse"),
    ],
)
def test_auto_takes_logits_for_what_looks_like_them(model: bytes, loss: str) -> None:
    assert patch(model, "all") == patch(model, "all", loss)


@pytest.mark.parametrize(("scale", "y", "loss"), [(0.005, Y, "cross-entropy"), (0.1, VECTORS / 10, "mse")])
def test_labels_decide_the_loss_where_they_are_known(scale: float, y: np.ndarray, loss: str) -> None:
    model = with_scale(small_models.small_model("none"), scale)
    found = select_layers(model, X, y, passes=400, folds=2, verbose=False)
    assert found.loss == loss
    assert (found.untrained.accuracy is None) == (loss == "mse")
    told = select_layers(model, X, one_hot(Y, 3), passes=400, folds=2, loss="mse", verbose=False)
    assert told.loss == "mse"


# -- what is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X * 50, Y, "% of the values of x lie beyond the input's range.*are clipped: are they in the units"),
        (np.ones_like(X) * 0.5, Y, "all 48 samples of x are the same"),
        (X, np.array(["a", "b", "c"])[Y], "y has names: a, b, c are taken for classes 0 to 2, as sorted"),
        ((X * 50 + 100).astype(np.uint8), Y, "x is uint8: 0 to 255 are taken for the input's codes, -1.078 to 1.122"),
    ],
)
@pytest.mark.parametrize("use", ["evaluate", "fit", "plain", "adapt"])
def test_what_does_not_fit_is_told_in_a_line(x: np.ndarray, y: np.ndarray, message: str, use: str) -> None:
    plain = small_models.small_model()
    uses: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: SimTrainer(patch(plain)).evaluate(x, y),
        "fit": lambda: SimTrainer(patch(plain)).fit(x, y, **SETTINGS),
        "plain": lambda: evaluate_plain(plain, x, y),
        "adapt": lambda: adapt(plain, x, y, epochs=1),
    }
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        uses[use]()
    ours = [str(one.message) for one in told if one.category is DataWarning]
    assert len(ours) == 1 and re.search(message, ours[0]) and "\n" not in ours[0]


def test_nothing_is_told_of_what_fits() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        evaluate_plain(small_models.small_model(), X * 0.7, Y)


def test_int8_values_are_codes_unless_they_are_flags() -> None:
    _, outputs = plain_ends(small_models.small_model("none"))
    assert outputs.quantization is not None
    codes = np.arange(-9, 9, dtype=np.int8).reshape(6, 3)
    np.testing.assert_array_equal(read_labels(codes, 6, outputs).values, outputs.quantization.reals(codes))
    found = read_labels(np.eye(3, dtype=np.int8), 3, outputs)
    assert found.classes is not None and found.classes.tolist() == [0, 1, 2]


# -- models of strangers ---------------------------------------------------------------------------------------------

# By the type of input and output that they have, and whether their bare outputs are logits.
STRANGERS = {
    "openmv_force_int": ("FLOAT32", "FLOAT32", 0),
    "jomjol_ana_cont": ("FLOAT32", "FLOAT32", 0),  # sine and cosine
    "c_atomic14_marvin": ("FLOAT32", "FLOAT32", 2),
    "made/uint8": ("UINT8", "UINT8", 3),
    "cookekieran_tinyml": ("INT8", "INT8", 2),
    "lmanubens_gesture": ("INT8", "INT8", 2),
    "silabs_fingerprint": ("INT8", "INT8", 0),  # an embedding
    "tflm_hello_world": ("INT8", "INT8", 0),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_models_of_strangers(name: str, shared_data: Path) -> None:
    """Untrained as they were, trained by the loss that suits them, baked as trained, and one number for them all."""
    plain = (shared_data / "strangers" / f"{name}.tflite").read_bytes()
    inputs, outputs, classes = STRANGERS[name]
    source, there = plain_ends(plain)
    assert (source.outer.type, there.end.outer.type) == (inputs, outputs)
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (10, *source.shape)).astype(np.int8)
    y = rng.integers(0, classes, 10) if classes else rng.uniform(-0.5, 0.5, (10, there.count))
    for adapter in (False, True):
        model = patch(plain, adapter=adapter)
        assert read_patched(model).loss.classes == classes
        trainer = Trainer(model)
        np.testing.assert_array_equal(trainer.predict_codes(x), predict_plain(plain, x))
        trainer.fit(x, y, **SETTINGS)
        baked = trainer.bake()
        np.testing.assert_array_equal(trainer.predict_codes(x), predict_plain(baked, x))
        (value,) = evaluate_plain(baked, x, y).values()
        assert trainer.evaluate(x, y)["accuracy" if classes else "loss"] == value


# Of the models made after users' reports, labels that mean the same, and what measures them.
REPORTED = {
    "fall": (("fall_t", "fall_n1"), "accuracy"),
    "mixn": (("mixn", "onehot"), "accuracy"),
    "sine": (("sine_out", "sine_out_n1"), "mean_squared_error"),
    "r_sigmoid": (("r_a",), "mean_squared_error"),
    "ml": (("ml_a",), "label_accuracy"),
    "keras_gap": (("keras_gap_rep",), "accuracy"),  # x is uint8
    "uint8": (("wint",), "accuracy"),
}


@pytest.mark.parametrize("name", REPORTED)
@pytest.mark.filterwarnings("ignore::tflm_zo.errors.DataWarning")
def test_reported_measures(name: str, shared_data: Path) -> None:
    folder = shared_data / "strangers" / "made"
    model = (folder / f"{name}.tflite").read_bytes()
    files, measure = REPORTED[name]
    loss = "auto" if measure == "accuracy" else "mse"
    values = set()
    for file in files:
        with np.load(folder / f"{file}.npz") as data:
            x, y = data["x"], data["y"]
        (found, value), *others = evaluate_plain(model, x, y).items()
        assert found == measure and not others
        scores = SimTrainer(patch(model, "all", loss)).evaluate(x, y)
        assert scores["loss" if measure == "mean_squared_error" else measure] == value
        values.add(value)
    assert len(values) == 1


def test_int16_is_refused_in_one_line(shared_data: Path) -> None:
    folder = shared_data / "strangers" / "made"
    model = (folder / "int16.tflite").read_bytes()
    with np.load(folder / "wint.npz") as data:
        x, y = data["x"], data["y"]
    for use in (lambda: evaluate_plain(model, x, y), lambda: patch(model), lambda: patch(model, adapter=True)):
        with pytest.raises(ZoError, match=r"(?i)int16.*convert") as caught:
            use()
        assert "\n" not in str(caught.value)
