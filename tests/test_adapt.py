# SPDX-License-Identifier: Apache-2.0
"""Adapting in one call and one command: what comes out, what is refused, and that nothing is made worse."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from click.testing import CliRunner
from test_preparation import noisy
from trainers import SimTrainer

from tflm_zo import Trainer, ZoError, adapt, patch
from tflm_zo.adaptation import choice
from tflm_zo.adaptation.adapt import Adaptation
from tflm_zo.cli.main import main
from tflm_zo.conversion.evaluate import evaluate_plain, predict_values
from tflm_zo.model.file import load_model, shape_of
from tflm_zo.model.quantization import quantization_of, quantize
from tflm_zo.realignment.preparation import Chain, Preparer
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.training import engines
from tflm_zo.training.fit import Fit
from tflm_zo.training.guard import held_out_count
from tflm_zo.training.simulator_engine import SimulatorEngine

REFERENCE = noisy(150, 2)[0]
X, Y = noisy(90, 3, "offset")


@pytest.fixture(scope="module")
def taught(small: bytes) -> bytes:
    """A model that knows the patterns of noisy samples well."""
    trainer = SimTrainer(patch(small, "exact"))
    trainer.fit(*noisy(500, 1), epochs=10, holdout=0.0, verbose=False)
    return trainer.bake()


@pytest.fixture(scope="module")
def adapted(taught: bytes) -> Adaptation:
    return adapt(taught, X, Y, REFERENCE, epochs=4)


def codes_of(model: bytes, x: np.ndarray) -> np.ndarray:
    """Samples as the model's input codes."""
    graph = load_model(model).subgraphs[0]
    quantization = quantization_of(graph.tensors[graph.inputs[0]])
    assert quantization is not None
    return quantize(x, quantization)


