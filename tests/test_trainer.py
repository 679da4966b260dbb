# SPDX-License-Identifier: Apache-2.0
"""Training inside TFLM: it learns, to the same bits, within its bounds, and says what is wrong."""

from __future__ import annotations

import hashlib
import io
import json
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import reference
import small_models
from engine import Engine, command
from trainers import TflmTrainer

from tflm_zo import Trainer, ZoError, patch
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.training.tflm_engine import TflmEngine

X, Y = small_models.separable_samples(48, seed=1)
QUIET: dict[str, Any] = {"verbose": False}
# Weight perturbation of every layer before the exact head, several steps, both rates decaying.
SETTINGS: dict[str, Any] = {
    "method": "weights",
    "epochs": 4,
    "batch_size": 10,
    "queries": 2,
    "lr": 3e-3,
    "head_lr": 0.05,
    "lr_end": 0.2,
    "holdout": 0.0,  # what is compared is the training itself
    **QUIET,
}


def digest(trainer: Trainer) -> str:
    return hashlib.sha256(b"".join(v.tobytes() for v in trainer.weights.values())).hexdigest()


def trained(model: bytes, seed: int = 0, **changes: Any) -> Trainer:
    trainer = TflmTrainer(model, seed=seed)
    trainer.fit(X, Y, **(SETTINGS | changes))
    return trainer


def assert_same_weights(a: Trainer, b: Trainer) -> None:
    assert a.weights.keys() == b.weights.keys()
    for name, value in a.weights.items():
        np.testing.assert_array_equal(b.weights[name], value, err_msg=name)


@pytest.fixture(scope="module")
def everything(small: bytes) -> bytes:
    return patch(small, "all")


# -- it learns ---------------------------------------------------------------------------------------------


def test_exact_head_learns(small: bytes) -> None:
    trainer = TflmTrainer(patch(small, "head"))
    x, y = small_models.separable_samples(90, seed=5)
    held_out = small_models.separable_samples(150, seed=6)
    before = trainer.evaluate(*held_out)
    history = trainer.fit(x, y, epochs=15, validation_data=held_out, **QUIET)
    after = trainer.evaluate(*held_out)
    assert before["accuracy"] < 0.6 and after["accuracy"] > 0.9
    assert after["loss"] < before["loss"] / 2
    first, last = history.epochs[0], history.epochs[-1]
    assert last["loss"] < first["loss"] and last["accuracy"] > first["accuracy"]
    assert last["val_accuracy"] == after["accuracy"] and last["val_loss"] == after["loss"]


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("layerwise", [True, False])
def test_weight_perturbation_alone_learns(small: bytes, antithetic: bool, layerwise: bool) -> None:
    """The head stays as it is: what falls is the loss that the convolutions can lower."""
    trainer = TflmTrainer(patch(small, "stem,spread"), seed=1)
    head = trainer.bake()
    x, y = small_models.separable_samples(90, seed=5)
    before = trainer.evaluate(x, y)
    trainer.fit(
        x,
        y,
        epochs=30,
        batch_size=30,
        method="weights",
        queries=8,
        lr=0.02,
        antithetic=antithetic,
        layerwise=layerwise,
        holdout=0.0,
        **QUIET,
    )
    after = trainer.evaluate(x, y)
    assert after["loss"] < 0.6 * before["loss"] and after["accuracy"] > before["accuracy"] + 0.2
    assert trainer.bake() != head


def test_regression_learns_towards_its_targets() -> None:
    """Mean squared error with the default learning rate: better from the first epoch on."""
    rng = np.random.default_rng(0)
    for outputs in (1, 2, 8):
        trainer = TflmTrainer(patch(small_models.dense_model("", outputs=outputs)))
        x = rng.uniform(-1, 1, (200, 20)).astype(np.float32)
        y = trainer.predict(x) * 0.5 + 0.1
        before = trainer.evaluate(x, y)["loss"]
        history = trainer.fit(x, y, epochs=20, **QUIET)
        assert history.epochs[0]["loss"] < before
        assert trainer.evaluate(x, y)["loss"] < 0.1 * before


def test_samples_without_features_do_not_blow_up_the_head() -> None:
    """Inputs at the zero point tell nothing of the learning rate that the head bears."""
    trainer = TflmTrainer(patch(small_models.dense_model(), "head"))
    x = np.full((40, 20), trainer.model.loss.feature_zero_point, dtype=np.int8)
    trainer.fit(x, np.arange(40) % 5, epochs=3, **QUIET)
    head_lr = trainer.progress.head_lr
    assert head_lr is not None and np.isfinite(head_lr) and head_lr < 100
    assert trainer.evaluate(x, np.arange(40) % 5)["loss"] < 2.0


