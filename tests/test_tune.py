# SPDX-License-Identifier: Apache-2.0
"""The search for hyperparameters: never worse than the defaults, the same by any way, confirmed in TFLM."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from hypothesis import given
from hypothesis import strategies as st
from trainers import SimTrainer, TflmTrainer

import tflm_zo.tuning.tune as tune_module
from tflm_zo import Trainer, ZoError, patch
from tflm_zo.ops.compiled import Schedule
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training.declaration import Choice, Numbers
from tflm_zo.training.folds import into_folds
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.recipe import make_recipe
from tflm_zo.tuning.space import SEARCHES, SearchSpace, traits_of
from tflm_zo.tuning.tune import tune

TFLM_ZO = [sys.executable, "-m", "tflm_zo.cli"]
X, Y = small_models.separable_samples(60, seed=1)
# Two groups of trials, so that the second learns from the first.
SEARCH: dict[str, Any] = {"trials": 11, "passes": 300, "folds": 3, "seed": 5, "verbose": False}


@pytest.fixture(scope="module")
def model(small: bytes) -> bytes:
    return patch(small, "exact", adapter=True)


@pytest.fixture(scope="module")
def tuned(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> tune_module.Tuned:
    return tune(model, X, Y, tmp_path_factory.mktemp("tuned") / "study", **SEARCH)


def held_out(model: bytes, hyperparameters: dict[str, Any]) -> dict[str, float]:
    """Held-out loss and accuracy of hyperparameters, trained and measured fold by fold."""
    losses, hits = [], []
    for number, fold in enumerate(into_folds(X, Y, SEARCH["folds"], SEARCH["seed"]).folds):
        kept = np.array([i for i in range(len(X)) if i not in fold])
        trainer = SimTrainer(model, seed=SEARCH["seed"] + number)
        trainer.fit(X[kept], Y[kept], verbose=False, holdout=0.0, **hyperparameters)
        scores = trainer.evaluate(X[fold], Y[fold])
        losses += [scores["loss"]] * len(fold)
        hits += [scores["accuracy"]] * len(fold)
    return {"loss": float(np.mean(losses)), "accuracy": float(np.mean(hits))}


def test_folds_are_a_split_with_all_classes_alike() -> None:
    samples = into_folds(X, Y, 4, seed=2)
    assert sorted(np.concatenate(samples.folds)) == list(range(60))
    for value in range(3):
        counts = [int(np.sum(Y[fold] == value)) for fold in samples.folds]
        assert max(counts) - min(counts) <= 1
    assert any(not np.array_equal(a, b) for a, b in zip(samples.folds, into_folds(X, Y, 4, seed=3).folds, strict=True))


def test_the_best_is_better_than_the_defaults_and_reproduces_its_score(model: bytes, tuned: tune_module.Tuned) -> None:
    budget = {"epochs": 300, "passes": 300}
    assert tuned.defaults == pytest.approx(held_out(model, budget))
    chosen = {k: v for k, v in tuned.hyperparameters.items() if k != "seed"}
    assert tuned.best == pytest.approx(held_out(model, chosen))
    # On this task the defaults are far from the optimum of so few passes.
    assert tuned.best["loss"] < 0.9 * tuned.defaults["loss"] and tuned.best_trial > 0
    assert tuned.trials == 11 and 0 < tuned.pruned < 11
    assert set(tuned.searched) == {"batch_size", "exact_lr_scale", "adapter_lr"}
    trainer = TflmTrainer(model, seed=tuned.hyperparameters["seed"])
    trainer.fit(X, Y, verbose=False, **chosen)
    assert trainer.progress.passes == tuned.passes <= 300
    assert trainer.evaluate(X, Y) == tuned.trained


def test_processes_do_not_change_the_result(model: bytes, tuned: tune_module.Tuned, tmp_path: Path) -> None:
    assert tune(model, X, Y, tmp_path / "study", jobs=3, **SEARCH) == tuned


def test_the_seed_changes_the_search(model: bytes, tuned: tune_module.Tuned, tmp_path: Path) -> None:
    other = tune(model, X, Y, tmp_path / "study", **SEARCH | {"seed": 6, "trials": 8})
    assert other.hyperparameters != tuned.hyperparameters


def test_a_search_can_be_carried_further(model: bytes, tuned: tune_module.Tuned, tmp_path: Path) -> None:
    """In parts, from the file: the same as in one go; trials that are there already are not taken away."""
    study = tmp_path / "study"
    assert tune(model, X, Y, study, **SEARCH | {"trials": 8}).trials == 8
    assert tune(model, X, Y, study, **SEARCH) == tuned
    assert tune(model, X, Y, study, **SEARCH | {"trials": 2}) == tuned


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_it_had_not_been(model: bytes, tmp_path: Path) -> None:
    """SIGKILL in the middle of a group of trials; folds that were finished are not computed again."""
    (tmp_path / "model.tflite").write_bytes(model)
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    words = ["tune", "model.tflite", "--data", "data.npz", "--quiet", "--json"]
    words += ["--trials", "9", "--passes", "3000", "--seed", "5", "--jobs", "2", "-o"]
    process = subprocess.Popen([*TFLM_ZO, *words, "part.json"], cwd=tmp_path, stderr=subprocess.PIPE)
    study = tmp_path / "part.json.study"
    deadline = time.monotonic() + 60
    while len(finished_folds(study)) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = finished_folds(study)
    results = []
    for output in ("part.json", "whole.json"):
        done = subprocess.run([*TFLM_ZO, *words, output], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout.splitlines()[-1]))
    assert results[0] == results[1]
    assert (tmp_path / "part.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert before and before <= finished_folds(study)
    # The trials in work when it was killed are in the file a second time, with the results they had.
    assert len(read(study, "select 1 from trials where state = 'FAIL'")) == 8


def read(study: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of a study's database; none while it is being made."""
    if not study.exists():
        return []
    try:
        with sqlite3.connect(f"file:{study}?mode=ro", uri=True) as database:
            return database.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def finished_folds(study: Path) -> set[str]:
    """Results of folds, as text."""
    rows = read(study, "select value_json from trial_user_attributes where key = 'folds'")
    return {json.dumps(fold) for (value,) in rows for fold in json.loads(value)}