# -- what comes out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reference", [None, REFERENCE], ids=["no reference", "reference"])
@pytest.mark.parametrize("drift", ["offset", "each sample's offset"])
def test_the_model_predicts_in_tflm_what_the_trainer_does(
    taught: bytes, drift: str, reference: np.ndarray | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the samples as they come; the chain is that of the choice, and so is the model before training."""
    trainers: list[tuple[Trainer, np.ndarray]] = []
    fit = Trainer.fit

    def seen(self: Trainer, x: np.ndarray, *rest: Any, **settings: Any) -> Any:
        trainers.append((self, x))
        return fit(self, x, *rest, **settings)

    monkeypatch.setattr(Trainer, "fit", seen)
    x, y = noisy(120, 5, drift)
    found = adapt(taught, x, y, reference, epochs=5)
    trainer, codes = trainers[-1]
    assert found.history is not None and found.history.guard.kept == "last" and found.model != found.prepared
    np.testing.assert_array_equal(predict_plain(found.model, x), trainer.predict_codes(codes))
    assert found.passes == trainer.progress.passes
    chain = Preparer(taught, x if reference is None else reference, x).prepare(found.chain)
    np.testing.assert_array_equal(predict_plain(found.prepared, x), predict_plain(chain.whole(), x))
    test = noisy(300, 9, drift)
    assert evaluate_plain(found.model, *test)["accuracy"] > evaluate_plain(taught, *test)["accuracy"] + 0.25


def test_a_filter_is_dropped_with_the_training_that_it_was_for(taught: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter was judged by what training makes of it: where training is not seen to help there is none."""
    fit = Trainer.fit

    def in_vain(self: Trainer, *rest: Any, **settings: Any) -> Any:
        history = fit(self, *rest, **settings)
        history.guard.kept = "start"
        return history

    x, y = noisy(100, 11, "each sample's offset")
    found = choice.choose(Preparer(taught, REFERENCE, x), x, y, "auto")
    assert found.prepared.chain.filter != "none"
    monkeypatch.setattr(Trainer, "fit", in_vain)
    left = adapt(taught, x, y, REFERENCE, epochs=2)
    assert left.chain == found.untrained.chain and left.chain.filter == "none"
    assert left.model == left.prepared == found.untrained.whole()


def test_the_same_again(taught: bytes, adapted: Adaptation) -> None:
    again = adapt(taught, X, Y, REFERENCE, epochs=4)
    assert again.model == adapted.model and again.as_dict() == adapted.as_dict()


def test_other_forms_of_the_same_samples(taught: bytes, adapted: Adaptation) -> None:
    """Codes or real values, each with the other; lists; without the channels' axis; labels of any numeric type."""
    codes, before = codes_of(taught, X), codes_of(taught, REFERENCE)
    for x, y, reference in (
        (codes, Y[:, None], REFERENCE),
        (X[..., 0], Y.astype(np.float32), before),
        (X.tolist(), Y.tolist(), before[..., 0]),
        (codes[..., 0], Y.astype(np.uint8)[:, None], before[..., 0]),
    ):
        assert adapt(taught, x, y, reference, epochs=4).model == adapted.model


def test_what_a_model_takes_in_the_simulator_and_in_tflm(
    taught: bytes, adapted: Adaptation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that the simulator refuses is trained in TFLite Micro, without trying filters: the same bits."""
    expected = choice.choose(Preparer(taught, REFERENCE, X), X, Y, "auto").untrained
    used = []

    class Refuses(SimulatorEngine):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise ZoError("the simulator does not run it")

    class Seen(Trainer):
        def __init__(self, *rest: Any, **settings: Any) -> None:
            super().__init__(*rest, **settings)
            used.append(self)

    simulated = adapt(taught, X, Y, None, epochs=2)
    monkeypatch.setattr(engines, "SimulatorEngine", Refuses)
    monkeypatch.setattr(choice, "Trainer", Seen)
    assert adapt(taught, X, Y, None, epochs=2).model == simulated.model
    found = adapt(taught, X, Y, REFERENCE, epochs=2)
    assert found.chain == expected.chain and len(used) > 16
    assert not any(row.trained for row in found.rows)


def test_without_labels_nothing_is_trained(taught: bytes) -> None:
    found = adapt(taught, X, None, REFERENCE)
    assert found.model == found.prepared and found.history is None and found.passes == 0
    assert found.chain != Chain() and "no labels" in found.training
    test = noisy(300, 9, "offset")
    assert evaluate_plain(found.model, *test)["accuracy"] > 0.9 > evaluate_plain(taught, *test)["accuracy"] + 0.3
    assert found.as_dict()["guard"] is None and found.chosen is not None and found.chosen.information is not None


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("labelled", [True, False])
def test_a_few_samples(taught: bytes, count: int, labelled: bool) -> None:
    """Whole, and as it is where so few tell nothing; of the reference, too."""
    found = adapt(taught, X[:count], Y[:count] if labelled else None, REFERENCE, epochs=2)
    assert predict_plain(found.model, X).shape == (90, 3)
    if count < 8:
        assert found.chain == Chain() and "nothing is prepared" in found.preparation
    other = adapt(taught, X, Y if labelled else None, REFERENCE[:count], epochs=2)
    scores = [evaluate_plain(model, X, Y)["accuracy"] for model in (taught, other.model)]
    assert not labelled or scores[1] >= scores[0]


def test_one_class_only(taught: bytes) -> None:
    """The others are not known, so they can only be spared by chance; the one is not made worse."""
    one = Y == 1
    found = adapt(taught, X[one], Y[one], REFERENCE, epochs=3)
    before, after = (evaluate_plain(m, X[one], Y[one])["accuracy"] for m in (taught, found.model))
    assert after >= before


@pytest.mark.parametrize("samples", [40, 240])
def test_values_of_a_squared_error(samples: int) -> None:
    model = small_models.dense_model("", outputs=3)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (samples, 20)).astype(np.float32)
    y = SimTrainer(patch(model)).predict(x)
    shifted = (0.6 * x + 0.3).astype(np.float32)
    before, after = (
        evaluate_plain(m, shifted, y)["mean_squared_error"] for m in (model, adapt(model, shifted, y, x).model)
    )
    assert after < 0.3 * before
    untouched = adapt(model, shifted, None, x)
    assert untouched.chain == Chain() and "without labels and classes" in untouched.preparation
    np.testing.assert_array_equal(predict_plain(untouched.model, x), predict_plain(model, x))


def test_one_sigmoid_unit() -> None:
    model = small_models.small_model("logistic", outputs=1)
    for y in (Y > 0, (Y > 0).astype(np.int64)[:, None]):
        found = adapt(model, X, y, REFERENCE)
        accuracies = [evaluate_plain(m, X, (Y > 0).astype(int))["accuracy"] for m in (model, found.model)]
        assert accuracies[1] > accuracies[0]
    chosen = adapt(model, X, None, REFERENCE).chosen
    assert chosen is not None and chosen.information is not None


@pytest.mark.parametrize("labelled", [False, True])
def test_float_inputs_are_prepared_behind_their_quantize(labelled: bool) -> None:
    """As int8 inputs are, step by step."""
    y = Y if labelled else None
    models = [small_models.small_model(), small_models.small_model(float_ends=True)]
    plain, other = (adapt(model, X, y, REFERENCE) for model in models)
    assert plain.rows and [row.chain for row in plain.rows] == [row.chain for row in other.rows]
    assert plain.chain == other.chain and plain.preparation == other.preparation
    np.testing.assert_array_equal(predict_values(plain.model, X), predict_values(other.model, X))


def test_what_has_been_prepared_is_only_trained(taught: bytes) -> None:
    prepared = adapt(taught, X, None, REFERENCE).model
    found = adapt(prepared, X, Y, REFERENCE, epochs=3)
    assert "prepared already" in found.preparation and found.prepared == prepared
    with pytest.raises(ZoError, match="prepared already: prepare the original model"):
        adapt(prepared, X, None, REFERENCE)


def test_a_head_that_is_a_convolution(shared_data: Path) -> None:
    """No layer has a gradient in closed form: prepared all the same, and trained as a whole."""
    path = shared_data / "strangers" / "c_himax_handwriting.tflite"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    model = path.read_bytes()
    graph = load_model(model).subgraphs[0]
    shape = shape_of(graph.tensors[graph.inputs[0]])[1:]
    reference = np.random.default_rng(0).normal(0, 40, (40, *shape)).clip(-128, 127).astype(np.int8)
    y = predict_plain(model, reference).reshape(40, -1).argmax(axis=1)
    x = (reference // 4 + 60).astype(np.int8)
    assert adapt(model, x, None, reference).rows
    found = adapt(model, x, y, reference, passes=800, epochs=2)
    assert found.rows and found.history is not None


# -- what is refused -----------------------------------------------------------------------------------------

NAN = np.where(X > 1, np.nan, X)
BAD: list[tuple[dict[str, Any], str]] = [
    ({"y": None, "reference": None}, r"nothing to adapt by: give labels y, or samples from before the drift"),
    ({"loss": "entropy"}, "leave out the loss entropy, or patch with it"),
    ({"loss": "hinge"}, "'hinge' is unknown: choose one of auto"),
    ({"epochs": 0}, "epochs is 0: it must be a whole number from 1"),
    ({"passes": 0}, "passes is 0: it must be a whole number from 1"),
    ({"passes": 20}, "passes is 20, but .* raise passes"),
    ({"y": Y[:-1]}, r"y has shape \(89,\), but x has 90 samples: give one label a sample"),
    ({"y": np.array(1)}, r"y has shape \(\), but x has 90 samples"),
    ({"y": Y + 5}, "but the model has 3 classes, 0 to 2"),
    ({"y": Y + 0.5}, "give integer class indices 0 to 2"),
    ({"y": np.eye(4)[Y]}, "give class indices of shape"),
    ({"x": NAN}, r"^x\[\d+\] has a value that is not finite"),
    ({"x": NAN, "reference": None}, r"^x\[\d+\] has a value that is not finite"),
    ({"x": X[:0], "y": Y[:0]}, "^x holds no samples"),
    ({"x": X[:, :5]}, r"^x has samples of shape \[5, 8, 1\], but the model's input is \[8, 8, 1\]"),
    ({"x": X.astype(np.uint16)}, "x has dtype uint16: give float values .*, or int8 codes, or uint8 images"),
    ({"reference": REFERENCE[:, :5]}, r"reference has samples of shape \[5, 8, 1\]"),
    ({"reference": REFERENCE[:0]}, "reference holds no samples"),
    ({"reference": NAN}, r"reference\[\d+\] has a value that is not finite"),
    ({"model": b"TFL3"}, "not a TFLite model"),
    ({"model": "missing.tflite"}, "cannot read missing.tflite"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[", ".join(change) + ": " + words[:20] for change, words in BAD])
def test_what_is_unusable_is_named(taught: bytes, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ZoError, match=words) as caught:
        adapt(**({"model": taught, "x": X, "y": Y, "reference": REFERENCE} | change))
    assert "\n" not in str(caught.value)


def test_a_patched_model_is_refused(taught: bytes) -> None:
    for y, reference in ((Y, None), (None, REFERENCE), (Y, REFERENCE)):
        with pytest.raises(ZoError, match=r"patched already: (patch|prepare) the original model"):
            adapt(patch(taught), X, y, reference)


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(taught: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.tflite").write_bytes(taught)
    np.savez(tmp_path / "before.npz", x=REFERENCE)
    np.savez(tmp_path / "after.npz", x=X, y=Y)
    np.savez(tmp_path / "bare.npz", x=X)
    x, y = noisy(60, 9, "offset")
    np.savez(tmp_path / "test.npz", x=x, y=y)
    return tmp_path


COMMAND = ["adapt", "model.tflite", "--epochs", "4", "--quiet", "-o", "out.tflite"]


def test_the_command_does_what_the_call_does(files: Path, adapted: Adaptation) -> None:
    words = [*COMMAND, "--reference", "before.npz", "--data", "after.npz", "--test", "test.npz", "--json"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert (files / "out.tflite").read_bytes() == adapted.model
    lines = done.output.splitlines()
    assert lines[0].split() == ["preparation", "error", "accuracy", "nats"]
    table = lines[1 : 1 + len(adapted.rows)]
    assert table[0].startswith("as it is ") and sum("<- chosen" in line for line in lines) == 1
    chosen = next(line for line in table if "<- chosen" in line)
    assert adapted.chosen is not None and adapted.chosen.accuracy is not None
    assert chosen.startswith(adapted.chain.name) and f"{100 * adapted.chosen.accuracy:.1f} %" in chosen
    assert f"prepared: {adapted.chain.name} ({adapted.preparation})" in lines and adapted.training in lines
    result = json.loads(lines[-1])
    assert result | json.loads(json.dumps(adapted.as_dict())) == result
    test = np.load(files / "test.npz")
    for when, model in (("before", files / "model.tflite"), ("after", files / "out.tflite")):
        accuracy = evaluate_plain(model.read_bytes(), test["x"], test["y"])["accuracy"]
        assert result[f"{when}_accuracy"] == accuracy and f"{100 * accuracy:.1f} % {when}" in done.output


def test_the_command_without_labels_or_without_a_reference(files: Path) -> None:
    done = CliRunner().invoke(main, [*COMMAND, "--reference", "before.npz", "--data", "bare.npz"])
    assert done.exit_code == 0 and "no labels: nothing is trained" in done.output and "%" not in done.output
    done = CliRunner().invoke(main, [*COMMAND, "--data", "after.npz"])
    assert done.exit_code == 0 and "nothing is prepared" in done.output and "<- chosen" not in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "bare.npz"], "nothing to adapt by"),
        (["--data", "none.npz"], "cannot read none.npz"),
        (["--data", "after.npz", "--reference", "none.npz"], "cannot read none.npz"),
        (["--data", "after.npz", "--test", "none.npz"], "cannot read none.npz"),
        (["--data", "after.npz", "--test", "bare.npz"], "bare.npz has no array y"),
        (["--data", "after.npz", "--reference", "model.tflite"], "model.tflite is not an .npz file"),
        (["--data", "after.npz", "--epochs", "0"], "epochs is 0"),
        (["--data", "after.npz", "--loss", "entropy"], "loss entropy"),
        (["--data", "after.npz", "-o", "none/out.tflite"], "none"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(files: Path, words: list[str], message: str) -> None:
    """And leaves what was there before."""
    (files / "out.tflite").write_bytes(b"before")
    there = sorted(files.iterdir())
    done = CliRunner().invoke(main, [*COMMAND, *words])
    assert done.exit_code == 1 and message in done.output
    assert done.output.startswith("tflm-zo: error: ") and done.output.count("\n") == 1
    assert (files / "out.tflite").read_bytes() == b"before" and sorted(files.iterdir()) == there


@pytest.mark.parametrize("when", ["choice", "training"])
def test_nothing_is_written_after_ctrl_c(files: Path, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name = (Trainer, "sample_scores") if when == "choice" else (Fit, "_epoch")
    original = getattr(owner, name)

    def interrupted(self: Any, *rest: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(self, *rest)

    monkeypatch.setattr(owner, name, interrupted)
    there = sorted(files.iterdir())
    words = ["--reference", "before.npz"] if when == "choice" else []
    done = CliRunner().invoke(main, [*COMMAND, "--data", "after.npz", *words])
    assert done.exit_code == 1 and sorted(files.iterdir()) == there
    assert "Aborted" in done.output if when == "choice" else "interrupted: nothing is written" in done.output


# -- models of others ----------------------------------------------------------------------------------------


def stranger(shared_data: Path, name: str) -> Path:
    path = shared_data / "strangers" / name
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    return path


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("drifted", "least"), [(False, 0.95), (True, 0.9)], ids=["no drift", "drift"])
def test_training_behind_a_global_mean(shared_data: Path, drifted: bool, least: float, seed: int) -> None:
    """Default training on samples like those before, and on drifted ones."""
    model = stranger(shared_data, "made/keras_gap.tflite").read_bytes()
    sets = {n: np.load(stranger(shared_data, f"made/keras_gap_{n}.npz")) for n in ("rep", "adapt", "test")}
    x, y = ({n: s[a] for n, s in sets.items()} for a in ("x", "y"))
    x = {n: v.astype(np.float32) for n, v in x.items()}
    if drifted:
        train, test = (x["adapt"], y["adapt"]), (x["test"], y["test"])
    else:
        train = x["rep"][:150], y["rep"][:150]
        test = x["rep"][150:], y["rep"][150:]
    trainer = SimTrainer(patch(model), seed=seed)
    before = trainer.evaluate(*test)["accuracy"]
    trainer.fit(*train, verbose=False)
    assert (
        trainer.evaluate(*test)["accuracy"] >= min(least, 1.0) and trainer.evaluate(*test)["accuracy"] >= before - 0.02
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["silabs_micro_speech.tflite", "fz_gestes.tflite"])
def test_a_model_that_is_right_is_not_ruined(shared_data: Path, name: str, seed: int) -> None:
    """Labels are the model's own answers, a tenth of them wrong: neither a fit nor adapt makes others worse."""
    model = stranger(shared_data, name).read_bytes()
    graph = load_model(model).subgraphs[0]
    shape = shape_of(graph.tensors[graph.inputs[0]])[1:]
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 45, (700, *shape)).clip(-128, 127).astype(np.int8)
    y = predict_plain(model, x).reshape(700, -1).argmax(axis=1)
    labels = np.where(rng.random(300) < 0.1, rng.integers(0, y.max() + 1, 300), y[:300])
    trainer = SimTrainer(patch(model), seed=seed)
    trainer.fit(x[:300], labels, verbose=False)
    found = adapt(model, x[:300], labels, x[:300], seed=seed)
    for changed in (trainer.bake(), found.model):
        assert evaluate_plain(changed, x[300:], y[300:])["accuracy"] > 0.93
    assert held_out_count(300, None) > 0
