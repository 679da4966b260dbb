# SPDX-License-Identifier: Apache-2.0
"""The loss op inside TFLM: losses, accumulation and the exact head, to the bit and against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import small_models
from engine import Engine, command
from hypothesis import given
from hypothesis import strategies as st

from tflm_zo import patch
from tflm_zo.tflm.interpreter import Interpreter

RATE = reference.LOSS | reference.HEAD


def head_of(engine: Engine) -> reference.Head:
    """The reference of a model that is one fully connected layer."""
    options = engine.model.loss
    tensors = {p.name: p.initial for p in engine.model.parameters}
    return reference.Head(
        weights=tensors["dense/weights"].reshape(options.outputs, options.features),
        bias=tensors.get("dense/bias"),
        zero_point=options.feature_zero_point,
        accumulator_scales=options.accumulator_scales,
        weight_factors=options.weight_factors,
    )


def samples(engine: Engine, count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (count, *engine.model.input_shape)).astype(np.int8)
    return x, rng.integers(0, classes, count)


def assert_head_equals(engine: Engine, head: reference.Head) -> None:
    names = [p.name for p in engine.model.parameters]
    got = dict(zip(names, engine.tensors(), strict=True))
    np.testing.assert_array_equal(got["dense/weights"].reshape(head.weights.shape), head.weights)
    np.testing.assert_array_equal(got["dense/residual"].reshape(head.weights.shape), head.residual)
    if head.bias is not None:
        np.testing.assert_array_equal(got["dense/bias"], head.bias)


@pytest.mark.parametrize("options", [{}, {"per_channel": False}, {"bias": False}, {"extreme": True}], ids=str)
@pytest.mark.parametrize(("end", "outputs"), [("softmax", 5), ("softmax", 2), ("logistic", 1)])
def test_cross_entropy_and_exact_head(end: str, outputs: int, options: dict[str, Any]) -> None:
    """Over many updates, from steps far below a code to steps of many: loss, weights, residual and bias."""
    zo = Engine(patch(small_models.dense_model(end, outputs=outputs, **options), "head"))
    head = head_of(zo)
    x, y = samples(zo, 60, max(outputs, 2))
    fractions = 0
    for i, rate in enumerate(np.repeat([1e-4, 1e-2, 1.0, 30.0], 15)):
        logits = head.logits(x[i].reshape(-1))
        loss = zo.loss(command(actions=RATE, head_rate=rate, head_seed=i), x[i], y[i])
        assert loss == reference.cross_entropy(logits, y[i])
        gradient = reference.cross_entropy_gradient(logits, y[i])
        head.update(x[i].reshape(-1), gradient, np.float32(rate), i)
        assert_head_equals(zo, head)
        fractions += np.count_nonzero(head.residual)
    assert np.abs(head.weights).max() == 127 and fractions > 500


@pytest.mark.parametrize("outputs", [1, 4])
def test_mean_squared_error_and_exact_head(outputs: int) -> None:
    zo = Engine(patch(small_models.dense_model("", outputs=outputs), loss="mse"))
    head = head_of(zo)
    scale, zero_point = zo.model.loss.scale, zo.model.loss.zero_point
    rng = np.random.default_rng(1)
    x, _ = samples(zo, 40, 1)
    for i in range(len(x)):
        target = rng.integers(-128, 128, outputs).astype(np.int8)
        zo.run(command(), x[i])
        y = reference.dequantize(zo.output().reshape(-1), scale, zero_point)
        t = reference.dequantize(target, scale, zero_point)
        loss = zo.loss(command(actions=RATE, head_rate=0.03, head_seed=i), x[i], target)
        assert loss == reference.mean_squared_error(y, t)
        np.testing.assert_allclose(loss, np.mean((y.astype(float) - t) ** 2), rtol=1e-5)
        gradient = reference.mean_squared_error_gradient(y, t)
        head.update(x[i].reshape(-1), gradient, np.float32(0.03), i)
        assert_head_equals(zo, head)


@pytest.mark.parametrize(("end", "outputs"), [("softmax", 5), ("logistic", 1)])
def test_entropy_and_exact_head(end: str, outputs: int) -> None:
    """No target is read; the mean prediction moves in passes that train, but not in the first of a pair."""
    zo = Engine(patch(small_models.dense_model(end, outputs=outputs), "head", "entropy"))
    head = head_of(zo)
    index = next(p.index for p in zo.model.parameters if p.name == "loss/mean_prediction")
    x, _ = samples(zo, 60, 1)
    mean = np.zeros(outputs, dtype=np.float32)
    count, update = reference.LOSS | reference.ACCUMULATE, RATE
    kinds = {
        "look": (reference.LOSS, 0),
        "plus": (count, 1),
        "minus": (count, -1),
        "base": (count, 0),
        "exact": (update, 0),
    }
    for i, name in enumerate(12 * list(kinds)):
        actions, sign = kinds[name]
        logits = head.logits(x[i].reshape(-1))
        fields = {"actions": actions, "sign": sign, "head_rate": 0.1, "head_seed": i}
        assert zo.loss(command(**fields), x[i], target=-1) == reference.entropy(logits, mean)
        if name in ("minus", "base", "exact"):
            mean = reference.mean_prediction(logits, mean)
        if name == "exact":
            head.update(x[i].reshape(-1), reference.entropy_gradient(logits, mean), np.float32(0.1), i)
        np.testing.assert_array_equal(zo.tensors()[index], mean, err_msg=name)
        assert_head_equals(zo, head)
    assert np.any(head.residual) and np.all(mean != 0)
    zo.run(command(actions=reference.INITIALISE))
    assert not np.any(zo.tensors()[index])


def test_losses_without_a_head_come_from_the_int8_logits() -> None:
    """A fused ReLU has no closed form here: the loss is taken of what the layer puts out."""
    zo = Engine(patch(small_models.dense_model("relu"), "all", "cross-entropy"))
    x, y = samples(zo, 30, 5)
    scale, zero_point = zo.model.loss.scale, zo.model.loss.zero_point
    for i in range(len(x)):
        loss = zo.loss(command(actions=reference.LOSS), x[i], y[i])
        logits = reference.dequantize(zo.output().reshape(-1), scale, zero_point)
        assert loss == reference.cross_entropy(logits, y[i])


@given(
    logits=st.lists(st.floats(-120, 120, width=32), min_size=1, max_size=12),
    data=st.data(),
)
def test_reference_is_close_to_float64(logits: list[float], data: st.DataObject) -> None:
    """The kernels' own exp and log, through the reference that they equal to the bit."""
    z = np.array(logits, dtype=np.float32)
    target = data.draw(st.integers(0, max(len(z), 2) - 1))
    exact = z.astype(np.float64) if len(z) > 1 else np.array([0.0, z[0]])
    p = np.exp(exact - exact.max())
    p /= p.sum()
    loss = np.log(np.sum(np.exp(exact - exact.max()))) + exact.max() - exact[target]
    np.testing.assert_allclose(reference.cross_entropy(z, target), loss, rtol=1e-6, atol=1e-6)
    gradient = p - np.eye(len(p))[target]
    got = reference.cross_entropy_gradient(z, target)
    np.testing.assert_allclose(got, gradient if len(z) > 1 else gradient[1:], atol=1e-6)


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=8),
    data=st.data(),
)
def test_entropy_is_its_definition_and_its_gradient_the_derivative(logits: list[float], data: st.DataObject) -> None:
    z = np.array(logits, dtype=np.float32)
    weights = np.array([data.draw(st.floats(0.01, 1)) for _ in range(max(len(z), 2))])
    m = weights / weights.sum()

    def loss(z: np.ndarray) -> float:
        pair = z if len(z) > 1 else np.array([0.0, z[0]])
        p = np.exp(pair - pair.max())
        p /= p.sum()
        return float(-np.sum(p * np.log(np.maximum(p, 1e-300) / m)))

    mean = (m - 1 / len(m)).astype(np.float32)[-len(z) :]
    exact = z.astype(np.float64)
    np.testing.assert_allclose(reference.entropy(z, mean), loss(exact), atol=2e-5)
    steps = 1e-5 * np.eye(len(z))
    slopes = [(loss(exact + h) - loss(exact - h)) / 2e-5 for h in steps]
    np.testing.assert_allclose(reference.entropy_gradient(z, mean), slopes, atol=2e-5)


