# SPDX-License-Identifier: Apache-2.0
"""The tflm-zo command as a user types it: results, JSON, refusals, Ctrl-C."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from trainers import TflmTrainer

from tflm_zo import ZoError, patch
from tflm_zo.demo.run import run_demo
from tflm_zo.tflm.evaluate import predict_plain

TFLM_ZO = [sys.executable, "-m", "tflm_zo.cli"]
X, Y = small_models.separable_samples(60, seed=1)
# A model whose training takes a few seconds: long enough to be interrupted.
LONG = [
    "--method",
    "weights",
    "--epochs",
    "150",
    "--queries",
    "3",
    "--lr",
    "1e-3",
    "--batch-size",
    "8",
    "--head-lr",
    "0.05",
]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TFLM_ZO, *words], cwd=folder, capture_output=True, text=True, timeout=120)


def result_of(folder: Path, *words: str) -> dict[str, Any]:
    """The JSON object that ends a successful command's output."""
    done = run(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small: bytes) -> Path:
    """Models, samples and checkpoints, good and bad."""
    path = tmp_path_factory.mktemp("cli")
    head, everything = patch(small, "head"), patch(small, "all")
    bad_x = X.copy()
    bad_x[7, 0, 0, 0] = np.nan
    for name, data in {
        "model.tflite": small,
        "head.tflite": head,
        "all.tflite": everything,
        "float.tflite": small_models.float_model(),
        "text.tflite": b"no flatbuffer at all",
        "cut.tflite": small[: len(small) // 2],
        "text.npz": b"no archive",
    }.items():
        (path / name).write_bytes(data)
    np.savez(path / "data.npz", x=X, y=Y)
    np.savez(path / "test.npz", x=X[::-1], y=Y[::-1])
    np.savez(path / "labels.npz", x=X, y=np.where(np.arange(60) == 4, 3, Y))
    np.savez(path / "negative.npz", x=X, y=Y - 1)
    np.savez(path / "shape.npz", x=X[:, :5], y=Y)
    np.savez(path / "nan.npz", x=bad_x, y=Y)
    np.savez(path / "uint16.npz", x=(X * 99).astype(np.uint16), y=Y)
    np.savez(path / "count.npz", x=X, y=Y[:-1])
    np.savez(path / "empty.npz", x=X[:0], y=Y[:0])
    np.savez(path / "scalar.npz", x=X, y=np.int64(1))
    np.savez(path / "no_y.npz", x=X)
    np.savez(path / "objects.npz", x=X, y=np.array([{}] * 60))
    np.save(path / "array.npy", X)
    np.savez_compressed(path / "packed.npz", x=X, y=Y)
    packed = bytearray((path / "packed.npz").read_bytes())
    packed[300:400] = bytes(100)
    (path / "flipped.npz").write_bytes(packed)
    (path / "cut.npz").write_bytes(packed[:-200])
    trainer = TflmTrainer(everything)
    trainer.save(path / "all.state")
    TflmTrainer(head).save(path / "head.state")
    (path / "seed5.json").write_text('{"seed": 5}')
    (path / "cut.state").write_bytes((path / "all.state").read_bytes()[:-50])
    return path


def test_patch_inspect_train_eval_bake(folder: Path, tmp_path: Path) -> None:
    """The main job from the model file to the baked model, each result as JSON."""
    zo, state, baked = (str(tmp_path / name) for name in ("zo.tflite", "state", "baked.tflite"))
    patched = result_of(folder, "patch", "model.tflite", "-o", zo, "--trainable", "head,stem")
    assert patched["trainable"] == ["stem", "dense"] and patched["loss"] == "cross-entropy"
    seen = result_of(folder, "inspect", zo)
    assert seen["ram_bytes"] == patched["ram_bytes"] and seen["arena_bytes"] == patched["arena_bytes"]
    methods = {row["name"]: row["method"] for row in seen["layers"]}
    assert methods == {"stem": "nodes", "spread": "frozen", "dense": "exact"}
    before = result_of(folder, "eval", zo, "--data", "test.npz")
    options = ["--passes", "3000", "--seed", "3", "--quiet"]
    done = result_of(folder, "train", zo, "--data", "data.npz", "-o", state, "--test", "test.npz", *options)
    assert 2000 < done["forward_passes"] <= 3000 and done["interrupted"] is False
    assert done["before_accuracy"] == before["accuracy"] and done["before_loss"] == before["loss"]
    assert done["after_accuracy"] > before["accuracy"] + 0.2 and done["after_loss"] < before["loss"]
    after = result_of(folder, "eval", zo, "--data", "test.npz", "--checkpoint", state)
    assert after["accuracy"] == done["after_accuracy"] and after["loss"] == done["after_loss"]
    result_of(folder, "bake", zo, "--checkpoint", state, "-o", baked)
    assert result_of(folder, "eval", baked, "--data", "test.npz")["accuracy"] == after["accuracy"]
    trainer = TflmTrainer(zo)
    trainer.load(state)
    np.testing.assert_array_equal(predict_plain(Path(baked).read_bytes(), X), trainer.predict_codes(X))
    plain = result_of(folder, "inspect", baked)
    assert plain["patched"] is False and plain["model_bytes"] == Path(baked).stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == ["baked.tflite", "state", "zo.tflite"]


def test_the_demo_names_what_is_missing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find_spec(name))
    with pytest.raises(ZoError, match=r"needs sklearn: pip install tflm-zo\[demo\]"):
        run_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_training_without_labels(folder: Path, tmp_path: Path) -> None:
    zo, state = str(tmp_path / "zo.tflite"), str(tmp_path / "state")
    assert result_of(folder, "patch", "model.tflite", "-o", zo, "--loss", "entropy", "--adapter")["loss"] == "entropy"
    words = ["train", zo, "--data", "no_y.npz", "-o", state, "--epochs", "2", "--quiet"]
    done = result_of(folder, *words, "--test", "test.npz")
    assert done["after_loss"] < done["before_loss"] and "before_accuracy" in done and "train_accuracy" not in done
    assert set(result_of(folder, "eval", zo, "--data", "no_y.npz", "--checkpoint", state)) == {"loss"}


