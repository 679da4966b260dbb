# SPDX-License-Identifier: Apache-2.0
"""Learning rates that a network bears: what passes measure of it, to NumPy, and that no training diverges with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import small_models
from engine import command
from hypothesis import given, settings
from hypothesis import strategies as st
from test_node_op import CLOSED, LAYERS, Graph, Twins, samples
from trainers import SimTrainer

from tflm_zo import Trainer, ZoError, patch
from tflm_zo.model.file import save_model
from tflm_zo.ops.command import REPORT_DTYPE
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.probing import passes_to_measure
from tflm_zo.training.rates import Rates
from tflm_zo.training.recipe import make_recipe

MEASURE = reference.LOSS | reference.MEASURE


def report_of(words: np.ndarray) -> np.void:
    return np.ascontiguousarray(words).view(REPORT_DTYPE)[0]


def softmax_gradient(logits: np.ndarray, target: int) -> np.ndarray:
    """dL/dz of cross-entropy, float64."""
    z = logits.astype(np.float64)
    p = np.exp(z - z.max())
    return p / p.sum() - np.eye(len(z))[target]


# -- what is measured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLOSED)
def test_kernel_of_the_layer_before_the_head(name: str) -> None:
    """|J^T g|^2 for a g of length 1 along dL/dz, J = dz/d(weights, bias) in real units, through head, pooling and the
    ends of the range."""
    twins = Twins(small_models.layer_model(**LAYERS[name]), "exact")
    node, engine = twins.nodes[-1], twins.engine
    assert node.pool is not None
    head, features_of = twins.graph.layer("dense"), int(twins.graph.of_layer("dense").inputs[0])
    real_head = head.weights.astype(np.float64) * head.weight_scales.reshape(-1, 1)
    before = engine.tensors()
    measured = []
    for i, sample in enumerate(samples(twins, 4)):
        words = command(actions=MEASURE, node_first=node.number, node_last=node.number + 1)
        report = report_of(engine.run(words, sample, i % 3))
        logits = twins.head.logits(engine.tensor(features_of).reshape(-1))
        wanted = np.sum(softmax_gradient(logits, i % 3) ** 2)
        # That of a certain sample is all rounding in single precision: its own direction counts.
        gradient = reference.cross_entropy_gradient(logits, i % 3).astype(np.float64)
        assert report["gradient_energy"] == pytest.approx(wanted, rel=1e-4, abs=1e-12)
        x, y = twins.map(node.number)
        to_features = (gradient / np.linalg.norm(gradient)) @ real_head
        high, wide = node.pool
        pooled = to_features.reshape(y.shape[0] // high, y.shape[1] // wide, -1) / (high * wide)
        dy = np.where(node.saturated(y), 0.0, pooled.repeat(high, axis=0).repeat(wide, axis=1))
        windows = node.layer.windows(x).astype(np.float64) * node.layer.x_scale
        equation = "rcyxo,rco->yxo" if node.layer.kind == "depthwise" else "rcyxk,rco->yxko"
        energy = np.sum(np.einsum(equation, windows, dy) ** 2) + np.sum(
            dy.sum(axis=(0, 1)) ** 2 * (node.bias is not None)
        )
        assert report["layer_energy"] == pytest.approx(energy, rel=1e-4)
        measured.append(energy)
    assert max(measured) > 0
    for a, b in zip(before, engine.tensors(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", LAYERS)
def test_unit_gradient_of_a_layer_trained_by_its_outputs(name: str) -> None:
    """Mean over output channels of the squared length of its weights' and bias's gradient, dL/dy = 1 in range."""
    twins = Twins(small_models.layer_model(**LAYERS[name]))
    node = twins.nodes[0]
    assert node.pool is None
    for sample in samples(twins, 3):
        report = report_of(twins.engine.run(command(actions=MEASURE, node_last=1), sample, 0))
        x, y = twins.map(0)
        dy = np.where(node.saturated(y), 0.0, 1.0)
        windows = node.layer.windows(x).astype(np.float64) * node.layer.x_scale
        equation = "rcyxo,rco->yxo" if node.layer.kind == "depthwise" else "rcyxk,rco->yxko"
        dw, db = np.einsum(equation, windows, dy), dy.sum(axis=(0, 1))
        energy = (np.sum(dw**2) + np.sum(db**2)) / node.layer.outputs
        assert report["layer_energy"] == pytest.approx(energy, rel=1e-4)


def test_nodes_that_are_not_asked_for_report_nothing() -> None:
    twins = Twins(small_models.layer_model(**LAYERS["conv"]))
    sample = samples(twins, 1)[0]
    for actions, last in ((reference.LOSS, 2), (MEASURE, 0)):
        report = report_of(twins.engine.run(command(actions=actions, node_last=last), sample, 0))
        assert report["layer_energy"] == 0 and (report["gradient_energy"] > 0) == (actions == MEASURE)


@pytest.mark.parametrize("fields", [{"sign": 1}, {"actions": MEASURE | reference.HEAD}], ids=str)
def test_measuring_excludes_perturbing_and_updating(fields: dict[str, int]) -> None:
    twins = Twins(small_models.layer_model(**LAYERS["conv"]))
    with pytest.raises(RuntimeError):
        twins.engine.run(command(**({"actions": MEASURE} | fields)), samples(twins, 1)[0], 0)


@pytest.mark.parametrize("method", ["auto", "weights", "nodes"])
@pytest.mark.parametrize("end", ["softmax", "logistic", ""])
def test_rates_are_the_same_in_the_simulator_and_cost_the_passes_they_say(end: str, method: str) -> None:
    outputs = {"softmax": 3, "logistic": 1, "": 2}[end]
    model = patch(small_models.small_model(end, outputs=outputs), "all")
    x, y = small_models.separable_samples(20, seed=1, classes=2)
    targets: np.ndarray = y if end else np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    hyper: dict[str, Any] = {"method": method, "epochs": 1, "queries": 2, "holdout": 0.0}
    found: list[Rates] = []
    for engine in (Trainer, SimTrainer):
        trainer = engine(model, seed=4)
        found.append(trainer.fit(x, targets, verbose=False, **hyper).rates)
        recipe = make_recipe(trainer.model, Hyperparameters(**hyper))
        training = 20 * recipe.passes_a_sample(True)
        measuring = passes_to_measure(recipe, Hyperparameters(**hyper), 20)
        assert training + measuring <= trainer.progress.passes <= training + measuring + 1
    assert found[0] == found[1] and found[0].head is not None and found[0].head > 0
    perturbed = {**found[0].parameters, **found[0].nodes}
    assert perturbed and all(np.isfinite(rate) and rate >= 0 for rate in perturbed.values())
    assert any(rate > 0 for rate in perturbed.values())


def test_scales_multiply_what_is_measured_and_given_rates_count_more() -> None:
    x, y = small_models.separable_samples(20, seed=1)

    def rates(**hyper: Any) -> Rates:
        trainer = SimTrainer(patch(small_models.small_model(), "all"))
        return trainer.fit(x, y, epochs=1, holdout=0.0, verbose=False, **hyper).rates

    one, exact, other = rates(), rates(exact_lr_scale=0.5), rates(lr_scale=0.25)
    assert one.head and one.closed
    assert (exact.head, exact.closed, exact.nodes) == (0.5 * one.head, 0.5 * one.closed, one.nodes)
    assert other.head == one.head
    assert other.nodes == {n: pytest.approx(0.25 * r) for n, r in one.nodes.items()}
    given = rates(head_lr=0.01, node_lr=0.02)
    assert given.head == given.closed == 0.01 and given.nodes == {}
    for name in ("exact_lr_scale", "lr_scale"):
        with pytest.raises(ZoError, match=name):
            rates(**{name: -1.0})


# -- scales --------------------------------------------------------------------------------------------------


def rescaled(model: bytes, layer: str, factor: float) -> bytes:
    """The same function of the same codes, with the real input of ``layer`` larger by ``factor``, a power of 2, and its
    weights smaller: what makes the input, a layer or the samples, takes the other part."""
    graph = Graph(model)

    def scale(tensor: int, by: float) -> None:
        quantization = graph.tensors[tensor].quantization
        quantization.scale = np.asarray(quantization.scale, dtype=np.float32) * np.float32(by)

    scale(int(graph.of_layer(layer).inputs[1]), 1 / factor)
    tensor = int(graph.of_layer(layer).inputs[0])
    while True:
        scale(tensor, factor)
        makers = [o for o in graph.operators if tensor in o.outputs]
        if not makers:
            break
        if graph.kind(makers[0]) in ("CONV_2D", "FULLY_CONNECTED"):
            for weights in makers[0].inputs[1:]:
                scale(int(weights), factor)
            break
        tensor = int(makers[0].inputs[0])
    return save_model(graph.tree)


def clusters(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes int8 (count, 8, 8, 1) about a pattern for each of three classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.normal(0, 45, (3, 8, 8, 1))[y] + rng.normal(0, 25, (count, 8, 8, 1))
    return np.clip(np.rint(x), -128, 127).astype(np.int8), y


@pytest.mark.parametrize("factor", [1 / 32, 0.25, 0.5])
def test_the_rate_follows_the_scales_of_the_network(factor: float) -> None:
    """What a scale takes from the kernel it gives to the rate: their product, and so the steps in codes, stay."""
    model = small_models.stack_model([6, 8], pool=1)
    x, y = clusters(30, 0)

    def trained(data: bytes) -> Trainer:
        trainer = SimTrainer(patch(data, "conv1"), seed=1)
        trainer.fit(x, y, epochs=3, holdout=0.0, verbose=False)
        return trainer

    one, other = trained(model), trained(rescaled(model, "dense", factor))
    closed = []
    for trainer in (one, other):
        rates = trainer.progress.rates
        assert rates is not None and rates.head is not None and rates.closed is not None
        assert rates.closed < rates.head
        closed.append(rates.closed)
    assert closed[1] == pytest.approx(factor**2 * closed[0], rel=1e-4)
    for name, value in one.weights.items():
        # Rates differ in the last bits, and with them a rounding here and there.
        assert np.mean(other.weights[name].astype(int) != value) < 0.05, name
    assert any(np.any(one.engine.read().values[p.index] != p.initial) for p in one.model.parameters)


def test_no_layer_gets_more_than_the_head() -> None:
    """Large inputs of the head make its rate small, and the weights in front of it, which then hardly matter, no
    larger."""
    model = rescaled(small_models.stack_model([6, 8], pool=1), "dense", 16.0)
    trainer = SimTrainer(patch(model, "exact"))
    rates = trainer.fit(*clusters(30, 0), epochs=1, holdout=0.0, verbose=False).rates
    assert rates.head is not None and rates.closed == rates.head


# -- nothing diverges ----------------------------------------------------------------------------------------


@settings(max_examples=50, derandomize=True)
@given(
    widths=st.lists(st.sampled_from([2, 6, 20]), min_size=1, max_size=4),
    pool=st.sampled_from([1, 2, 4]),
    method=st.sampled_from(["exact", "nodes", "weights"]),
    scales=st.lists(st.sampled_from([1 / 32, 0.25, 1.0, 4.0, 32.0]), min_size=5, max_size=5),
    accumulate=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_training_diverges(
    widths: list[int], pool: int, method: str, scales: list[float], accumulate: bool, seed: int
) -> None:
    """With default rates and no guard, whatever widths, depth, pooling and scales: the loss of the samples that are
    trained on does not rise by more than the noise of networks that learn nothing, whose loss is that of chance."""
    model = small_models.stack_model(widths, pool=pool, seed=seed)
    layers = [f"conv{i}" for i in range(len(widths))] + ["dense"]
    for layer, factor in zip(layers, scales, strict=False):
        model = rescaled(model, layer, factor)
    trainer = SimTrainer(patch(model, "exact" if method == "exact" else "all", accumulate=accumulate), seed=seed)
    x, y = clusters(48, seed)
    before = trainer.evaluate(x, y)["loss"]
    trainer.fit(x, y, epochs=3, method=method, queries=2, holdout=0.0, verbose=False)
    assert trainer.evaluate(x, y)["loss"] < 1.15 * before + 0.05


@settings(max_examples=15, derandomize=True)
@given(
    features=st.sampled_from([3, 20, 300]),
    outputs=st.sampled_from([1, 4]),
    factor=st.sampled_from([1 / 64, 1.0, 64.0]),
    seed=st.integers(0, 99),
)
def test_no_regression_diverges(features: int, outputs: int, factor: float, seed: int) -> None:
    model = rescaled(small_models.dense_model("", features=features, outputs=outputs, seed=seed), "dense", factor)
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (40, features)).astype(np.int8)
    trainer = SimTrainer(patch(model, loss="mse"), seed=seed)
    y = trainer.predict(x) * 0.5
    before = trainer.evaluate(x, y)["loss"]
    trainer.fit(x, y, epochs=5, holdout=0.0, verbose=False)
    assert trainer.evaluate(x, y)["loss"] < before