def test_report_tells_prediction_and_feature_energy() -> None:
    zo = Engine(patch(small_models.dense_model()))
    x, _ = samples(zo, 10, 5)
    for sample in x:
        report = zo.run(command(actions=reference.LOSS), sample)
        assert report[2] == head_of(zo).logits(sample.reshape(-1)).argmax() == zo.output().argmax()
        real = (sample.astype(float) - zo.model.loss.feature_zero_point) * zo.model.loss.feature_scale
        np.testing.assert_allclose(report[3:4].view(np.float32)[0], np.sum(real**2), rtol=1e-5)


def test_high_resolution_loss_sees_what_int8_logits_hide() -> None:
    """A bias moved by a fraction of an output code changes the loss, not the output."""
    zo = Engine(patch(small_models.dense_model()))
    bias = next(p.index for p in zo.model.parameters if p.name == "dense/bias")
    measure = command(actions=reference.LOSS)
    before, codes = zo.loss(measure), zo.output()
    values = zo.tensors()[bias]
    values[0] += 1
    assert zo.state.write(bias, values)
    assert zo.loss(measure) != before
    np.testing.assert_array_equal(zo.output(), codes)


@pytest.mark.parametrize("antithetic", [True, False])
def test_losses_add_up_per_query_over_a_batch(antithetic: bool) -> None:
    """Three queries over four samples, then an update: the biases move as the summed losses say.

    Bias factors and rates are chosen so that the update's size shows the sum, not only its sign.
    """
    zo = Engine(patch(small_models.small_model("relu", seed=2), "spread", "cross-entropy"))
    op = zo.reference()
    for index, parameter in enumerate(op.parameters):
        parameter.sigma, parameter.rate = (100 if parameter.limit > 127 else 2), 0.1
        assert zo.state.configure(index, parameter.sigma, parameter.rate)
    x, y = samples(zo, 4, 3)
    table = np.zeros(3)
    base = 0.0
    schedule = reference.Schedule(seed=4, queries=3, antithetic=antithetic, head=False, head_rate=0.0, groups=[(0, 2)])
    for fields, i in schedule.step(0, len(x), 1.0):
        loss = float(zo.loss(command(**fields), x[i], y[i]))
        table[fields["query"]] += fields["sign"] * loss
        base += loss if fields["sign"] == 0 else 0.0
    last = schedule.flush()
    assert last is not None
    before = zo.tensors()
    zo.run(command(**last))
    slopes = (table - base) / 12 if not antithetic else table / 24
    assert np.abs(slopes).min() > 1e-4
    for index, (parameter, after) in enumerate(zip(op.parameters, zo.tensors(), strict=True)):
        u = np.stack([parameter.direction(last["update_seed"], q, index) for q in range(3)])
        channel = np.arange(after.size) // parameter.channel_stride % parameter.channels
        factors = np.broadcast_to(parameter.factors, parameter.channels)[channel]
        step = parameter.rate / parameter.sigma * factors * (slopes @ u)
        inner = parameter.moves & (np.abs(after) < parameter.limit - parameter.headroom)
        clean = parameter.values
        assert np.abs(clean - step - after)[inner].max() < 1 + 1e-3 * np.abs(step).max()
        assert np.abs(step).max() > 5 and not np.array_equal(before[index], after)