# -- what is searched --------------------------------------------------------------------------------------

PATCHES: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "head": ({"trainable": "head"}, {}, {"exact_lr_scale"}),
    "sums": ({"trainable": "exact", "accumulate": True}, {}, {"batch_size", "exact_lr_scale"}),
    "adapter": ({"trainable": "exact", "adapter": True}, {}, {"batch_size", "exact_lr_scale", "adapter_lr"}),
    "nodes": (
        {"trainable": "all"},
        {},
        {"batch_size", "exact_lr_scale", "queries", "antithetic", "lr_scale", "node_sigma", "node_block"},
    ),
    "weights": (
        {"trainable": "all"},
        {"method": "weights"},
        {"batch_size", "exact_lr_scale", "queries", "antithetic", "layerwise", "lr_scale", "sigma", "bias_sigma"},
    ),
    "bias": (
        {"trainable": "bias"},
        {},
        {"batch_size", "exact_lr_scale", "queries", "antithetic", "lr_scale", "bias_sigma"},
    ),
}


@pytest.mark.parametrize("kind", PATCHES)
def test_what_matters_is_searched_from_the_defaults_on(small: bytes, kind: str) -> None:
    patching, fixed, names = PATCHES[kind]
    traits = traits_of(read_patched(patch(small, **patching)), Hyperparameters(**fixed))
    space = SearchSpace(traits, fixed)
    assert set(space.names) == names
    for name, distribution in space.distributions().items():
        assert distribution._contains(distribution.to_internal_repr(space.defaults()[name])), name
    assert space.hyperparameters(space.defaults(), fixed) == {}
    left = SearchSpace(traits, {"batch_size", "head_lr"})
    assert set(left.names) == names - {"batch_size", "exact_lr_scale"}, "a given rate leaves nothing to scale"