def test_collected_gradients_of_exact_layers_are_applied_beside_the_adapter() -> None:
    """Their update rides on the adapter's passes, and so must the end of the batch."""
    model = patch(small_models.small_model(), adapter=True, accumulate=True)
    x, y = small_models.separable_samples(32, seed=3)
    trainer = TflmTrainer(model)
    before = trainer.weights
    trainer.fit(x, y, epochs=2, batch_size=8, verbose=False)
    after = trainer.weights
    closed = [node.layer for node in trainer.model.nodes if node.closed_form]
    assert closed
    for layer in closed:
        assert not np.array_equal(before[f"{layer}/weights"], after[f"{layer}/weights"]), layer


def test_adapter_in_front_of_the_head_is_trained_by_perturbation_alone() -> None:
    """Pooling and reshaping alone lead from it to the head, but it is perturbed in the passes of exact updates."""
    trainer = TflmTrainer(patch(small_models.dense_model(), adapter=True))
    assert not any(node.closed_form for node in trainer.model.nodes)
    x = np.random.default_rng(5).integers(-100, 100, (16, *trainer.model.input_shape[1:])).astype(np.int8)
    y = np.arange(16) % 5
    before = trainer.weights["adapter/weights"]
    trainer.fit(x, y, epochs=20, batch_size=8, adapter_lr=0.1, holdout=0.0, verbose=False)
    assert not np.array_equal(before, trainer.weights["adapter/weights"])


@pytest.mark.parametrize("method", ["auto", "exact", "nodes", "weights"])
@pytest.mark.parametrize("trainable", ["all", "exact", "bias", "head,bias", "stem/bias,exact"])
def test_every_selection_can_be_trained(small: bytes, trainable: str, method: str) -> None:
    """What a selection leaves to a method is trained; the bits stay reproducible."""
    results = []
    for _ in range(2):
        trainer = TflmTrainer(patch(small, trainable), seed=1)
        before = trainer.weights
        trainer.fit(X, Y, epochs=2, method=method, lr=1e-3, holdout=0.0, **QUIET)
        assert any(not np.array_equal(value, before[name]) for name, value in trainer.weights.items())
        np.testing.assert_array_equal(predict_plain(trainer.bake(), X), trainer.predict_codes(X))
        results.append(digest(trainer))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("layer", "method"), [("stem", "nodes"), ("spread", "exact"), ("dense", "exact"), ("spread", "weights")]
)
def test_biases_alone_take_the_steps_that_they_take_beside_their_weights(small: bytes, layer: str, method: str) -> None:
    """One step, of one sample: the same bias, while the weights stay in flash."""
    whole, bias = TflmTrainer(patch(small, layer), seed=2), TflmTrainer(patch(small, f"{layer}/bias"), seed=2)
    assert bias.arena_bytes < whole.arena_bytes
    assert [p.name for p in bias.model.parameters] == [f"{layer}/bias"]
    for trainer in (whole, bias):
        trainer.fit(
            X[:1], Y[:1], epochs=1, method={layer: method}, head_lr=0.3, node_lr=0.3, lr=0.3, queries=1, **QUIET
        )
    if method != "weights":  # there the two have different directions
        np.testing.assert_array_equal(bias.weights[f"{layer}/bias"], whole.weights[f"{layer}/bias"])
    assert np.any(bias.weights[f"{layer}/bias"].reshape(-1) != bias.model.parameters[0].initial)
    np.testing.assert_array_equal(predict_plain(bias.bake(), X), bias.predict_codes(X))


@pytest.mark.parametrize("trainable", ["exact", "exact/bias"])
def test_frozen_head_beside_exact_layers_stays(small: bytes, trainable: str) -> None:
    trainer = TflmTrainer(patch(small, trainable))
    before = trainer.weights
    trainer.fit(X, Y, epochs=2, method={"dense": "frozen"}, **QUIET)
    moved = {name for name, value in trainer.weights.items() if np.any(value != before[name])}
    assert moved == {name for name in before if name.startswith("spread")}


