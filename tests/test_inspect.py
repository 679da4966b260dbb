# SPDX-License-Identifier: Apache-2.0
"""``tflm-zo inspect``: at one glance what a model's layers are, what can be done with it, and if not, why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from click.testing import CliRunner

from tflm_zo import ZoError, bake, patch
from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.cli.main import main
from tflm_zo.model.file import load_model, save_model
from tflm_zo.training.inspection import inspect

STEPS = ["run in TFLM", "trained", "simulated", "planned", "adapter", "realigned"]


def inspected(folder: Path, model: bytes) -> tuple[list[str], dict[str, Any]]:
    """The lines for people, and the object for programs."""
    path = folder / "model.tflite"
    path.write_bytes(model)
    done = CliRunner().invoke(main, ["inspect", str(path), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    *lines, last = done.output.splitlines()
    result: dict[str, Any] = json.loads(last)
    assert list(result["verdicts"]) == STEPS
    for step in STEPS:
        line = next(line for line in lines if line.startswith(f"{step}:"))
        verdict = result["verdicts"][step]
        assert verdict["text"] in line and ("yes" if verdict["possible"] else "no") in line
        assert verdict["text"] and "\n" not in verdict["text"]
    return lines, result


def test_a_model_that_can_all(small: bytes, tmp_path: Path) -> None:
    lines, result = inspected(tmp_path, small)
    assert all(verdict["possible"] for verdict in result["verdicts"].values())
    assert result["verdicts"]["trained"]["text"] == "by default exact: spread (1), dense (4); loss cross-entropy"
    assert [row["number"] for row in result["layers"]] == [0, 1, 4]
    assert [row["handle"] for row in result["layers"]] == ["conv2d:1", "depthwise_conv2d:1", "dense:1"]
    assert [row["methods"] for row in result["layers"]] == [
        ["nodes", "weights"],
        ["exact", "nodes", "weights"],
        ["exact"],
    ]
    assert {row["method"] for row in result["layers"]} == {"frozen"}
    stem = result["layers"][0]
    assert (stem["input_shape"], stem["weight_shape"], stem["output_shape"]) == (
        [1, 8, 8, 1],
        [6, 3, 3, 1],
        [1, 4, 4, 6],
    )
    assert lines[1].split() == ["0", "stem", "CONV_2D", "1x8x8x1", "1x4x4x6", "6x3x3x1", "78", "0", "nodes,", "weights"]


def test_a_patched_and_a_baked_model(small: bytes, tmp_path: Path) -> None:
    patched = patch(small, "head,stem", adapter=True)
    lines, result = inspected(tmp_path, patched)
    verdicts = result["verdicts"]
    assert verdicts["trained"]["text"] == "weights: adapter; nodes: stem (0); exact: dense (4); loss cross-entropy"
    assert verdicts["adapter"]["possible"] and not verdicts["realigned"]["possible"]
    assert [row["number"] for row in result["layers"]] == [-1, 0, 1, 4]  # as in the original
    assert [row["method"] for row in result["layers"]] == ["weights", "nodes", "frozen", "exact"]
    assert lines[1].startswith("    adapter ")
    assert not inspected(tmp_path, patch(small))[1]["verdicts"]["adapter"]["possible"]
    baked = inspected(tmp_path, bake(patched, {}))[1]
    assert [row["number"] for row in baked["layers"]] == [-1, 0, 1, 4] and not baked["patched"]


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ({"head": "everywhere", "end": ""}, "layer top makes the output, but has logits at many positions"),
        ({"head": "dense", "end": "", "activation": "RELU"}, "layer top makes the output, but has a fused RELU"),
    ],
)
def test_without_an_exact_head(end: dict[str, Any], why: str, tmp_path: Path) -> None:
    trained = inspected(tmp_path, small_models.head_model(**end))[1]["verdicts"]["trained"]
    assert trained["possible"]
    assert trained["text"].startswith("with `patch --trainable last:1` nodes: top (")
    assert why in trained["text"]


def test_nothing_to_train(shared_data: Path, tmp_path: Path) -> None:
    lines, result = inspected(tmp_path, (shared_data / "strangers" / "tflm_simple_add.tflite").read_bytes())
    assert lines[0] == "no convolution and no fully connected layer"
    assert result["verdicts"]["run in TFLM"]["possible"] and not result["verdicts"]["trained"]["possible"]


def test_every_stranger_gets_a_verdict(shared_data: Path, tmp_path: Path) -> None:
    """Whatever the model is, inspect ends well; what cannot be done is said with the remedy."""
    for path in sorted((shared_data / "strangers").glob("**/*.tflite")):
        model = path.read_bytes()
        _, result = inspected(tmp_path, model)
        trained = result["verdicts"]["trained"]
        rows = result["layers"]
        assert trained["possible"] == any(row["methods"] for row in rows), path.name
        for row in rows:
            assert row["number"] >= 0 and row["handle"] and row["weight_shape"], path.name


@pytest.mark.parametrize("damage", ["input before the first", "output behind the last", "operator without inputs"])
def test_tensors_that_are_not_there_are_damage(damage: str) -> None:
    """Told by all that look at a plain model, before anything runs it."""
    tree = load_model(small_models.small_model())
    graph = tree.subgraphs[0]
    if damage == "input before the first":
        graph.inputs = np.array([-1], np.int32)
    elif damage == "output behind the last":
        graph.outputs = np.array([1 << 20], np.int32)
    else:
        graph.operators[1].inputs = np.array([], np.int32)
    model = save_model(tree)
    for look in (inspect, plan_memory, patch):
        if look is inspect and damage == "operator without inputs":  # a layer of its table, that TFLM cannot run
            assert inspect(model).not_run
            continue
        with pytest.raises(ZoError, match="damaged"):
            look(model)