@given(data=st.data(), kind=st.sampled_from(list(PATCHES)))
def test_every_point_can_be_trained(small: bytes, data: st.DataObject, kind: str) -> None:
    """Hyperparameters, groups and directions within the ops' limits."""
    patching, fixed, _ = PATCHES[kind]
    model = read_patched(patch(small, **patching))
    space = SearchSpace(traits_of(model, Hyperparameters(**fixed)), fixed)
    point: dict[str, Any] = {}
    for name in space.names:
        values = SEARCHES[name].values
        if isinstance(values, Choice):
            point[name] = data.draw(st.sampled_from(values.values))
        elif values.whole:
            point[name] = data.draw(st.integers(int(values.low), int(values.high)))
        else:
            assert isinstance(values, Numbers)
            point[name] = data.draw(st.floats(values.low, values.high))
    hyper = Hyperparameters(**fixed | space.hyperparameters(point, fixed))
    recipe = make_recipe(model, hyper)
    Schedule(
        seed=0,
        antithetic=hyper.antithetic,
        exact=recipe.exact,
        head_rate=hyper.head_lr or 0.0,
        accumulate=False,
        groups=recipe.groups,
        batch=hyper.batch_size,
    )


def test_steps_that_take_too_many_passes_are_given_up(small: bytes, tmp_path: Path) -> None:
    """Layer by layer, 16 queries of 32 samples take more than the passes there are; the defaults do not."""
    fixed = {"batch_size": 4, "head_lr": 0.01, "node_lr": 1e-5, "node_sigma": 5, "node_block": 0, "antithetic": True}
    done = tune(patch(small, "all"), X, Y, tmp_path / "study", **SEARCH | {"fixed": fixed, "passes": 45})
    assert done.searched == ("queries",)
    assert done.pruned > 0 and done.trials == 11
    assert done.hyperparameters | fixed == done.hyperparameters


def test_regression_is_scored_by_its_loss(tmp_path: Path) -> None:
    model = patch(small_models.dense_model(end="", features=20, outputs=5), "head", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (30, 20)).astype(np.float32), rng.uniform(-1, 1, (30, 5)).astype(np.float32)
    done = tune(model, x, y, tmp_path / "study", **SEARCH | {"trials": 9})
    assert set(done.best) == {"loss"} and done.best["loss"] <= done.defaults["loss"]


# -- the command -------------------------------------------------------------------------------------------


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TFLM_ZO, *words], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small: bytes) -> Path:
    path = tmp_path_factory.mktemp("tune")
    (path / "zo.tflite").write_bytes(patch(small, "all"))
    (path / "plain.tflite").write_bytes(small)
    (path / "log.tflite").write_bytes(patch(small_models.small_model("log-softmax"), "all", "mse"))
    np.savez(path / "data.npz", x=X, y=Y)
    np.savez(path / "other.npz", x=X[::-1], y=Y[::-1])
    (path / "unknown.json").write_text('{"learning_rate": 1}')
    (path / "list.json").write_text("[1]")
    (path / "text.json").write_text("lr = 1")
    (path / "type.json").write_text('{"batch_size": "many"}')
    (path / "text.study").write_text("no database at all, but longer than the head of one " * 9)
    return path


SHORT = ["--trials", "2", "--passes", "600", "--jobs", "1", "--quiet"]