def test_entropy_learns_without_labels(small: bytes) -> None:
    """A trained head, then another offset of the input: the adapter learns it back from samples alone."""
    x, y = small_models.separable_samples(200, seed=5)
    teacher = TflmTrainer(patch(small, "head"))
    teacher.fit(x, y, epochs=20, **QUIET)
    drifted = x + 0.5
    trainer = TflmTrainer(patch(teacher.bake(), "adapter", "entropy", adapter=True))
    before = trainer.evaluate(drifted, y)
    history = trainer.fit(drifted, epochs=40, **QUIET)
    after = trainer.evaluate(drifted, y)
    assert before["accuracy"] < 0.7 and after["accuracy"] > 0.9 and after["loss"] < before["loss"]
    assert trainer.evaluate(drifted) == {"loss": after["loss"]}
    assert "accuracy" not in history.epochs[-1]
    same = TflmTrainer(patch(teacher.bake(), "adapter", "entropy", adapter=True))
    history = same.fit(drifted, y, epochs=40, **QUIET)
    assert_same_weights(trainer, same)
    assert history.epochs[-1]["accuracy"] > 0.8
    for kind in ("cross-entropy", "mse"):
        with pytest.raises(ZoError, match=r"there are no labels y.*entropy"):
            TflmTrainer(patch(small, "all", kind)).fit(x, **QUIET)


def test_one_logistic_unit_learns() -> None:
    trainer = TflmTrainer(patch(small_models.small_model("logistic", outputs=1), "head"))
    x, y = small_models.separable_samples(90, seed=5, classes=2)
    trainer.fit(x, y, epochs=15, **QUIET)
    scores = trainer.evaluate(*small_models.separable_samples(100, seed=6, classes=2))
    assert scores["accuracy"] > 0.9


# -- to the same bits --------------------------------------------------------------------------------------

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import test_trainer as t
print(t.digest(t.trained(t.patch(t.small_models.small_model(), "all"), seed=int(sys.argv[2]))))
"""


def test_same_seed_same_bits_in_two_processes_and_another_seed_other_bits(everything: bytes) -> None:
    folder = str(Path(__file__).parent)
    digests = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, folder, seed],
            cwd=folder,  # not the source tree, which would hide the installed package
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("7", "7", "8")
    ]
    assert digests[0] == digests[1] != digests[2]
    assert digest(trained(everything, seed=7)) == digests[0]


def test_two_trainers_do_not_disturb_each_other(everything: bytes) -> None:
    """The second is made, trained by single epochs and evaluated in the middle of the first's training."""
    other = patch(small_models.small_model("logistic", outputs=1), "all")
    x, y = small_models.separable_samples(20, seed=3, classes=2)
    alone = TflmTrainer(other, seed=2)
    alone.fit(x, y, **SETTINGS)
    second: list[Trainer] = []

    def one_epoch_of_the_other(trainer: Trainer, logs: dict[str, float]) -> None:
        if not second:
            second.append(TflmTrainer(other, seed=2))
        second[0].fit(x, y, resume=True, callbacks=[lambda _, logs: True], **SETTINGS)
        second[0].evaluate(x, y)
        second[0].predict(x)

    first = trained(everything, callbacks=[one_epoch_of_the_other])
    assert_same_weights(trained(everything), first)
    assert_same_weights(alone, second[0])


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("layerwise", [True, False])
def test_fit_sends_the_passes_of_the_reference_schedule(everything: bytes, antithetic: bool, layerwise: bool) -> None:
    """One epoch of one batch, sent by hand in the reference's order, gives the same weights and count."""
    trainer = trained(everything, seed=3, epochs=1, batch_size=64, antithetic=antithetic, layerwise=layerwise)
    zo = Engine(everything)
    for p in zo.model.parameters[:4]:
        assert zo.state.configure(p.index, 100 if p.name.endswith("bias") else 1, SETTINGS["lr"])
    schedule = reference.Schedule(
        seed=3,
        queries=SETTINGS["queries"],
        antithetic=antithetic,
        head=True,
        head_rate=SETTINGS["head_lr"],
        groups=[(0, 2), (2, 4)] if layerwise else [(0, 4)],
    )
    order = np.argsort(
        [reference.random_word(reference.stream_key(3, 8, 0, 0), i) for i in range(len(X))], kind="stable"
    )
    quantization = zo.model.input_quantization
    assert quantization is not None
    scale, zero_point = quantization.scale, quantization.zero_point
    codes = np.clip(np.rint(X / scale) + zero_point, -128, 127).astype(np.int8)[:, None]
    passes = 0
    for fields, sample in schedule.step(0, len(X), 1.0):
        zo.run(command(**fields), codes[order[sample]], Y[order[sample]])
        passes += 1
    zo.run(command())
    assert trainer.progress.passes == passes
    for p, tensor in zip(zo.model.parameters, zo.tensors(), strict=True):
        if p.name in trainer.weights:
            np.testing.assert_array_equal(trainer.weights[p.name].reshape(-1), tensor)


