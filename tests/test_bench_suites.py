# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' yardsticks: their network is the int8 model's, their RAM what the formula says, results are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import dense_model, separable_samples

from tflm_zo import patch
from tflm_zo.samples import input_codes
from tflm_zo.simulator import SimTrainer

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from suites.cache import Cache, digest
from suites.memory import BackpropMemory, arena, backprop_memory
from suites.suite import Case, Method
from suites.yardsticks import Yardstick, back_propagate


def case_of(model: bytes, name: str = "case") -> Case:
    form = SimTrainer(patch(model, "head")).model
    x, y = separable_samples(96, 1)
    codes = input_codes(x, form.input_shape, form.input_quantization)[:, 0]
    return Case(name, model, codes[:64], y[:64], codes[64:], y[64:], codes[64:], y[64:], codes)


def test_digest_tells_parts_apart() -> None:
    zeros = np.zeros(4, np.int8)
    values = [
        digest(b"ab", b"c"),
        digest(b"a", b"bc"),
        digest(zeros),
        digest(zeros.reshape(2, 2)),
        digest(zeros.view(bool)),
    ]
    assert len(set(values)) == len(values)
    assert digest(zeros.copy(), ("x", 1.0)) == digest(zeros, ("x", 1.0))


def test_cache_keeps_results_between_runs(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, float]:
        made.append(1)
        return {"score": 0.5}

    for _ in range(2):
        assert Cache(tmp_path / "results").get("key", {}, make) == {"score": 0.5}
    assert len(made) == 1
    Cache(tmp_path / "results").get("another", {}, make)
    Cache(None).get("key", {}, make)
    assert len(made) == 3


def test_memory_of_back_propagation_by_hand(small: bytes) -> None:
    """8x8x1 -> conv (4x4x6, ReLU) -> depthwise (4x4x6, ReLU) -> pooling (2x2x6) -> 3, counted by hand."""
    weights, biases = 54 + 54 + 72, 6 + 6 + 3
    float32 = backprop_memory(small, int8=False, optimizer="Adam")
    # The peak is at the depthwise layer: the input and both ReLU outputs are kept, and it has two gradients.
    assert float32 == BackpropMemory(
        weights=4 * (weights + biases),
        gradients=4 * (weights + biases),
        optimizer=8 * (weights + biases),
        activations=4 * (64 + 96 + 96) + 4 * (96 + 96),
    )
    int8 = backprop_memory(small, int8=True, optimizer="QAS")
    assert (int8.weights, int8.optimizer) == (weights + 4 * biases, 0)
    assert int8.activations == (64 + 96 + 96) + 4 * (96 + 96)
    # One layer: its input is kept, only its output has a gradient.
    assert backprop_memory(dense_model(), int8=False, optimizer="SGD").activations == 4 * 20 + 4 * 5


def test_training_adds_to_the_arena(small: bytes) -> None:
    assert arena(small) < arena(patch(small, "head")) < arena(patch(small, "all"))


@pytest.mark.parametrize("int8", [False, True])
def test_network_starts_at_the_int8_model_and_learns(small: bytes, int8: bool, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    from suites.float_network import Network, Setting

    case = case_of(small)
    network, model = Network(small, int8=int8), SimTrainer(patch(small, "head"))
    untrained = Setting("QAS" if int8 else "Adam", 0.0, 1)
    same = model.evaluate(case.x_test, case.y_test)["accuracy"]
    outputs = []
    for unit_inputs in (False, True):
        network.train(case.x, case.y, Setting(untrained.optimizer, 0.0, 1, unit_inputs), 0)
        assert network.score(case.x_test, case.y_test) == pytest.approx(same, abs=0.04)
        outputs.append(network.outputs(network.tf.constant(network.reals(case.x_test))).numpy())
    np.testing.assert_allclose(*outputs, atol=1e-3 if not int8 else 0.5)

    grid = tuple(Setting(untrained.optimizer, rate, 10) for rate in ((1e-2, 1e-1) if int8 else (1e-3, 1e-2)))
    yardstick = Yardstick("back-propagation", grid, int8=int8)
    outcome = back_propagate(yardstick, case, 1, Cache(tmp_path))
    assert outcome.scores[0] > same
    kept = len(list(tmp_path.iterdir()))
    assert kept == len(grid) * 3 + 1
    assert back_propagate(yardstick, case, 1, Cache(tmp_path)) == outcome
    assert len(list(tmp_path.iterdir())) == kept
    if int8:
        setting = grid[0]
        network.train(case.x, case.y, setting, 0)
        for variable, grid_of in zip(network.variables, network._grids, strict=True):
            codes = variable.numpy() / grid_of
            np.testing.assert_allclose(codes, np.rint(codes), atol=1e-2)


def test_corruptions_are_seeded_and_leave_the_generator_alone() -> None:
    pytest.importorskip("imagecorruptions")
    from suites.corruptions import corrupted

    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for name in ("gaussian_noise", "impulse_noise", "elastic_transform"):
        np.random.seed(1)
        first = corrupted(images, name)
        after = np.random.random()
        np.random.seed(2)
        assert np.array_equal(corrupted(images, name), first)
        np.random.seed(1)
        assert np.random.random() == after
        assert first.shape == images.shape and first.dtype == np.uint8 and not np.array_equal(first, images)


def test_methods_name_hyperparameters(small: bytes) -> None:
    """Methods of all suites can be patched and fitted as they say."""
    from suites import ad01, cifar, digits, kws

    case = case_of(small)
    for method in (*kws.METHODS, *cifar.METHODS, *digits.METHODS, *ad01.METHODS):
        assert isinstance(method, Method)
        if method.patching.get("trainable", "head") not in ("head", "exact", "all"):
            continue  # names layers of its suite's model
        trainer = SimTrainer(patch(small, **method.patching))
        trainer.fit(case.x, case.y, epochs=1, verbose=False, **method.fitting)
        assert trainer.progress.passes > 0
