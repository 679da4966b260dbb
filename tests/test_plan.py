# SPDX-License-Identifier: Apache-2.0
"""The memory plan: TFLM's accounting without the board, advice where a model does not fit, the picture.

The plan for 32-bit pointers is compared with a real firmware in test_tflm_root.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import small_models
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tflm_zo.board.boards import find_board
from tflm_zo.board.code_size import code_sizes
from tflm_zo.board.memory_plan import plan_memory
from tflm_zo.board.plan_report import plan_picture, plan_text
from tflm_zo.cli.board import plan as plan_command
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model
from tflm_zo.patching.frozen_prefix import split
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.tflm.arena import greedy_offsets, plan_arena
from tflm_zo.tflm.interpreter import Interpreter
from tflm_zo.tflm.layouts import ARDUINO_32, TFLM_32, WHEEL_64
from tflm_zo.training.tflm_passes import TrainingInterpreter

MODELS = ["kws_ref_model", "pretrainedResnet_quant", "vww_96_int8", "ad01_int8", "str_ww_ref_model"]


def assert_accounting_of_the_wheel(model: bytes) -> None:
    """TFLM's own number for this host; two paddings of 16 bytes may differ."""
    plan = plan_arena([load_model(model)], WHEEL_64)
    assert plan.estimated_ops == ()
    assert abs(plan.used - Interpreter(model).arena_bytes) <= 32
    assert plan.used == plan.activations + plan.weights + plan.op_state + plan.structures


@pytest.mark.parametrize("end", ["softmax", "logistic", "relu", "none"])
@pytest.mark.parametrize("trainable", ["head", "exact", "all", "bias"])
def test_accounting_of_small_models(end: str, trainable: str) -> None:
    outputs = 1 if end == "logistic" else 3
    try:
        model = patch(small_models.small_model(end, outputs=outputs), trainable)
    except ZoError:
        pytest.skip("this model has no such layers")
    assert_accounting_of_the_wheel(model)


@pytest.mark.parametrize("options", [{}, {"adapter": True}, {"accumulate": True}, {"loss": "entropy"}])
@pytest.mark.parametrize("trainable", ["all", "bias"])
def test_accounting_of_training_ops(trainable: str, options: dict) -> None:
    model = patch(small_models.small_model(), trainable, **options)
    assert_accounting_of_the_wheel(model)
    assert plan_memory(model).layers


