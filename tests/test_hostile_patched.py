# SPDX-License-Identifier: Apache-2.0
"""Patched models from strangers: whatever their training ops say, nothing crashes, and one line tells why not."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fuzz_corpus
import hostile_models
import numpy as np
import pytest
import small_models
from build_once import BuildOnce

from tflm_zo import ZoError, bake, patch
from tflm_zo.ops.names import PARAMETER_OP
from tflm_zo.ops.option_layouts import StateEntry
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.tflm import plugin
from tflm_zo.tflm.interpreter import Interpreter
from tflm_zo.training.sim_passes import SimPasses

PROGRAM = Path(hostile_models.__file__)
FUZZ = PROGRAM.parent / "cpp" / "fuzz"
HOSTILE = PROGRAM.resolve().parents[2] / "shared" / "data" / "hostile"
PATCHED = [
    "residual_5",
    "feature_gradient_1",
    "features_neg",
    "node_number",
    "node_no_initial_bias",
    "initial_bias_int8",
    "kind_3",
    "factor_offset",
    "parameter_count_1000",
    "no_feature_gradient",
    "report_int8",
    "report_address",
    "depth_mult_0",
    "depth_mult_0b",
    "window_width_0",
    "options_40_bytes",
    "two_inputs",
]


def run(*words: str | Path) -> str:
    done = subprocess.run([sys.executable, str(PROGRAM), *map(str, words)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stdout[-300:]} {done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.npz"
    x, y = small_models.separable_samples(20, 0)
    np.savez(path, x=x, y=y)
    return path


@pytest.mark.parametrize("attack", hostile_models.ATTACKS)
def test_an_attack_is_refused_by_whoever_reads_the_model(attack: str) -> None:
    model = hostile_models.attacked(attack)
    for reader in (read_patched, lambda data: bake(data, {})):
        with pytest.raises(ZoError) as refused:
            reader(model)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("field", "value"), [("bytes", 1 << 20), ("bytes", 0), ("input", 0), ("input", 1000)])
def test_the_state_of_an_operator_is_cleared_within_its_tensor(field: str, value: int) -> None:
    model = hostile_models.Tampered(patch(small_models.recurrent_model(), "head"))
    (op,) = model.ops(PARAMETER_OP)
    first = len(op.customOptions) - len(model.states()) * ctypes.sizeof(StateEntry)
    model.set_option(op, first + getattr(StateEntry, field).offset, value)
    with pytest.raises(ZoError, match=r"state (does not match its tensor|is no memory)"):
        read_patched(model.bytes())


# The first few words of what the ops themselves say.
OPS_SAY = {
    "residual_5": "TFLM_ZO_LOSS: options do not match",
    "report_int8": "TFLM_ZO_LOSS: options do not match",
    "depth_mult_0": "TFLM_ZO_NODE: options do not match",
    "window_width_0": "TFLM_ZO_NODE: options do not match",
    "kind_3": "TFLM_ZO_PARAMETERS: parameter 0 does not match",
    "factor_offset": "TFLM_ZO_PARAMETERS: parameter 0 does not match",
    "parameter_count_1000": "TFLM_ZO_PARAMETERS: options of another version, or damaged",
}


@pytest.mark.parametrize("attack", OPS_SAY)
def test_the_ops_refuse_it_in_tflm_too(attack: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A model may reach a board, or TFLM, by another way than ours."""
    with pytest.raises(ZoError, match=OPS_SAY[attack]):
        Interpreter(hostile_models.attacked(attack))
    with pytest.raises(ZoError, match=OPS_SAY[attack]):
        read_patched(hostile_models.attacked(attack))


def test_valid_models_are_accepted() -> None:
    for model in fuzz_corpus.patched_models().values():
        assert Interpreter(read_patched(model).data).state_address


def _commands(model: Path, data: Path, folder: Path) -> None:
    lines = run("commands", model, data, folder).splitlines()
    assert len(lines) == 9
    for line in lines:
        # Exit status 1, one line, of ours.
        assert re.fullmatch(r"[a-z ]+: 1 1 tflm-zo: error: .+", line), line
    assert not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("attack", [*OPS_SAY, "report_address", "options_40_bytes", "constant_weights"])
def test_every_command_tells_it_in_a_line(attack: str, data: Path, tmp_path: Path) -> None:
    model = tmp_path / "model" / "attacked.tflite"
    model.parent.mkdir()
    model.write_bytes(hostile_models.attacked(attack))
    folder = tmp_path / "out"
    folder.mkdir()
    _commands(model, data, folder)


@pytest.mark.slow
@pytest.mark.skipif(not HOSTILE.is_dir(), reason="no shared data")
@pytest.mark.parametrize("name", PATCHED)
def test_files_that_did_harm(name: str, tmp_path: Path) -> None:
    _commands(HOSTILE / f"{name}.tflite", HOSTILE / "d4.npz", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("trainable", "engine"), [("exact", "tflm"), ("all", "simulator")])
def test_no_mutation_ends_the_process(trainable: str, engine: str) -> None:
    """Each word of the options, each input and each tensor of the ops is something else."""
    last = run("train", trainable, engine).splitlines()[-1]
    ends = json.loads(last)
    assert ends["refused"] > 500 and ends["trained"] > 100


def test_the_state_is_that_of_the_ops_own_interpreter() -> None:
    """The plugin tells where the state is; what the report says is not used."""
    model = patch(small_models.small_model())
    first, second = Interpreter(model), Interpreter(model)
    assert first.state_address != second.state_address
    assert plugin.take_state() is None
    plain = Interpreter(small_models.small_model())
    with pytest.raises(ZoError, match="no training ops"):
        assert plain.state_address


def test_the_simulator_refuses_tensors_that_it_does_not_compute() -> None:
    """By reading alone such a model does not get there, so its description is altered."""
    passes = SimPasses(read_patched(patch(small_models.small_model())))
    library, handle = passes._library, passes.sim.engine.handle
    from tflm_zo.simulator.layouts import Training

    nothing = Training()
    trainer = library.tflm_zo_sim_trainer_create(handle, nothing)
    assert b"does not fit the model" in library.tflm_zo_sim_trainer_error(ctypes.c_void_p(trainer))
    library.tflm_zo_sim_trainer_destroy(ctypes.c_void_p(trainer))


# -- the ops by themselves, where every byte beyond a tensor is guarded -------------------------------------


def _build(folder: Path) -> None:
    for words in (["cmake", "-S", FUZZ, "-B", folder], ["cmake", "--build", folder, "-j", "2"]):
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        if done.returncode != 0:
            pytest.fail(done.stdout + done.stderr, pytrace=False)


@pytest.mark.slow  # builds the ops with sanitizers
def test_ops_stay_within_their_tensors(build_once: BuildOnce, tmp_path: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("g++") is None:
        pytest.skip("no cmake or g++")
    program = build_once("fuzz_ops", _build) / "fuzz_ops"
    fuzz_corpus.write_corpus(tmp_path)
    done = subprocess.run([program, tmp_path, "200"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    runs, passes = (int(n) for n in re.findall(r"(\d+) (?:runs|passes)", done.stdout))
    assert runs > 50_000 and passes > 100_000