@pytest.mark.parametrize("trainable", ["all", "stem,spread"])
@pytest.mark.parametrize("head_lr", [None, 0.05])
def test_training_goes_on_from_a_checkpoint_to_the_same_bits(
    small: bytes, tmp_path: Path, trainable: str, head_lr: float | None
) -> None:
    """Stopped by a callback after each epoch, saved, loaded into another trainer: as if never stopped."""
    model = patch(small, trainable)
    whole = trained(model, seed=5, head_lr=head_lr)
    for _ in range(SETTINGS["epochs"]):
        part = TflmTrainer(model, seed=99 if (tmp_path / "state").exists() else 5)
        if (tmp_path / "state").exists():
            part.load(tmp_path / "state")

        def save_and_end(trainer: Trainer, _: dict[str, float]) -> bool:
            trainer.save(tmp_path / "state")
            return True

        history = part.fit(
            X,
            Y,
            resume=True,
            callbacks=[save_and_end],
            **(SETTINGS | {"head_lr": head_lr}),
        )
        assert history.interrupted and len(history.epochs) == 1
    assert_same_weights(whole, part)
    assert part.progress == whole.progress
    part.fit(X, Y, epochs=1, **QUIET)  # and so does a second fit
    whole.fit(X, Y, epochs=1, **QUIET)
    assert_same_weights(whole, part)


def test_going_on_with_other_arguments_ends(everything: bytes) -> None:
    """A finished fit has nothing left; larger batches or fewer passes than were done do not hang."""
    trainer = trained(everything)
    before = trainer.weights
    history = trainer.fit(X, Y, resume=True, **SETTINGS)
    assert history.epochs == []
    trainer.progress.epoch, trainer.progress.batch = 0, 4
    trainer.fit(X, Y, resume=True, **(SETTINGS | {"batch_size": 48, "epochs": 1}))
    trainer.progress.epoch, trainer.progress.batch = 0, 4
    trainer.fit(X, Y, resume=True, **(SETTINGS | {"passes": 200}))
    for name, value in before.items():
        np.testing.assert_array_equal(trainer.weights[name], value)


def test_a_second_day_starts_from_the_first(everything: bytes, tmp_path: Path) -> None:
    """Without resume a checkpoint's weights are a start for other samples, and the steps are counted on; with it the
    other samples are refused, with what to do."""
    x, y = small_models.separable_samples(30, 9)
    first = trained(everything, seed=4)
    first.save(tmp_path / "state")
    again = TflmTrainer(everything, 77)
    again.load(tmp_path / "state")
    for trainer in (first, again):
        before = trainer.weights
        with pytest.raises(ZoError, match=r"is finished, and had other samples: .*without\s+resume .*--checkpoint"):
            trainer.fit(x, y, resume=True, **SETTINGS)
        with pytest.raises(ZoError, match="is finished, and had other samples"):
            trainer.fit(X, (Y + 1) % 3, resume=True, **SETTINGS)
        for name, value in before.items():
            np.testing.assert_array_equal(trainer.weights[name], value)
        steps = trainer.progress.step
        history = trainer.fit(x, y, **SETTINGS)
        assert len(history.epochs) == SETTINGS["epochs"] and trainer.progress.step > steps
    assert_same_weights(first, again)
    part = TflmTrainer(everything)
    part.fit(X, Y, callbacks=[lambda *_: True], **SETTINGS)
    with pytest.raises(ZoError, match="give the same samples, or to train on these from its best weights"):
        part.fit(x, y, resume=True, **SETTINGS)
    part.fit(x, y, **SETTINGS)


def test_weights_that_were_set_are_a_new_start(everything: bytes, tmp_path: Path) -> None:
    trainer = TflmTrainer(everything)
    trainer.fit(X, Y, callbacks=[lambda *_: True], **SETTINGS)
    steps = trainer.progress.step
    wanted = trained(everything, seed=8).weights
    trainer.set_weights(wanted)
    assert (trainer.progress.step, trainer.progress.epoch, trainer.progress.rates) == (steps, 0, None)
    trainer.save(tmp_path / "state")
    other = TflmTrainer(everything)
    other.load(tmp_path / "state")
    for one in (trainer, other):
        for name, value in wanted.items():
            np.testing.assert_array_equal(one.weights[name], value)
        history = one.fit(X, Y, resume=True, **SETTINGS)  # nothing is left of the fit before
        assert len(history.epochs) == SETTINGS["epochs"]
    assert_same_weights(trainer, other)


