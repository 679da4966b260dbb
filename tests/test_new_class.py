# SPDX-License-Identifier: Apache-2.0
"""New classes: wider heads, where their training begins, what is left out, and what is kept of earlier samples."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from test_monitor import Board, connect
from trainers import SimTrainer, TflmTrainer

from tflm_zo import Trainer, ZoError, bake, patch
from tflm_zo.errors import DataWarning
from tflm_zo.model.class_names import read_class_names
from tflm_zo.model.file import load_model, save_model, schema
from tflm_zo.model.graph import main_graph
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.patching.widen import wanted_classes
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.training.guard import Scores, compare
from tflm_zo.training.new_classes import unknown_classes
from tflm_zo.training.reservoir import CAPACITY, Reservoir

DOC = Path(__file__).resolve().parents[1] / "docs" / "new-class.md"
X, Y = small_models.separable_samples(240, 1, 4)
TEST_X, TEST_Y = small_models.separable_samples(200, 2, 4)
FIT: dict[str, Any] = {"epochs": 12, "verbose": False}


@pytest.fixture(scope="module")
def known(small: bytes) -> bytes:
    """The small model, which has learned classes 0 to 2."""
    trainer = Trainer(patch(small))
    trainer.fit(X[Y < 3], Y[Y < 3], epochs=20, verbose=False)
    return trainer.bake()


@pytest.fixture(scope="module")
def few() -> tuple[np.ndarray, np.ndarray]:
    """20 samples of class 3, 5 of each other one."""
    chosen = np.concatenate([np.flatnonzero(c == Y)[: 20 if c == 3 else 5] for c in range(4)])
    return X[chosen], Y[chosen]


def accuracies(trainer: Trainer, new: int = 3) -> tuple[float, float]:
    """Accuracy of the new class and of the others."""
    right = trainer.sample_scores(TEST_X, TEST_Y)[1]
    assert right is not None
    return float(right[new == TEST_Y].mean()), float(right[new != TEST_Y].mean())


def old_accuracy(trainer: Trainer) -> float:
    right = trainer.sample_scores(TEST_X[TEST_Y < 3], TEST_Y[TEST_Y < 3])[1]
    assert right is not None
    return float(right.mean())


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: small_models.small_model(), id="per channel"),
        pytest.param(lambda: small_models.small_model(per_channel=False), id="per tensor"),
        pytest.param(lambda: small_models.small_model("logistic"), id="sigmoids"),
        pytest.param(lambda: small_models.small_model(float_ends=True), id="float ends"),
        pytest.param(lambda: small_models.dense_model(), id="dense"),
        pytest.param(lambda: small_models.residual_model(hidden=7), id="hidden layer"),
    ],
)
@pytest.mark.parametrize("more", [1, 3])
def test_untrained_a_wider_model_answers_as_before(model: Callable[[], bytes], more: int) -> None:
    plain = model()
    graph = main_graph(load_model(plain))
    shape = graph.tensors[graph.inputs[0]].shape
    x = np.random.default_rng(0).normal(0, 2, (30, *shape[1:])).astype(np.float32)
    before = predict_plain(plain, x)
    patched = patch(plain, classes=f"+{more}")
    after = TflmTrainer(patched).predict_codes(x)
    assert after.shape == (*before.shape[:-1], before.shape[-1] + more)
    # Where logits are close to each other, the lowest one that int8 can express has a share of the probability.
    rows = np.arange(len(x))
    answers = after.argmax(axis=1)
    assert np.all(answers < before.shape[-1])
    assert np.all(before[rows, answers] >= before.max(axis=1) - (1 if before.dtype == np.int8 else 1 / 256))
    assert np.all(after[..., -more:].max(axis=1) <= after.min(axis=1) + (0 if before.dtype == np.int8 else 1e-6))
    np.testing.assert_array_equal(SimTrainer(patched).predict_codes(x), after)
    np.testing.assert_array_equal(predict_plain(bake(patched, {}), x), after)
    assert unknown_classes(Trainer(patched).engine) == set(range(before.shape[-1], before.shape[-1] + more))


def test_many_samples_of_a_new_class_leave_the_guard_its_judgement() -> None:
    """20 of a class that is new, 5 of each of three others: what the new one gains counts, and what these lose."""
    labels = np.repeat([0, 1, 2, 3], [5, 5, 5, 20])
    start = Scores(np.where(labels == 3, 1.0, 0.1), labels != 3, np.where(labels == 3, 9.0, 0.1))

    def after(old_error: float, new_error: float) -> Scores:
        errors = np.where(labels == 3, new_error, old_error)
        return Scores(errors, errors < 0.5, errors)

    new = frozenset({3})
    for old_error, new_error, verdict in ((0.15, 0.2, True), (0.35, 0.1, True), (0.6, 0.1, False), (1.0, 0.0, False)):
        assert compare(start, after(old_error, new_error), labels, 4, new).better(0.75) is verdict
    # With nothing but the new class, the others are taken for forgotten.
    alone = labels == 3
    some = [
        Scores(s.errors[alone], s.right[alone], s.losses[alone])
        for s in (start, after(1.0, 0.0))
        if s.right is not None
    ]
    assert not compare(some[0], some[1], labels[alone], 4, new).better(0.75)


@pytest.mark.parametrize("end", ["softmax", ""])
def test_with_room_below_the_logits_old_outputs_stay_as_they_are(shared_data: Path, end: str) -> None:
    """Keyword spotting's lowest logit is 20 nats below zero."""
    plain = (shared_data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    if not end:
        tree = load_model(plain)
        graph = tree.subgraphs[0]
        graph.outputs = graph.operators.pop().inputs
        plain = save_model(tree)
    x = np.load(shared_data / "kws01_dev.npz")["x"][:50]
    after = Trainer(patch(plain, classes=14)).predict_codes(x)
    np.testing.assert_array_equal(after[:, :12], predict_plain(plain, x))
    assert np.all(after[:, 12:] == -128)


@pytest.mark.parametrize("head", ["point", "map"])
def test_a_convolution_as_head_is_widened(head: str) -> None:
    plain = small_models.head_model(head, behind=["reshape"])
    count = Trainer(patch(plain)).model.loss.classes
    before, wider = predict_plain(plain, X[:20]), Trainer(patch(plain, classes=count + 2))
    after = wider.predict_codes(X[:20])
    np.testing.assert_array_equal(after[..., :count].argmax(axis=-1), before.argmax(axis=-1))
    wider.fit(X[:40], np.arange(40) % (count + 1), epochs=2, verbose=False, holdout=0.0)
    assert unknown_classes(wider.engine) == {count + 1}


STRANGERS = {
    "c_himax_handwriting": "a convolution as head",
    "tflm_mnist_lstm": "a state",
    "ei_fomo_balloon": "a class for each cell of a map",
    "cookekieran_tinyml": "bare logits",
    "made/uint8": "uint8 ends",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_models_of_strangers_take_new_classes(shared_data: Path, name: str) -> None:
    """One of two is learned, the other stays spare."""
    plain = (shared_data / "strangers" / f"{name}.tflite").read_bytes()
    before = Trainer(patch(plain)).model
    trainer = Trainer(patch(plain, classes="+2"))
    known, cells = before.loss.classes, before.outputs.cells
    assert trainer.model.loss.classes == known + 2
    x = np.random.default_rng(0).integers(-128, 128, (2 * known + 2, *trainer.model.input_shape[1:])).astype(np.int8)
    y = np.arange(len(x) * cells) % (known + 1)
    trainer.fit(x, y.reshape(len(x), cells) if cells > 1 else y, epochs=1, holdout=0.0, verbose=False)
    assert unknown_classes(trainer.engine) == {known + 1}


@pytest.mark.parametrize(
    ("classes", "present", "count"), [("+1", 3, 4), (5, 3, 5), ("5", 3, 5), ("+10", 12, 22), (" 4 ", 3, 4)]
)
def test_classes_are_a_number_or_more(classes: int | str, present: int, count: int) -> None:
    assert wanted_classes(classes, present) == count


@pytest.mark.parametrize("classes", ["", "+", "-1", "2.5", "two", 3, 2, "+0", 0, 10**6, "1e3"])
def test_other_numbers_are_refused(classes: int | str) -> None:
    with pytest.raises(ZoError, match="classes is"):
        wanted_classes(classes, 3)


def test_models_without_classes_to_widen_are_refused(small: bytes) -> None:
    with pytest.raises(ZoError, match="one sigmoid output"):
        patch(small_models.small_model("logistic", outputs=1), classes="+1")
    with pytest.raises(ZoError, match="squared error"):
        patch(small, loss="mse", classes="+1")
    with pytest.raises(ZoError, match="no bias"):
        patch(small_models.small_model(bias=False), classes="+1")
    with pytest.raises(ZoError, match="no layer with a gradient in closed form"):
        patch(small_models.small_model("relu"), "all", "cross-entropy", classes="+1")
    with pytest.raises(ZoError, match="name it in --trainable"):
        patch(small, "stem", classes="+1")
    with pytest.raises(ZoError, match="name it in --trainable"):
        patch(small, "bias", classes="+1")


def test_names_widen_a_model_and_go_with_it(known: bytes, few: tuple[np.ndarray, np.ndarray]) -> None:
    names = ["one", "two", "three", "ünü"]
    trainer = Trainer(patch(known, class_names=names))
    x, y = few
    trainer.fit(x, np.array(names)[y], **FIT)
    numbered = Trainer(patch(known, classes=4))
    numbered.fit(x, y, **FIT)
    assert all(np.array_equal(a, b) for a, b in zip(trainer.weights.values(), numbered.weights.values(), strict=True))
    baked = trainer.bake()
    assert read_class_names(load_model(baked)) == tuple(names) == read_patched(patch(baked)).outputs.names
    with pytest.raises(ZoError, match="'four', but the model's classes are: one, two, three, ünü"):
        trainer.fit(x, np.full(len(x), "four"), **FIT)
    for wrong, why in ((["a", "b"], "2 class names for 3"), (["a", "a", "b"], "two classes"), (["a", "", "b"], "''")):
        with pytest.raises(ZoError, match=why):
            patch(known, class_names=wrong)


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Callable[[bytes], Trainer]]:
    made: list[Board] = []

    def make(model: bytes) -> Trainer:
        made.append(Board(model, tmp_path / f"flash{len(made)}"))
        return connect(made[-1].port)

    yield make
    for board in made:
        board.stop()


@pytest.mark.parametrize("options", [{}, {"holdout": 0.0}], ids=["guard", "no guard"])
def test_all_engines_learn_it_to_the_same_bits(
    known: bytes, few: tuple[np.ndarray, np.ndarray], boards: Callable[[bytes], Trainer], options: dict[str, Any]
) -> None:
    model = patch(known, classes="+1")
    trainers = [SimTrainer(model), TflmTrainer(model), boards(model)]
    old = old_accuracy(trainers[0])
    guards = [trainer.fit(*few, **(FIT | options)).guard for trainer in trainers]
    assert guards[0] == guards[1] == guards[2]
    assert guards[0].kept == "last"
    baked = [trainer.bake() for trainer in trainers]
    assert baked[0] == baked[1] == baked[2]
    new, others = accuracies(trainers[0])
    assert new >= 0.85
    assert others >= old - 0.03


def test_a_new_class_that_is_interrupted_goes_on(
    known: bytes, few: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """The guard knows which classes were new at the start, although the weights no longer tell."""
    whole, broken = (Trainer(patch(known, classes="+2"), seed=4) for _ in range(2))
    expected = whole.fit(*few, **FIT)
    count = 0

    def breaks_off(trainer: Trainer, logs: dict[str, float]) -> bool:
        return count < 3

    while True:
        taken_up = Trainer(patch(known, classes="+2"), seed=4)
        if count:
            taken_up.load(tmp_path / "run.ckpt")
        history = taken_up.fit(*few, **FIT, resume=bool(count), callbacks=[breaks_off])
        taken_up.save(tmp_path / "run.ckpt")
        count += 1
        if not history.interrupted:
            break
    assert count == 4
    assert history.guard == expected.guard
    assert taken_up.bake() == whole.bake() != broken.bake()


def test_spare_outputs_stay_spare(known: bytes, few: tuple[np.ndarray, np.ndarray]) -> None:
    trainer = Trainer(patch(known, classes="+3"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = trainer.fit(*few, **FIT)
    assert history.guard.kept == "last"
    assert history.missing_classes == ()
    assert unknown_classes(trainer.engine) == {4, 5}
    again = Trainer(patch(trainer.bake()))
    assert unknown_classes(again.engine) == {4, 5}
    with pytest.warns(DataWarning, match="no samples of classes 0, 1, 2, 3, which the model knows"):
        assert again.fit(few[0], np.full(len(few[0]), 5), **FIT).missing_classes == (0, 1, 2, 3)


def test_a_start_that_is_kept_still_says_nothing(known: bytes, few: tuple[np.ndarray, np.ndarray]) -> None:
    trainer = Trainer(patch(known, classes="+1"))
    old = old_accuracy(trainer)
    with pytest.warns(DataWarning, match="classes 0, 1, 2"):
        history = trainer.fit(few[0][few[1] == 3], few[1][few[1] == 3], **FIT)
    assert history.guard.kept == "start"
    assert unknown_classes(trainer.engine) == {3}
    assert accuracies(trainer) == (0.0, old)
    trainer.fit(*few, **FIT)
    assert accuracies(trainer)[0] >= 0.85


def test_without_a_guard_the_new_class_alone_is_all_that_is_left(
    known: bytes, few: tuple[np.ndarray, np.ndarray]
) -> None:
    """Why there are a warning, a guard and a reservoir."""
    trainer = Trainer(patch(known, classes="+1"))
    old = old_accuracy(trainer)
    with pytest.warns(DataWarning, match="makes it forget them"):
        trainer.fit(few[0][few[1] == 3], few[1][few[1] == 3], **FIT, holdout=0.0)
    new, others = accuracies(trainer)
    assert new == 1.0
    assert others < old - 0.2


def test_only_classes_that_are_left_out_are_told_of(known: bytes) -> None:
    named = Trainer(patch(known, class_names=["a", "b", "c"]))
    with pytest.warns(DataWarning, match=r"no samples of class 1 \(b\), which"):
        history = named.fit(X[(Y == 0) | (Y == 2)], Y[(Y == 0) | (Y == 2)], **FIT)
    assert history.missing_classes == (1,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert named.fit(X[Y < 3], Y[Y < 3], **FIT).missing_classes == ()
        entropy = Trainer(patch(known, loss="entropy"))
        assert entropy.fit(X[Y == 1], **FIT).missing_classes == ()


def test_a_reservoir_is_a_draw_that_does_not_depend_on_the_order(known: bytes, tmp_path: Path) -> None:
    model = read_patched(patch(known, classes="+1"))
    once, twice = tmp_path / "once.npz", tmp_path / "twice.npz"
    whole = Reservoir(once, model)
    whole.with_samples(X, Y)
    whole.save()
    order = np.random.default_rng(3).permutation(len(X))
    for part in (order[:50], order[40:130], order[130:], order[:50]):
        some = Reservoir(twice, model)
        some.with_samples(X[part], Y[part])
        some.save()
    with np.load(once) as a, np.load(twice) as b:
        assert np.bincount(a["y"]).tolist() == [CAPACITY] * 4
        np.testing.assert_array_equal(a["x"], b["x"])
        np.testing.assert_array_equal(a["y"], b["y"])


def test_samples_of_a_reservoir_come_once(known: bytes, tmp_path: Path) -> None:
    model = read_patched(patch(known, classes="+1"))
    first = Reservoir(tmp_path / "r.npz", model)
    assert len(first.with_samples(X, Y)[0]) == len(X)
    first.save()
    assert len(Reservoir(tmp_path / "r.npz", model).with_samples(X, Y)[0]) == len(X)
    assert len(Reservoir(tmp_path / "r.npz", model).with_samples(X[Y == 0], Y[Y == 0])[0]) == sum(Y == 0) + 30


def test_unusable_reservoirs_are_refused(known: bytes, tmp_path: Path) -> None:
    model = read_patched(patch(known))
    with pytest.raises(ZoError, match="cross-entropy"):
        Reservoir(tmp_path / "r.npz", read_patched(patch(known, "head", "mse")))
    np.savez(tmp_path / "r.npz", x=X, y=Y)
    with pytest.raises(ZoError, match=r"reservoir .*r\.npz: y\[.*class 3"):
        Reservoir(tmp_path / "r.npz", model)


def test_names_in_a_damaged_file_are_none(known: bytes) -> None:
    tree = load_model(known)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "tflm_zo.class_names", 10**6
    tree.metadata = [entry]
    assert read_class_names(load_model(save_model(tree))) == ()


# -- keyword spotting ------------------------------------------------------------------------------------------------


def without_class(model: bytes, number: int) -> bytes:
    """Delete a class's row from the head of a model that ends in FULLY_CONNECTED and SOFTMAX."""
    tree = load_model(model)
    graph = tree.subgraphs[0]
    dense, softmax = graph.operators[-2:]
    for index, kind in ((dense.inputs[1], np.int8), (dense.inputs[2], np.int32)):
        tensor = graph.tensors[index]
        values = np.asarray(tree.buffers[tensor.buffer].data, np.uint8).view(kind).reshape(tensor.shape)
        values = np.delete(values, number, axis=0)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        tree.buffers.append(buffer)
        tensor.buffer, tensor.shape = len(tree.buffers) - 1, np.array(values.shape, np.int32)
    for index in (dense.outputs[0], softmax.outputs[0]):
        graph.tensors[index].shape = np.array([1, len(values)], np.int32)
        graph.tensors[index].shapeSignature = None
    return save_model(tree)


class Task:
    """Keyword spotting with a class to be learned: one of the 12 that the model has lost, or a word backwards, which
    it has never heard: 20 samples of it and 5 of each other one, and a test set of the last 300 utterances."""

    def __init__(self, shared_data: Path, number: int, backwards: bool, draw: int = 0) -> None:
        data = np.load(shared_data / "kws01_dev.npz")
        x, y = data["x"], data["y"].astype(int)
        self.model = (shared_data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
        if backwards:
            self.new = 12
            x = np.concatenate(
                [x[:400], x[:400][y[:400] == number][:, ::-1], x[400:], x[400:][y[400:] == number][:, ::-1]]
            )
            early, late = y[:400], y[400:]
            first = np.concatenate([early, np.full(sum(early == number), 12)])
            y = np.concatenate([first, late, np.full(sum(late == number), 12)])
            split = len(first)
        else:
            self.new, split = 11, 400
            self.model = without_class(self.model, number)
            y = np.where(y == number, 11, y - (y > number))
        rng = np.random.default_rng(draw)
        chosen = []
        for c in (self.new, *range(self.new)):
            those = rng.permutation(np.flatnonzero(y[:split] == c))
            chosen.append(those[: 20 if c == self.new else 5])
        few = np.concatenate(chosen)
        self.x, self.y, self.test_x, self.test_y = x[few], y[few], x[split:], y[split:]

    def accuracy(self, trainer: Trainer, new: bool) -> float:
        those = (self.test_y == self.new) == new
        right = trainer.sample_scores(self.test_x[those], self.test_y[those])[1]
        assert right is not None
        return float(right.mean())


@pytest.mark.slow
@pytest.mark.parametrize(("backwards", "numbers"), [(False, range(12)), (True, range(10))], ids=["lost", "backwards"])
def test_keyword_spotting_learns_a_class(shared_data: Path, backwards: bool, numbers: range) -> None:
    """Means over classes and three draws of samples. Where the others would lose too much the guard may refuse."""
    rows, refused = [], 0
    for number, draw in itertools.product(numbers, range(3)):
        task = Task(shared_data, number, backwards, draw)
        trainer = Trainer(patch(task.model, classes="+1"))
        before = task.accuracy(trainer, False)
        if trainer.fit(task.x, task.y, verbose=False).guard.kept == "start":
            refused += 1
        else:
            rows.append((task.accuracy(trainer, True), before, task.accuracy(trainer, False)))
    new, before, after = np.mean(rows, axis=0)
    print(f"{new:.3f} new, {before:.3f} old before, {after:.3f} after, {refused} refused")
    assert refused <= (1 if backwards else 0)
    assert new >= 0.85
    assert after >= before - 0.03


@pytest.mark.slow
def test_the_commands_of_the_how_to(shared_data: Path, tmp_path: Path, boards: Callable[[bytes], Trainer]) -> None:
    """As they stand there, on keyword spotting; over the serial line with the weights of the host."""
    task = Task(shared_data, 3, backwards=False)
    (tmp_path / "model.tflite").write_bytes(task.model)
    np.savez(tmp_path / "few.npz", x=task.x, y=task.y)
    np.savez(tmp_path / "test.npz", x=task.test_x, y=task.test_y)
    second = Task(shared_data, 7, backwards=True)
    np.savez(tmp_path / "second.npz", x=second.x[:20], y=np.full(20, 12))
    commands = [shlex.split(line) for line in re.findall(r"^    (tflm-zo .*)$", DOC.read_text(), re.MULTILINE)]
    assert [words[1] for words in commands] == ["patch", "train", "bake", "plan", "monitor", "patch", "train"]
    results = []
    for words in commands:
        if words[1] == "monitor":
            # The board is a new one, and so is what it keeps of earlier samples.
            (tmp_path / "earlier.npz").rename(tmp_path / "earlier_host.npz")
            board = Board((tmp_path / "model_zo.tflite").read_bytes(), tmp_path / "flash")
            words[words.index("/dev/ttyACM0")] = board.port
        extra = ["--quiet"] if words[1] in ("train", "monitor") else []
        done = subprocess.run(
            [sys.executable, "-m", "tflm_zo.cli", *words[1:], *extra, "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if words[1] == "monitor":
            board.stop()
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    trained, plan, monitored, last = results[1], results[3], results[4], results[6]
    assert trained["guard"]["kept"] == last["guard"]["kept"] == "last"
    assert plan["fits"]
    assert (tmp_path / "wider.tflite").read_bytes() == (tmp_path / "wider_too.tflite").read_bytes()
    assert (tmp_path / "earlier.npz").exists()
    assert monitored["after_accuracy"] == trained["after_accuracy"] > trained["before_accuracy"]
    # The second class came alone, and the first one and those before it are still there.
    trainer = Trainer((tmp_path / "wider_zo.tflite").read_bytes())
    trainer.load(tmp_path / "second.ckpt")
    first = Trainer((tmp_path / "model_zo.tflite").read_bytes())
    first.load(tmp_path / "run.ckpt")
    for new in (True, False):
        assert task.accuracy(trainer, new) >= task.accuracy(first, new) - 0.1
    backwards = second.test_x[second.test_y == 12]
    assert np.mean(trainer.predict_codes(backwards).reshape(len(backwards), -1).argmax(axis=1) == 12) >= 0.6