def test_a_second_day_is_trained_from_the_first(folder: Path, tmp_path: Path) -> None:
    words = ["train", "head.tflite", "--epochs", "2", "--quiet", "--data"]
    result_of(folder, *words, "data.npz", "-o", str(tmp_path / "day1"))
    done = result_of(folder, *words, "test.npz", "--checkpoint", str(tmp_path / "day1"), "-o", str(tmp_path / "day2"))
    assert done["forward_passes"] > 0
    both = TflmTrainer(str(folder / "head.tflite"))
    with np.load(folder / "data.npz") as one, np.load(folder / "test.npz") as other:
        both.fit(one["x"], one["y"], epochs=2, verbose=False)
        both.fit(other["x"], other["y"], epochs=2, verbose=False)
    trainer = TflmTrainer(str(folder / "head.tflite"))
    trainer.load(tmp_path / "day2")
    assert trainer.bake() == both.bake() and trainer.progress == both.progress
    refused = run(folder, *words, "test.npz", "--resume", str(tmp_path / "day1"), "-o", str(tmp_path / "no"))
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert "is finished, and had other samples" in refused.stderr and "--checkpoint" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_going_on_with_a_finished_training_says_so(folder: Path, tmp_path: Path) -> None:
    """--resume of a training that is complete trains nothing and keeps the weights."""
    words = ["train", "head.tflite", "--data", "data.npz", "--epochs", "2", "--quiet", "-o"]
    first = result_of(folder, *words, str(tmp_path / "a"))
    again = result_of(folder, *words, str(tmp_path / "b"), "--resume", str(tmp_path / "a"))
    assert again["forward_passes"] == first["forward_passes"]
    a, b = TflmTrainer(str(folder / "head.tflite")), TflmTrainer(str(folder / "head.tflite"))
    a.load(tmp_path / "a")
    b.load(tmp_path / "b")
    assert a.bake() == b.bake()