def test_federated_averaging_as_the_docs_have_it(small: bytes) -> None:
    """Three trainers, each with samples of its own, come to a common model that knows all of them."""
    text = (Path(__file__).parents[1] / "docs" / "going_on.md").read_text()
    program = next(part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def average" in part)
    trainers = [TflmTrainer(patch(small, "exact"), seed) for seed in range(3)]
    x, y = small_models.separable_samples(90, 2)
    before = trainers[0].evaluate(x, y)["loss"]
    samples = [(x[start:end], y[start:end]) for start, end in ((0, 20), (20, 50), (50, 90))]
    # The example shows what a user writes; a progress bar for each fit is no part of it.
    quiet = program.replace("holdout=0.0)", "holdout=0.0, verbose=False)")
    exec(quiet, {"np": np, "trainers": trainers, "samples_of_each": samples, "rounds": 3})
    assert trainers[0].bake() == trainers[1].bake() == trainers[2].bake()
    assert trainers[0].evaluate(x, y)["loss"] < 0.9 * before


def test_resume_without_a_fit_before_is_a_fit(everything: bytes) -> None:
    assert_same_weights(trained(everything), trained(everything, resume=True))


def test_reset_is_a_new_start(everything: bytes) -> None:
    trainer = trained(everything, seed=4)
    trained_weights = trainer.weights
    trainer.reset()
    for parameter in trainer.model.parameters:
        if parameter.name in trained_weights:
            np.testing.assert_array_equal(trainer.weights[parameter.name].reshape(-1), parameter.initial)
    trainer.fit(X, Y, **SETTINGS)
    for name, value in trained_weights.items():
        np.testing.assert_array_equal(trainer.weights[name], value)


@pytest.mark.parametrize("end", ["softmax", "logistic", "relu", ""])
def test_baked_model_predicts_like_the_trainer(end: str) -> None:
    trainer = TflmTrainer(patch(small_models.small_model(end), "all", "cross-entropy"))
    trainer.fit(X, Y, **SETTINGS)
    x, _ = small_models.separable_samples(100, seed=9)
    baked = trainer.bake()
    np.testing.assert_array_equal(predict_plain(baked, x), trainer.predict_codes(x))
    assert not np.array_equal(predict_plain(small_models.small_model(end), x), predict_plain(baked, x))
    again = TflmTrainer(patch(baked, "all", "cross-entropy"))
    np.testing.assert_array_equal(again.predict_codes(x), trainer.predict_codes(x))


def test_float_and_int8_samples_are_the_same(everything: bytes) -> None:
    trainer = TflmTrainer(everything)
    q = trainer.model.input_quantization
    assert q is not None
    codes = np.clip(np.rint(X / q.scale) + q.zero_point, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(trainer.predict(X), trainer.predict(codes))
    np.testing.assert_array_equal(trainer.predict(X), trainer.predict(X.astype(np.float64)[..., 0]))
    assert trainer.predict(X).dtype == np.float32 and trainer.predict(X).shape == (len(X), 3)


def test_looking_on_changes_nothing(everything: bytes, tmp_path: Path) -> None:
    """Validation, predictions, weights, checkpoints and baking between the epochs leave no trace."""

    def look(trainer: Trainer, logs: dict[str, float]) -> None:
        trainer.predict(X)
        trainer.save(tmp_path / "state")
        assert trainer.bake() and trainer.weights and trainer.arena_bytes

    watched = trained(everything, callbacks=[look], validation_data=(X[::-1], Y[::-1]))
    assert_same_weights(trained(everything), watched)


def test_model_with_float_input_and_output() -> None:
    trainer = TflmTrainer(patch(small_models.small_model(float_ends=True), "all"))
    before = trainer.evaluate(X, Y)["loss"]
    trainer.fit(X, Y, **SETTINGS)
    assert trainer.evaluate(X, Y)["loss"] < before
    np.testing.assert_array_equal(predict_plain(trainer.bake(), X), trainer.predict(X))
    # Codes are those of the int8 tensor behind the model's QUANTIZE.
    quantization = trainer.model.input_quantization
    assert quantization is not None
    codes = np.arange(-128, 128, dtype=np.int8)[:64].reshape(1, 8, 8, 1)
    values = (quantization.scale * (codes.astype(np.float64) - quantization.zero_point)).astype(np.float32)
    np.testing.assert_array_equal(trainer.predict(codes), trainer.predict(values))
    with pytest.raises(ZoError, match="x has dtype int32"):
        trainer.predict(np.zeros((1, 8, 8, 1), np.int32))


# -- within its bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", ["all", "stem,spread", "head"])
@pytest.mark.parametrize("head_lr", [None, 0.05])
def test_passes_is_a_bound(small: bytes, trainable: str, head_lr: float | None) -> None:
    """Never more, and at most a batch and the closing updates fewer, however the training is cut up."""
    model = patch(small, trainable)
    a_sample = {"all": 9, "stem,spread": 8, "head": 1}[trainable]
    options = SETTINGS | {"epochs": 50, "head_lr": head_lr}
    done: list[float] = []
    for passes in (a_sample * 10 + 33, 1000, 1001, 1777):
        trainer = TflmTrainer(model)
        done.clear()
        trainer.fit(X, Y, passes=passes, callbacks=[lambda _, logs: done.append(logs["passes"])], **options)
        assert passes - a_sample * 10 - 1 - len(done) <= trainer.progress.passes <= passes
        parts = TflmTrainer(model)
        while parts.fit(X, Y, passes=passes, resume=True, callbacks=[lambda _, logs: True], **options).epochs:
            pass
        assert_same_weights(trainer, parts)
        assert parts.progress.passes <= passes
    with pytest.raises(ZoError, match=r"passes is \d+, but"):
        TflmTrainer(model).fit(X, Y, passes=a_sample * 10 - 1, **options)


def test_batch_larger_than_the_data_and_single_samples(everything: bytes) -> None:
    a, b = TflmTrainer(everything), TflmTrainer(everything)
    options = SETTINGS | {"epochs": 2}
    a.fit(X[:5], Y[:5], **(options | {"batch_size": 5}))
    b.fit(X[:5], Y[:5], **(options | {"batch_size": 60000}))
    assert_same_weights(a, b)
    a.fit(X[:1], Y[:1], **options)


# -- interrupted -------------------------------------------------------------------------------------------

INTERRUPTED = """
import sys
sys.path.insert(0, sys.argv[1])
import test_trainer as t
trainer = t.Trainer(t.patch(t.small_models.small_model(), "all"), seed=6)
ready = lambda trainer, logs: print("ready", flush=True)
history = trainer.fit(t.X, t.Y, **(t.SETTINGS | {"epochs": 60}), callbacks=[ready])
trainer.save(sys.argv[2])
print("interrupted", history.interrupted, trainer.progress.epoch < 60)
"""


def test_ctrl_c_keeps_a_clean_state_to_go_on_from(everything: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(Path(__file__).parent), str(path)],
        cwd=path.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "interrupted True True"
    trainer = TflmTrainer(everything)
    trainer.load(path)
    np.testing.assert_array_equal(predict_plain(trainer.bake(), X), trainer.predict_codes(X))
    trainer.fit(X, Y, resume=True, **(SETTINGS | {"epochs": 60}))
    assert_same_weights(trained(everything, seed=6, epochs=60), trainer)


class _Alarm(Exception):
    pass


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_exception_in_the_middle_of_a_query_leaves_clean_weights(small: bytes) -> None:
    """With a learning rate of 0 whatever differs afterwards would be a perturbation left behind."""
    trainer = TflmTrainer(patch(small, "stem,spread"))
    before = trainer.weights
    expected = trainer.predict_codes(X)

    def ring(number: int, frame: Any) -> None:
        raise _Alarm

    previous = signal.signal(signal.SIGALRM, ring)
    try:
        for delay in np.linspace(0.005, 0.03, 10):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(_Alarm):
                trainer.fit(X, Y, method="weights", epochs=10**6, batch_size=3, queries=64, lr=0.0, **QUIET)
            for name, value in before.items():
                np.testing.assert_array_equal(trainer.weights[name], value)
            np.testing.assert_array_equal(trainer.predict_codes(X), expected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


# -- says what is wrong ------------------------------------------------------------------------------------


def with_value(value: float) -> np.ndarray:
    x = X.copy()
    x[3, 2, 2, 0] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (with_value(np.nan), Y, r"x\[3\].*not finite"),
        (with_value(np.inf), Y, r"x\[3\].*not finite"),
        (X[:, :7], Y, r"x has samples of shape \[7, 8, 1\].*\[8, 8, 1\]"),
        (X[0], Y[:1], r"x has samples of shape"),
        (np.zeros((0, 8, 8, 1), np.float32), Y[:0], "x holds no samples"),
        ((X * 100).astype(np.uint16), Y, "x has dtype uint16"),
        ((X * 100).astype(np.int32), Y, "x has dtype int32"),
        (X.astype(complex), Y, "x has dtype complex128"),
        (X, Y[:-1], r"y has shape \(47,\).*48 samples"),
        (X, np.int64(1), "y has shape"),
        (X, np.eye(4)[Y], "y has 4 values a sample, the model's output 3: give class indices"),
        (X, 0.5 * np.eye(3)[Y], "y has values that are no classes.*give class indices 0 to 2.*loss mse"),
        (X, np.where(np.arange(48) == 5, 3, Y), r"y\[5\] is class 3.*3 classes"),
        (X, np.where(np.arange(48) == 5, -1, Y), r"y\[5\] is class -1"),
        (X, Y + 0.5, "y has dtype float64"),
        (X, np.where(np.arange(48) == 5, np.nan, Y), "y has dtype float64"),
        (X, Y.astype(object), "y has dtype object"),
        (X, np.where(Y == 2, "one", "two"), "y has 2 names .one, two., but the model has 3 classes"),
    ],
)
def test_bad_samples_are_named_and_change_nothing(
    everything: bytes, x: np.ndarray, y: np.ndarray, message: str
) -> None:
    trainer = TflmTrainer(everything)
    before = digest(trainer)
    for use in (lambda: trainer.fit(x, y, **SETTINGS), lambda: trainer.evaluate(x, y)):
        with pytest.raises(ZoError, match=message):
            use()
    assert digest(trainer) == before
    with pytest.raises(ZoError, match=message):
        trainer.fit(X, Y, **SETTINGS, validation_data=(x, y))
    assert digest(trainer) == before, "validation data are looked at before the first epoch"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("epochs", 1.5),
        ("epochs", float("nan")),
        ("batch_size", 0),
        ("queries", 0),
        ("queries", 65),
        ("passes", 0),
        ("lr", -1.0),
        ("lr", float("nan")),
        ("lr", float("inf")),
        ("head_lr", -0.1),
        ("head_lr", float("nan")),
        ("head_lr", 1e39),
        ("lr_end", 1.5),
        ("lr_schedule", "exponential"),
        ("keep", 0.0),
        ("keep", 1.5),
        ("keep", float("nan")),
        ("keep", {"nowhere": 0.5}),
        ("gradient_scaling", "cubic"),
        ("lr_end", float("nan")),
        ("node_sigma", 128),
        ("node_lr", {"spread": -1.0}),
        ("antithetic", "no"),
        ("sigma", 5),
        ("sigma", -1),
        ("sigma", 0.5),
        ("bias_sigma", 1 << 21),
        ("lr", {"nowhere": 0.1}),
        ("sigma", {"nowhere": 1}),
    ],
)
def test_bad_hyperparameters_are_named_and_change_nothing(everything: bytes, option: str, value: Any) -> None:
    trainer = TflmTrainer(everything)
    before = digest(trainer)
    with pytest.raises(ZoError, match=rf"\b{option.removeprefix('bias_')}\b"):
        trainer.fit(X, Y, **(SETTINGS | {option: value}))
    assert digest(trainer) == before


