# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' yardsticks: their network is the int8 model's, their RAM what the formula says, results are kept."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from small_models import dense_model, mean_model, separable_samples

from tflm_zo import patch
from tflm_zo.model.file import load_model, save_model
from tflm_zo.model.samples import input_codes
from tflm_zo.realignment.filters import add_filter
from tflm_zo.simulator.model import SimModel
from tflm_zo.training.sim_trainer import SimTrainer

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from suites import cifar_c, starts
from suites.cache import Cache, digest
from suites.case import Case
from suites.memory import BackpropMemory, arena, backprop_memory, first_affordable_layer
from suites.starts import FILTERED, PREPARED
from suites.suite import Method, Yardstick
from suites.yardsticks import back_propagate


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


def test_memory_of_the_last_layers_alone(small: bytes) -> None:
    """Pooling (2x2x6) -> 3: what reaches the frozen layers in front has no gradient, and they are not in RAM."""
    last = SimModel(small).layers[-2].index
    assert SimModel(small).layers[-2].op == "FULLY_CONNECTED"
    head = backprop_memory(small, int8=True, optimizer="QAS", trained_from=last)
    assert head == BackpropMemory(weights=72 + 4 * 3, gradients=4 * 75, optimizer=0, activations=24 + 4 * 3)


def test_back_propagation_in_our_ram_trains_no_fewer_layers_than_we(small: bytes) -> None:
    layers = SimModel(small).layers
    first = next(layer.index for layer in layers if layer.op == "DEPTHWISE_CONV_2D")
    # Default: the depthwise layer, which reaches the head by pooling alone, and the head.
    assert first_affordable_layer(small) <= first
    room = arena(patch(small)) - arena(small)
    before = backprop_memory(small, True, "QAS", 0)
    assert (first_affordable_layer(small) == 0) == (before.weights + before.activations <= room)


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
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-3 if not int8 else 0.5)

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


@pytest.mark.parametrize("keep_dims", [False, True])
def test_network_takes_means_over_the_image(keep_dims: bool) -> None:
    pytest.importorskip("tensorflow")
    from suites.float_network import Network, Setting

    model = mean_model(keep_dims=keep_dims)
    case = case_of(model)
    network = Network(model)
    network.train(case.x, case.y, Setting("Adam", 0.0, 1), 0)
    real = network.outputs(network.tf.constant(network.reals(case.x))).numpy()
    simulated = SimModel(model)
    logits = next(layer for layer in simulated.layers if layer.op == "FULLY_CONNECTED").output
    tensor = simulated.tensors[logits]
    codes = simulated.activations(case.x)[logits].astype(float)
    # The network's logits are accumulators, which do not saturate.
    inside = np.abs(codes) < 120
    np.testing.assert_allclose(
        real[inside], ((codes - tensor.zero_point) * tensor.scale)[inside], atol=4 * tensor.scale
    )


def test_network_trains_the_last_layers_alone(small: bytes) -> None:
    pytest.importorskip("tensorflow")
    from suites.float_network import Network, Setting

    case = case_of(small)
    last = SimModel(small).layers[-2].index
    network = Network(small, trained_from=last)
    network.train(case.x, case.y, Setting("Adam", 0.0, 1), 0)
    before = [variable.numpy() for variable in network.variables]
    network.train(case.x, case.y, Setting("Adam", 1e-2, 3), 0)
    changed = [not np.array_equal(old, new.numpy()) for old, new in zip(before, network.variables, strict=True)]
    assert changed == [False, False, False, False, True, True]


def test_float_network_saturates_where_int8_does(small: bytes) -> None:
    """The first layer's output scale is made so small that most of its outputs are beyond what int8 holds."""
    pytest.importorskip("tensorflow")
    from suites.float_network import Network, Setting

    tree = load_model(small)
    graph = tree.subgraphs[0]
    convolution = graph.operators[0]
    quantization = graph.tensors[int(convolution.outputs[0])].quantization
    quantization.scale = quantization.scale / 16
    model = save_model(tree)
    case = case_of(model)
    codes = SimModel(model).activations(case.x)
    assert np.mean(codes[int(convolution.outputs[0])] == 127) > 0.2
    network = Network(model)
    network.train(case.x, case.y, Setting("Adam", 0.0, 1), 0)
    real = network.outputs(network.tf.constant(network.reals(case.x))).numpy()
    logits = SimModel(model).layers[-2].output
    tensor = SimModel(model).tensors[logits]
    expected = (codes[logits].astype(float) - tensor.zero_point) * tensor.scale
    inside = np.abs(codes[logits].astype(int)) < 120
    np.testing.assert_allclose(real[inside], expected[inside], atol=6 * tensor.scale)


@pytest.mark.parametrize("start", [PREPARED, FILTERED])
def test_samples_go_through_what_stands_in_front(small: bytes, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-propagation's model behind the front computes of its samples what the whole computes of the originals."""
    tree = load_model(small)
    add_filter(tree, "smooth3", 0)
    whole = save_model(tree)
    monkeypatch.setattr(starts, "model_at", lambda case, asked: whole if asked == start else case.model)
    case = case_of(small)
    behind = starts.behind_front(case, start)
    assert len(SimModel(behind.model).layers) == len(SimModel(small).layers)
    assert not np.array_equal(behind.x, case.x)
    for x, passed in ((case.x, behind.x), (case.x_test, behind.x_test)):
        np.testing.assert_array_equal(SimModel(behind.model).run(passed), SimModel(whole).run(x))


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


@pytest.mark.parametrize("other_people", [False, True])
def test_inertial_windows_are_of_one_part_only(other_people: bool) -> None:
    if importlib.util.find_spec("seglearn") is None:
        pytest.skip("seglearn is not installed")
    from suites.inertial import AXES, FRAMES, load_windows

    parts = load_windows(other_people=other_people)
    seen: set[bytes] = set()
    for x, y in zip(parts[::2], parts[1::2], strict=True):
        assert x.shape == (len(y), FRAMES, AXES) and x.dtype == np.float32 and np.abs(x).max() <= 4
        assert np.bincount(y).min() > len(y) / 20
        # Windows begin every half of their length, or every length: halves are shared within a part, never across.
        halves = {half.tobytes() for window in x for half in (window[: FRAMES // 2], window[FRAMES // 2 :])}
        assert not halves & seen
        seen |= halves
    again = load_windows(other_people=other_people)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


def test_methods_name_hyperparameters(small: bytes) -> None:
    """Methods of all suites can be patched and fitted as they say."""
    from suites import ad01, cifar, digits, fresh, kws

    case = case_of(small)
    for method in (*kws.METHODS, *cifar.METHODS, *digits.METHODS, *ad01.METHODS, *fresh.METHODS):
        assert isinstance(method, Method)
        if method.chain:
            continue  # chooses all of it
        if method.patching.get("trainable", "head") not in ("head", "exact", "all"):
            continue  # names layers of its suite's model
        trainer = SimTrainer(patch(small, **method.patching))
        trainer.fit(case.x, case.y, epochs=1, verbose=False, **method.fitting)
        assert trainer.progress.passes > 0


@pytest.mark.parametrize("name", cifar_c.CORRUPTIONS)
def test_corruptions_of_small_images(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    seen = cifar_c.corrupted(images, name)
    assert seen.shape == images.shape and seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, cifar_c.corrupted(images, name))
    assert 1 < np.mean(np.abs(seen.astype(int) - images)) < 90
