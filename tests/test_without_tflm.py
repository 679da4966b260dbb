# SPDX-License-Identifier: Apache-2.0
"""Where TFLM's wheel does not exist, everything but TFLM itself works, and gives the same bytes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from trainers import TflmTrainer

from tflm_zo import patch
from tflm_zo.conversion.evaluate import evaluate_plain, predict_values
from tflm_zo.training.host_arena import host_arena_bytes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="without TFLM's wheel the schema is LiteRT's: install it"
)

# Where the programs run: with -c Python looks for modules there first, and the source tree has nothing compiled.
HERE = Path(__file__).parent
# As if the wheel were not installed.
WITHOUT = "import sys; sys.modules['tflite_micro'] = None; "
RNG = np.random.default_rng(8)
X = RNG.integers(-128, 128, (24, *small_models.INPUT_SHAPE)).astype(np.int8)
Y = RNG.integers(0, 3, 24).astype(np.int32)


def run(program: str, *arguments: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + program, *map(str, arguments)],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def command(*arguments: str | Path, status: int = 0) -> str:
    return run("from tflm_zo.cli.main import main; main()", *arguments, status=status)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.tflite"
    path.write_bytes(small_models.small_model("softmax"))
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return path


def result(text: str) -> Any:
    return json.loads(text.splitlines()[-1])


def test_patched_models_are_the_same(model: Path, tmp_path: Path) -> None:
    for trainable in ("exact", "all", "bias"):
        patched = tmp_path / f"{trainable}.tflite"
        text = command("patch", model, "--trainable", trainable, "--adapter", "-o", patched, "--json")
        expected = patch(model.read_bytes(), trainable, adapter=True)
        assert patched.read_bytes() == expected
        # The plan of the wheel's arena may differ by paddings.
        assert abs(result(text)["arena_bytes"] - host_arena_bytes(expected)) <= 64


def test_training_gives_the_same_weights(model: Path, tmp_path: Path) -> None:
    patched, baked = tmp_path / "zo.tflite", tmp_path / "baked.tflite"
    patched.write_bytes(patch(model.read_bytes(), "all"))
    run(
        "import numpy as np; from pathlib import Path; from tflm_zo import Trainer; "
        "data = np.load(sys.argv[2]); trainer = Trainer(Path(sys.argv[1]).read_bytes(), seed=3); "
        "trainer.fit(data['x'], data['y'], epochs=2, verbose=False); Path(sys.argv[3]).write_bytes(trainer.bake())",
        patched, tmp_path / "data.npz", baked,
    )  # fmt: skip
    trainer = TflmTrainer(patched.read_bytes(), seed=3)
    trainer.fit(X, Y, epochs=2, verbose=False)
    assert baked.read_bytes() == trainer.bake()


def test_scores_are_the_same(model: Path, tmp_path: Path) -> None:
    scores = result(command("eval", model, "--data", tmp_path / "data.npz", "--json"))
    assert scores == evaluate_plain(model.read_bytes(), X, Y)
    outputs = tmp_path / "outputs.npy"
    run(
        "import numpy as np; from pathlib import Path; from tflm_zo.conversion.evaluate import predict_values; "
        "np.save(sys.argv[3], predict_values(Path(sys.argv[1]).read_bytes(), np.load(sys.argv[2])['x']))",
        model, tmp_path / "data.npz", outputs,
    )  # fmt: skip
    np.testing.assert_array_equal(np.load(outputs), predict_values(model.read_bytes(), X))


def test_from_patch_to_bake(model: Path, tmp_path: Path) -> None:
    """The commands, from end to end; TFLM trains to the same model."""
    patched, checkpoint, baked = tmp_path / "zo.tflite", tmp_path / "zo.ckpt", tmp_path / "baked.tflite"
    data = tmp_path / "data.npz"
    command("patch", model, "-o", patched)
    command("train", patched, "--data", data, "--epochs", "2", "--seed", "3", "--quiet", "-o", checkpoint)
    command("bake", patched, "--checkpoint", checkpoint, "-o", baked)
    trainer = TflmTrainer(patched.read_bytes(), seed=3)
    trainer.fit(X, Y, epochs=2, verbose=False)
    assert baked.read_bytes() == trainer.bake()


def test_plan_and_sketch(model: Path, tmp_path: Path) -> None:
    patched = tmp_path / "zo.tflite"
    patched.write_bytes(patch(model.read_bytes()))
    assert "arena" in command("plan", patched)
    command("export", "arduino", patched, "-o", tmp_path / "Sketch")
    assert (tmp_path / "Sketch" / "model.cpp").is_file()


def test_tflm_itself_is_one_line(model: Path, tmp_path: Path) -> None:
    patched = tmp_path / "zo.tflite"
    patched.write_bytes(patch(model.read_bytes()))
    commands: tuple[list[str | Path], ...] = (
        ["train", patched, "--engine", "tflm", "--data", tmp_path / "data.npz", "-o", tmp_path / "zo.ckpt"],
        ["virtual-board", patched],
    )
    for arguments in commands:
        text = command(*arguments, status=1)
        assert text.startswith("tflm-zo: error: TFLM's Python wheel") and len(text.splitlines()) == 1
    assert not (tmp_path / "zo.ckpt").exists()