def test_rates_and_sigmas_by_layer(everything: bytes) -> None:
    trainer = TflmTrainer(everything)
    before = trainer.weights
    trainer.fit(X, Y, **(SETTINGS | {"lr": {"spread": 0.01}, "head_lr": 0.0}))
    moved = {name for name, value in trainer.weights.items() if not np.array_equal(value, before[name])}
    assert moved and moved <= {"spread/weights", "spread/bias"}


def test_what_cannot_be_trained_is_refused(small: bytes) -> None:
    with pytest.raises(ZoError, match=r"no training ops.*patch"):
        TflmTrainer(small)
    with pytest.raises(ZoError, match=r"cannot read .*missing"):
        TflmTrainer("missing.tflite")
    with pytest.raises(ZoError, match="nothing would be trained"):
        TflmTrainer(patch(small, "stem")).fit(X, Y, method="exact", **QUIET)


def test_arena_too_small_names_both_sizes(everything: bytes) -> None:
    needed = TflmTrainer(everything).arena_bytes
    for size in (1, 100, needed // 2, needed - 200):
        with pytest.raises(ZoError, match=rf"arena is too small: {size} bytes.* {needed}\b"):
            TflmTrainer(everything, arena_size=size)
    with pytest.raises(ZoError, match="arena_size is -1"):
        TflmTrainer(everything, arena_size=-1)
    snug = TflmTrainer(everything, arena_size=needed + 64)
    snug.fit(X, Y, **SETTINGS)
    assert_same_weights(trained(everything), snug)


# -- checkpoints -------------------------------------------------------------------------------------------


def test_checkpoint_of_another_model_changes_nothing(everything: bytes, tmp_path: Path) -> None:
    other = TflmTrainer(patch(small_models.small_model(seed=3), "all"), seed=9)
    other.fit(X, Y, **SETTINGS)
    other.save(tmp_path / "other")
    trainer = trained(everything, seed=1)
    before, progress = digest(trainer), vars(trainer.progress).copy()
    with pytest.raises(ZoError, match="another model"):
        trainer.load(tmp_path / "other")
    assert (digest(trainer), vars(trainer.progress), trainer.seed) == (before, progress, 1)


def rewritten(data: bytes, change: Callable[[dict[str, np.ndarray]], object]) -> bytes:
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive.items())
    change(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def edit_head(**values: Any) -> Callable[[dict[str, np.ndarray]], None]:
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["head"] = np.array(json.dumps(json.loads(str(arrays["head"])) | values))

    return change


def saturate(arrays: dict[str, np.ndarray]) -> None:
    arrays["tensors/stem/weights"] //= 2
    arrays["tensors/spread/weights"][:] = -128


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "text": lambda data: b"no checkpoint",
    "cut": lambda data: data[:-100],
    "half": lambda data: data[: len(data) // 2],
    "flipped": lambda data: bytes(b ^ 0x55 if 400 < i < 600 else b for i, b in enumerate(data)),
    "zip": lambda data: _zip_of_text(),
    "single array": lambda data: _npy(),
    "tensor missing": lambda data: rewritten(data, lambda a: a.pop("tensors/stem/bias")),
    "tensor reshaped": lambda data: rewritten(data, lambda a: a.update({"tensors/stem/bias": np.zeros(2, "i4")})),
    "tensor of floats": lambda data: rewritten(
        data, lambda a: a.update({"tensors/stem/bias": a["tensors/stem/bias"].astype(float)})
    ),
    "out of range": lambda data: rewritten(data, saturate),
    "head missing": lambda data: rewritten(data, lambda a: a.pop("head")),
    "head a list": lambda data: rewritten(data, lambda a: a.update(head=np.array("[1, 2]"))),
    "format": lambda data: rewritten(data, edit_head(format=99)),
    "progress unknown": lambda data: rewritten(data, edit_head(progress={"miles": 3})),
    "progress not a number": lambda data: rewritten(
        data, edit_head(progress={"epoch": "one", "batch": 0, "step": 0, "passes": 0})
    ),
    "progress a number": lambda data: rewritten(data, edit_head(progress=3)),
    "seed": lambda data: rewritten(data, edit_head(seed=None)),
}


def _zip_of_text() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("head.npy", "text")
    return stream.getvalue()


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_changes_nothing(everything: bytes, tmp_path: Path, damage: str) -> None:
    trained(everything, seed=2).save(tmp_path / "state")
    data = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(DAMAGES[damage](data))
    trainer = trained(everything, seed=1, epochs=1)
    before, progress = digest(trainer), vars(trainer.progress).copy()
    with pytest.raises(ZoError, match="state"):
        trainer.load(tmp_path / "state")
    assert (digest(trainer), vars(trainer.progress), trainer.seed) == (before, progress, 1)


def test_save_is_atomic_and_says_when_it_cannot(everything: bytes, tmp_path: Path) -> None:
    trainer = trained(everything, epochs=1)
    trainer.save(tmp_path / "state")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    with pytest.raises(ZoError, match="cannot write"):
        trainer.save(tmp_path / "missing" / "state")


def test_a_step_that_broke_off_leaves_nothing_behind() -> None:
    model = patch(small_models.small_model(), "spread,dense", accumulate=True)
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 4, "queries": 2, "method": "nodes", "node_lr": 0.1, **QUIET}
    broken, fresh = TflmTrainer(model), TflmTrainer(model)
    calls = 0

    def breaks_off(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 70:  # within a batch: after the updates of its first samples
            raise RuntimeError("the cable came off")
        return run(*arguments)

    engine = broken.engine
    assert isinstance(engine, TflmEngine)
    run = engine.run
    with mock.patch.object(engine, "run", breaks_off), pytest.raises(RuntimeError, match="cable"):
        broken.fit(X, Y, **settings)
    broken.reset()
    initial = fresh.weights["spread/weights"]
    for trainer in (broken, fresh):
        trainer.fit(X, Y, **settings)
    assert np.any(fresh.weights["spread/weights"] != initial)
    for name, weights in fresh.weights.items():
        np.testing.assert_array_equal(broken.weights[name], weights, err_msg=name)