@pytest.mark.parametrize("trainable", ["head", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_accounting_of_real_models(shared_data: Path, name: str, trainable: str) -> None:
    assert_accounting_of_the_wheel(patch((shared_data / f"mlperf_tiny/{name}.tflite").read_bytes(), trainable))


@pytest.mark.parametrize("trainable", ["head", "exact"])
def test_accounting_of_two_models_in_one_arena(trainable: str) -> None:
    """The wheel cannot share an arena, so its numbers are put together: another set of an allocator's structures."""
    model = patch(small_models.residual_model(), trainable)
    parts = split(model)
    assert parts is not None
    plan = plan_arena([load_model(data) for data in (parts.suffix, parts.prefix)], WHEEL_64)
    assert abs(plan.used + sum(WHEEL_64.fixed) - TrainingInterpreter(model).arena_bytes) <= 64
    assert plan.used == plan.activations + plan.weights + plan.op_state + plan.structures
    ahead = len(load_model(parts.prefix).subgraphs[0].operators)
    last = max(buffer.last for buffer in plan.buffers)
    assert last == ahead + len(load_model(parts.suffix).subgraphs[0].operators)


def test_32_bit_structures_are_smaller_and_tensors_are_not() -> None:
    tree = load_model(patch(small_models.small_model(), "all"))
    wide, narrow, arduino = (plan_arena([tree], layout) for layout in (WHEEL_64, TFLM_32, ARDUINO_32))
    assert narrow.weights == wide.weights
    assert narrow.structures < arduino.structures < wide.structures
    assert narrow.required >= narrow.used + 16


def test_cmsis_nn_needs_scratch_memory() -> None:
    tree = load_model(patch(small_models.small_model(), "all"))
    plain, cmsis = plan_arena([tree], TFLM_32), plan_arena([tree], TFLM_32, cmsis_nn=True)
    assert {b.name for b in cmsis.buffers} - {b.name for b in plain.buffers} == {
        "scratch of CONV_2D", "scratch of AVERAGE_POOL_2D"
    }  # fmt: skip
    # 3x3x1 inputs a column, rounded up to 4, in two columns of int16; 3x3 depthwise needs none.
    assert next(b.size for b in cmsis.buffers if b.name == "scratch of CONV_2D") == 48


@given(
    st.lists(
        st.tuples(st.integers(1, 500).map(lambda n: 16 * n), st.integers(0, 9), st.integers(0, 5)),
        max_size=12,
    )
)
def test_planned_buffers_never_overlap(wanted: list[tuple[int, int, int]]) -> None:
    buffers = [(size, first, first + length) for size, first, length in wanted]
    offsets = greedy_offsets(buffers)
    for i, (size, first, last) in enumerate(buffers):
        assert offsets[i] >= 0
        for j, (other_size, other_first, other_last) in enumerate(buffers[:i]):
            if first <= other_last and other_first <= last:
                assert offsets[i] + size <= offsets[j] or offsets[j] + other_size <= offsets[i]


def test_greedy_order() -> None:
    # The largest goes first to 0, the next beside it; the last fits in front of neither and goes on top.
    assert greedy_offsets([(64, 0, 2), (128, 1, 3), (64, 2, 3)]) == [192, 0, 128]
    assert greedy_offsets([(64, 0, 1), (64, 2, 3)]) == [0, 0]
    assert greedy_offsets([]) == []


# -- against a board ---------------------------------------------------------------------------------------


def test_small_model_fits() -> None:
    plan = plan_memory(patch(small_models.small_model(), "all"))
    assert plan.fits
    assert plan.advice == ""
    assert plan.ram_used == sum(share.size for share in plan.ram) < plan.board.ram
    arena = sum(share.size for share in plan.ram[:5])
    assert arena == plan.arena_bytes >= plan.arena.required
    text = plan_text(plan)
    assert "it fits" in text
    assert str(plan.ram_used) in text
    assert str(plan.board.flash) in text


def test_batch_size_counts() -> None:
    model = patch(small_models.small_model(), "head")
    small, large = (plan_memory(model, batch_size=n) for n in (1, 101))
    # The head's features are kept instead of a sample; one sample comes in whole.
    assert large.ram_used - small.ram_used == 100 * (24 + 4)
    whole = patch(small_models.small_model(), "all")
    small, large = (plan_memory(whole, batch_size=n) for n in (1, 101))
    assert large.ram_used - small.ram_used == 100 * (64 + 4)


def test_advice_makes_it_fit(shared_data: Path) -> None:
    """Visual wake words with all layers in RAM is too much for a Nano 33 BLE; the advice, followed, fits."""
    original = (shared_data / "mlperf_tiny/vww_96_int8.tflite").read_bytes()
    plan = plan_memory(patch(original, "all"), batch_size=1)
    assert not plan.fits
    assert plan.ram_used > plan.board.ram
    trainable = plan.advice.rsplit("--trainable ", 1)[1]
    relieved = plan_memory(patch(original, trainable), batch_size=1)
    assert relieved.fits
    # Not more than needed, apart from the reserve: with the largest frozen layer back in, it no longer fits.
    frozen = set(plan.layers) - set(relieved.layers)
    assert frozen
    largest = max(frozen, key=lambda name: plan.layers[name])
    assert not plan_memory(patch(original, f"{trainable},{largest}"), batch_size=1).fits


def test_advice_on_the_batch(shared_data: Path) -> None:
    original = (shared_data / "mlperf_tiny/vww_96_int8.tflite").read_bytes()
    # 16 images do not fit, what the frozen layers make of them does.
    assert plan_memory(patch(original, "head"), batch_size=16).fits
    model = patch(original, "head", adapter=True)
    plan = plan_memory(model, batch_size=16)
    assert not plan.fits
    most = int(plan.advice.rsplit("--batch-size ", 1)[1].rstrip(")"))
    assert plan_memory(model, batch_size=most).fits
    assert not plan_memory(model, batch_size=most + 1).fits


def test_advice_on_both(shared_data: Path) -> None:
    plan = plan_memory(patch((shared_data / "mlperf_tiny/vww_96_int8.tflite").read_bytes(), "all"), batch_size=16)
    assert "--batch-size 1), and freeze" in plan.advice


def test_accumulators_count_as_their_layers(shared_data: Path) -> None:
    original = (shared_data / "mlperf_tiny/kws_ref_model.tflite").read_bytes()
    plain, summing = (plan_memory(patch(original, "conv2d", accumulate=a)) for a in (False, True))
    elements = 64 * 40 + 64
    assert summing.layers["conv2d"] - plain.layers["conv2d"] == 4 * elements


def test_model_that_cannot_fit() -> None:
    plan = plan_memory(patch(small_models.dense_model(features=4096, outputs=100), "head"))
    assert not plan.fits
    assert "too large for the board" in plan.advice


def test_the_end_of_the_flash_is_for_checkpoints() -> None:
    """A program of more than 1 MB - 64 KB boot loader - 64 KB checkpoints does not fit; without them it would."""
    board = find_board("nano33ble")
    room = board.sketch_flash - 983_040
    assert room == -64 * 1024
    features = 7_600
    plan = plan_memory(patch(small_models.dense_model(features=features, outputs=100), "bias"))
    assert board.flash < plan.flash_used < board.flash + board.checkpoints
    assert "bytes of flash too much (the end of it is for checkpoints)" in plan.advice
    assert not plan.fits


def test_size_of_a_checkpoint() -> None:
    """Progress, header, weights and momentum; a slot is half of the area."""
    plan = plan_memory(patch(small_models.small_model(), "all", adapter=True))
    patched = read_patched(patch(small_models.small_model(), "all", adapter=True))
    moments = sum(p.moments for p in patched.parameters)
    assert moments > 0
    assert plan.checkpoint_bytes == 48 + sum(p.arena_bytes for p in patched.parameters) + 4 * moments
    assert plan.checkpoint_slot == 32 * 1024
    assert "too large for its slot" not in plan_text(plan)
    large = plan_memory(patch(small_models.dense_model(features=2000, outputs=20), "head"))
    assert large.checkpoint_bytes > large.checkpoint_slot
    assert "too large for its slot: train with --no-checkpoints" in plan_text(large)


@given(st.lists(st.sampled_from(["AddConv2D", "AddDepthwiseConv2D", "AddAdd", "AddSoftmax", "NodeOp", "LossOp"])))
def test_shared_code_counts_once(ops: list[str]) -> None:
    """Kernels together take at most what they take one by one, and no less than any of them."""
    size = code_sizes()["chirale"]
    together, alone = size.flash(ops), [size.flash([op]) for op in set(ops)]
    assert max(alone, default=0) <= together <= sum(alone)
    assert size.flash([*ops, *ops]) == together


def test_kernel_that_was_not_measured() -> None:
    size = code_sizes()["chirale"]
    assert size.unknown(["AddConv2D", "AddSvdf"]) == ["AddSvdf"]
    assert size.flash(["AddConv2D", "AddSvdf"]) > size.flash(["AddConv2D"])


def test_flash_too_small() -> None:
    plan = plan_memory(patch(small_models.dense_model(features=10_000, outputs=100), "bias"))
    assert plan.flash_used > find_board("nano33ble").flash
    assert "bytes of flash too much" in plan.advice


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plan = plan_memory(patch(small_models.small_model(), "all"))
    plan_picture(plan, tmp_path / "plan.png")
    data = (tmp_path / "plan.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(patch(small_models.small_model(), "all"))
    result = CliRunner().invoke(plan_command, [str(path), "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.output.splitlines()[-1])
    assert values["fits"]
    assert sum(values["ram"].values()) == values["ram_bytes"][0]
    path.write_bytes(patch(small_models.dense_model(features=4096, outputs=100), "head"))
    assert CliRunner().invoke(plan_command, [str(path)]).exit_code == 1


def test_unknown_board() -> None:
    with pytest.raises(ZoError, match="choose one of nano33ble"):
        plan_memory(patch(small_models.small_model()), board="x")


def test_inference_alone(tmp_path: Path) -> None:
    """A model that is not patched: its own arena, no program of ours around it."""
    original = small_models.small_model()
    plan, patched = plan_memory(original), plan_memory(patch(original, "head"))
    assert plan.fits
    assert not plan.trains
    assert plan.arena.used < patched.arena.used
    assert not {"app", "samples of a step", "checkpoints", "training ops"} & {s.name for s in (*plan.ram, *plan.flash)}
    text = plan_text(plan)
    assert "inference alone" in text
    assert "it fits" in text
    assert "checkpoint" not in text
    path = tmp_path / "m.tflite"
    path.write_bytes(original)
    assert CliRunner().invoke(plan_command, [str(path)]).exit_code == 0
    path.write_bytes(small_models.layer_model("conv", (200, 200, 3), 8))
    result = CliRunner().invoke(plan_command, [str(path)])
    assert result.exit_code == 1
    assert "activations of" in result.output


def test_the_largest_excess_comes_first() -> None:
    both = plan_memory(patch(small_models.dense_model(features=30_000, outputs=100), "all"))
    over = [both.ram_used - both.board.ram, both.flash_used - both.board.flash]
    assert min(over) > 0
    assert both.advice.startswith(f"{max(over)} bytes of ")
    assert f"{min(over)} bytes of " in both.advice
    assert "trainable weights of" in both.advice