@pytest.mark.slow
def test_ctrl_c_writes_a_checkpoint_to_go_on_from(folder: Path, tmp_path: Path) -> None:
    """Interrupted and resumed, twice, equals never interrupted."""
    words = ["train", "all.tflite", "--data", "data.npz", *LONG, "--json", "-o"]
    assert run(folder, *words, str(tmp_path / "whole"), "--quiet").returncode == 0
    resume: list[str] = []
    for _ in range(2):
        process = subprocess.Popen(
            [*TFLM_ZO, *words, str(tmp_path / "part"), *resume],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert isinstance(process.stderr, io.BufferedReader)
        seen = b""
        while not re.search(rb"[1-9]\d*/\d+ ", seen):  # the progress bar has counted passes
            seen += process.stderr.read1()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and b"Traceback" not in errors
        assert json.loads(output.splitlines()[-1])["interrupted"] is True
        resume = ["--resume", str(tmp_path / "part")]
    assert run(folder, *words, str(tmp_path / "part"), *resume, "--quiet").returncode == 0
    whole, parts = TflmTrainer(str(folder / "all.tflite")), TflmTrainer(str(folder / "all.tflite"))
    whole.load(tmp_path / "whole")
    parts.load(tmp_path / "part")
    assert whole.bake() == parts.bake()


TRAIN = ["train", "head.tflite", "-o", "OUT", "--quiet", "--data"]
EVAL = ["eval", "head.tflite", "--data"]
PLAIN = ["eval", "model.tflite", "--data"]
REFUSED: list[tuple[list[str], str]] = [
    (["patch", "text.tflite", "-o", "OUT"], "not a TFLite model"),
    (["patch", "float.tflite", "-o", "OUT"], "layer dense .*FLOAT32"),
    (["patch", "cut.tflite", "-o", "OUT"], "truncated"),
    (
        ["patch", "model.tflite", "-o", "OUT", "--trainable", "stem,nothing*"],
        r"'nothing\*' matches no layer.*stem",
    ),
    (["patch", "all.tflite", "-o", "OUT"], "patched already"),
    (["patch", "absent.tflite", "-o", "OUT"], "cannot read absent.tflite"),
    (["patch", "model.tflite", "-o", "absent/OUT"], "cannot write absent"),
    (["inspect", "text.tflite"], "not a TFLite model"),
    (["inspect", "cut.tflite"], "truncated"),
    ([*TRAIN, "labels.npz"], r"y\[4\] is class 3.*3 classes"),
    ([*TRAIN, "negative.npz"], r"y\[\d+\] is class -1"),
    ([*TRAIN, "shape.npz"], r"x has samples of shape \[5, 8, 1\].*\[8, 8, 1\]"),
    ([*TRAIN, "nan.npz"], r"x\[7\].*not finite"),
    ([*TRAIN, "uint16.npz"], "x has dtype uint16"),
    ([*TRAIN, "count.npz"], "60 samples"),
    ([*TRAIN, "empty.npz"], "no samples"),
    ([*TRAIN, "no_y.npz"], "no_y.npz has no array y"),
    ([*TRAIN, "array.npy"], "array.npy is a single array"),
    ([*TRAIN, "text.npz"], "text.npz is not an .npz"),
    ([*TRAIN, "cut.npz"], "cut.npz is not an .npz"),
    ([*TRAIN, "flipped.npz"], "flipped.npz is not an .npz"),
    ([*TRAIN, "objects.npz"], "objects.npz"),
    ([*TRAIN, "data.npz", "--test", "labels.npz"], r"y\[4\] is class 3"),
    ([*TRAIN, "data.npz", "--arena-size", "2000"], r"arena is too small: 2000 bytes, the model needs \d+"),
    ([*TRAIN, "data.npz", "--passes", "3"], "passes is 3, but"),
    ([*TRAIN, "data.npz", "--lr-end", "2"], "lr_end is 2"),
    ([*TRAIN, "data.npz", "--head-lr", "nan"], "head_lr is nan"),
    ([*TRAIN, "data.npz", "--resume", "all.state"], "all.state is a checkpoint of another model"),
    ([*TRAIN, "data.npz", "--resume", "head.state", "--seed", "5"], "goes on with its own seed, 0"),
    ([*TRAIN, "data.npz", "--resume", "head.state", "--config", "seed5.json"], "goes on with its own seed, 0"),
    ([*TRAIN, "data.npz", "--resume", "cut.state"], "cut.state is not a checkpoint, or is damaged"),
    ([*TRAIN, "data.npz", "--checkpoint", "cut.state"], "cut.state is not a checkpoint, or is damaged"),
    ([*TRAIN, "data.npz", "--resume", "head.state", "--checkpoint", "head.state"], "give one of both"),
    (["train", "all.tflite", "-o", "OUT", "--data", "data.npz", "--method", "weights", "--sigma", "99"], "sigma is 99"),
    (["train", "all.tflite", "-o", "OUT", "--data", "data.npz", "--method", "weights", "--lr", "-1"], "lr is -1"),
    (["train", "model.tflite", "-o", "OUT", "--data", "data.npz"], "no training ops: patch it first"),
    ([*EVAL, "labels.npz"], r"y\[4\] is class 3"),
    ([*EVAL, "nan.npz"], r"x\[7\].*not finite"),
    ([*EVAL, "data.npz", "--checkpoint", "all.state"], "another model"),
    ([*PLAIN, "labels.npz"], r"y\[4\] is class 3"),
    ([*PLAIN, "nan.npz"], r"x\[7\].*not finite"),
    ([*PLAIN, "shape.npz"], "x has samples of shape"),
    ([*PLAIN, "count.npz"], "60 samples"),
    ([*PLAIN, "scalar.npz"], "y has shape"),
    ([*PLAIN, "data.npz", "--checkpoint", "all.state"], "model.tflite is not patched"),
    (["bake", "head.tflite", "--checkpoint", "all.state", "-o", "OUT"], "another model"),
    (["bake", "head.tflite", "--checkpoint", "cut.state", "-o", "OUT"], "cut.state is not a checkpoint"),
    (["bake", "model.tflite", "--checkpoint", "all.state", "-o", "OUT"], "no training ops"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[" ".join(words) for words, _ in REFUSED])
def test_wrong_input_is_one_clear_line(folder: Path, words: list[str], message: str) -> None:
    before = {p: p.read_bytes() for p in folder.iterdir()}
    done = run(folder, *words)
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("tflm-zo: error: "), done.stderr
    assert re.search(message, lines[0]), lines[0]
    assert before == {p: p.read_bytes() for p in folder.iterdir()}


def test_training_that_could_not_be_saved_is_not_started(folder: Path) -> None:
    """An hour of training must not end in 'cannot write'."""
    words = ["train", "all.tflite", "--data", "data.npz", "--epochs", "1000000", "--quiet"]
    done = subprocess.run(
        [*TFLM_ZO, *words, "-o", "absent/state"], cwd=folder, capture_output=True, text=True, timeout=20
    )
    assert done.returncode != 0 and done.stderr.startswith("tflm-zo: error: cannot write absent")