def test_tune_then_train_with_its_file(folder: Path) -> None:
    """The trained weights are those that tune has confirmed; options count more than the file."""
    words = ["tune", "zo.tflite", "--data", "data.npz", "-o", "best.json", *SHORT, "--seed", "7"]
    done = run(folder, *words, "--method", "stem=weights", "--method", "*=exact", "--queries", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert "next: tflm-zo train zo.tflite --data data.npz --config best.json -o trained.ckpt" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    best = json.loads((folder / "best.json").read_text())
    assert best == result["hyperparameters"]
    assert (best["seed"], best["passes"], best["queries"]) == (7, 600, 2)
    assert best["method"] == {"stem": "weights", "*": "exact"}
    assert "queries" not in result["searched"] and "lr_scale" in result["searched"]

    train = ["train", "zo.tflite", "--data", "data.npz", "--config", "best.json", "--quiet", "--json"]
    done = run(folder, *train, "-o", "state")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["forward_passes"] == result["passes"]
    trained = TflmTrainer(str(folder / "zo.tflite"))
    trained.load(folder / "state")
    assert trained.evaluate(X, Y) == result["trained"] and trained.seed == 7
    done = run(folder, *train, "-o", "state2", "--passes", "300", "--seed", "8")
    assert json.loads(done.stdout.splitlines()[-1])["forward_passes"] <= 300
    trained.load(folder / "state2")
    assert trained.seed == 8


TUNE = ["tune", "zo.tflite", "--data", "data.npz", *SHORT, "-o", "OUT"]
TRAIN = ["train", "zo.tflite", "--data", "data.npz", "--quiet", "-o", "OUT", "--config"]
REFUSED: list[tuple[list[str], str]] = [
    ([*TRAIN, "unknown.json"], "no hyperparameter is called 'learning_rate'"),
    ([*TRAIN, "list.json"], "not a JSON object"),
    ([*TRAIN, "text.json"], "not a JSON file"),
    ([*TRAIN, "absent.json"], "cannot read absent.json"),
    ([*TRAIN, "type.json"], "'many' is not a valid int"),
    ([*TUNE, "--folds", "1"], "folds is 1"),
    ([*TUNE, "--trials", "0"], "trials is 0"),
    ([*TUNE, "--jobs", "0"], "jobs is 0"),
    ([*TUNE, "--passes", "20"], "passes is 20, but"),
    ([*TUNE, "--study", "text.study"], "text.study cannot be used as the study's file"),
    ([*TUNE, "--study", "absent/x"], "absent/x cannot be used as the study's file"),
    (["tune", "plain.tflite", "--data", "data.npz", "-o", "OUT"], "patch it first"),
    (["tune", "log.tflite", "--data", "data.npz", *SHORT, "-o", "OUT"], "does not run LOG_SOFTMAX (operator"),
    (["tune", "zo.tflite", "--data", "data.npz", "-o", "absent/OUT"], "cannot write absent"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_wrong_input_is_said_clearly(folder: Path, words: list[str], message: str) -> None:
    done = run(folder, *words)
    assert done.returncode != 0 and not (folder / "OUT").exists()
    assert message in done.stderr.splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
    (folder / "OUT.study").unlink(missing_ok=True)


def test_a_study_of_another_search_is_refused(model: bytes, small: bytes, tmp_path: Path) -> None:
    search, study = SEARCH | {"trials": 1, "passes": 100}, tmp_path / "one.study"
    first = tune(model, X, Y, study, **search)
    for changed_model, x, changes in (
        (patch(small, "exact"), X, {}),
        (model, X[::-1], {}),
        (model, X, {"seed": 6}),
        (model, X, {"passes": 101}),
        (model, X, {"fixed": {"batch_size": 8}}),
    ):
        with pytest.raises(ZoError, match=r"one\.study is a search with another model"):
            tune(changed_model, x, Y, study, **search | changes)
    assert tune(model, X, Y, study, **search) == first


def test_ctrl_c_says_how_to_go_on(folder: Path) -> None:
    words = ["tune", "zo.tflite", "--data", "data.npz", "--passes", "30000", "--jobs", "2", "-o", "long.json"]
    process = subprocess.Popen(
        [*TFLM_ZO, *words, "--quiet"], cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not finished_folds(folder / "long.json.study"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == "tflm-zo: error: interrupted: the same command goes on from there\n"


INTERRUPTED = """
import os, signal
from tflm_zo.tuning.workers import Workers

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
    with Workers(2) as workers:
        calls = [workers.submit(abs, -n) for n in range(2)]
        os.killpg(0, signal.SIGINT)  # the workers have been started, and import
        print([call.result() for call in calls])
"""


def test_workers_that_are_starting_are_not_interrupted(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, start_new_session=True, timeout=60
    )
    assert done.stderr == "" and done.stdout.split("\n")[:2] == ["interrupted", "[0, 1]"]


def test_without_optuna_the_extra_is_named(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ZoError, match=r"pip install 'tflm-zo\[tune\]'"):
        tune(model, X, Y, tmp_path / "study", **SEARCH)


def test_tflm_has_the_last_word(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that differ in TFLM are an error, not a result."""

    def other_in_tflm(model: bytes, seed: int, engine: str) -> Trainer:
        return Trainer(model, seed + (engine == "tflm"), engine=engine)

    monkeypatch.setattr(tune_module, "Trainer", other_in_tflm)
    with pytest.raises(ZoError, match="different weights"):
        tune(model, X, Y, tmp_path / "study", **SEARCH | {"trials": 1})