@pytest.mark.parametrize(("end", "outputs", "bad"), [("softmax", 5, (-1, 5, 2**31 - 1)), ("logistic", 1, (-1, 2))])
def test_class_out_of_range_is_an_error(end: str, outputs: int, bad: tuple[int, ...]) -> None:
    zo = Engine(patch(small_models.dense_model(end, outputs=outputs)))
    before = zo.tensors()
    for label in bad:
        with pytest.raises(RuntimeError):
            zo.run(command(actions=RATE, head_rate=1.0), target=label)
        zo.run(command(), target=label)  # plain inference does not look at the target
        for a, b in zip(before, zo.tensors(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_head_update_of_a_model_without_exact_head_is_an_error() -> None:
    for model, trainable in ((small_models.dense_model("relu"), "all"), (small_models.small_model(), "stem")):
        zo = Engine(patch(model, trainable))
        before = zo.tensors()
        with pytest.raises(RuntimeError):
            zo.run(command(actions=RATE, head_rate=1.0))
        np.testing.assert_array_equal(zo.tensors()[0], before[0])


def test_head_behind_trained_layers_learns_from_its_live_features() -> None:
    """In a deep model the head's loss and update come from the features of the same pass."""
    model = small_models.small_model()
    zo = Engine(patch(model, "all"))
    features = _truncated(model)
    options = zo.model.loss
    tensors = {p.name: p.initial for p in zo.model.parameters}
    head = reference.Head(
        weights=tensors["dense/weights"].reshape(options.outputs, options.features),
        bias=tensors["dense/bias"],
        zero_point=options.feature_zero_point,
        accumulator_scales=options.accumulator_scales,
        weight_factors=options.weight_factors,
    )
    x, y = samples(zo, 12, 3)
    for i in range(len(x)):
        codes = features.run(x[i]).reshape(-1)
        logits = head.logits(codes)
        loss = zo.loss(command(actions=RATE, head_rate=0.3, head_seed=i), x[i], y[i])
        assert loss == reference.cross_entropy(logits, y[i])
        head.update(codes, reference.cross_entropy_gradient(logits, y[i]), np.float32(0.3), i)
        assert_head_equals(zo, head)


def _truncated(model: bytes) -> Interpreter:
    """The model up to the input of its fully connected layer."""
    from tflm_zo.model.file import load_model, save_model

    tree = load_model(model)
    graph = tree.subgraphs[0]
    graph.outputs = graph.operators[-2].inputs[:1]
    graph.operators = graph.operators[:-2]
    return Interpreter(save_model(tree))
