# SPDX-License-Identifier: Apache-2.0
"""The parameter op inside TFLM: exact restore, perturbation and update to the bit, robust commands."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import reference
import small_models
from engine import Engine, command
from hypothesis import given, settings
from hypothesis import strategies as st

from tflm_zo import ZoError, patch
from tflm_zo.ops.counter_random import Stream, random_words, signs, stream_key
from tflm_zo.tflm.interpreter import Interpreter
from tflm_zo.training.masks import Mask, channel_mask

# "*" leaves no exact head: the fully connected layer is perturbed like any other.
MODELS = {
    "extreme": lambda: patch(small_models.small_model("relu", extreme=True), "all"),
    "per-tensor": lambda: patch(small_models.small_model("relu", per_channel=False), "all"),
    "no bias": lambda: patch(small_models.small_model("relu", bias=False), "all"),
    "exact head": lambda: patch(small_models.small_model(extreme=True), "all"),
    "shared": lambda: patch(small_models.small_model("relu", shared="tensor"), "all"),
    "shared buffer": lambda: patch(small_models.small_model("relu", shared="buffer"), "all"),
}


@cache
def engine(name: str) -> Engine:
    return Engine(MODELS[name]())


def fresh(name: str) -> tuple[Engine, reference.ParameterOp]:
    """A model at its initial weights, nothing configured, and its reference."""
    engine(name).interpreter.reset()
    engine(name).run()
    for node in engine(name).model.nodes:
        assert engine(name).state.configure_node(node.number, 5, 1, 0.1)
    return engine(name), engine(name).reference()


def configure(
    engine: Engine, op: reference.ParameterOp, index: int, sigma: int, rate: float, keep: float = 1.0
) -> None:
    parameter = op.parameters[index]
    setting = channel_mask(keep, "") if engine.model.parameters[index].in_model else Mask()
    if engine.state.configure(index, sigma, rate, setting):
        level = np.uint32(setting.level << 16).view(np.float32)
        parameter.sigma, parameter.rate, parameter.keep = sigma, rate, float(level) if setting.kind else 1.0


def assert_same(engine: Engine, wanted: list[np.ndarray]) -> None:
    for parameter, got, want in zip(engine.model.parameters, engine.tensors(), wanted, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=parameter.name)


def run_both(engine: Engine, op: reference.ParameterOp, fields: dict[str, Any]) -> None:
    """One pass on both sides; the reference's losses are those that TFLM reports."""
    record = {"sign": 0, "seed": 0, "query": 0, "first": 0, "last": 0, "update_queries": 0} | fields
    op.invoke(record)
    loss = engine.loss(command(**fields), x=engine.x, target=engine.target)
    if fields["actions"] & reference.ACCUMULATE:
        op.accumulate(record, loss)
    assert_same(engine, op.tensors())


seeds = st.integers(0, 2**32 - 1)
queries = st.integers(0, 3)


@st.composite
def passes(draw: st.DrawFn, parameters: int, nodes: int) -> dict[str, Any]:
    """Any valid pass, as a training might send it or not."""
    first, last = sorted([draw(st.integers(0, parameters)), draw(st.integers(0, parameters))])
    fields = {
        "actions": reference.LOSS
        | draw(st.sampled_from([0, reference.ACCUMULATE, reference.ACCUMULATE | reference.CLEAR])),
        "sign": draw(st.sampled_from([-1, 0, 1])),
        "seed": draw(st.sampled_from([7, 8]) | seeds),
        "query": draw(queries | st.just(reference.MAX_QUERIES - 1)),
        "first": first,
        "last": last,
        "node_last": draw(st.integers(0, nodes)),
    }
    kind = draw(st.sampled_from(["", "", "", "initialise", "update", "forward"]))
    if kind == "initialise":
        fields["actions"] |= reference.INITIALISE
    elif kind:
        fields["actions"] |= reference.UPDATE | (reference.FORWARD if kind == "forward" else 0)
        fields |= {
            "update_seed": draw(st.sampled_from([7, 8]) | seeds),
            "update_queries": draw(st.integers(0, 4) | st.just(reference.MAX_QUERIES)),
            "update_first": draw(st.integers(0, first)),
            "update_last": draw(st.integers(last, parameters)),
            "update_rate": draw(st.sampled_from([np.float32(1), np.float32(0.3)])),
            "update_scale": draw(st.sampled_from([np.float32(0.1), np.float32(1), np.float32(1 / 96)])),
        }
    return fields


@settings(max_examples=150)
@given(data=st.data(), name=st.sampled_from(sorted(MODELS)))
def test_any_passes_then_clean(data: st.DataObject, name: str) -> None:
    """After each pass the weights are what the reference says; however the sequence ends, clean is exact.

    Sigmas up to the headroom, weights at the ends of the range, updates in between, settings changed in the
    middle of a perturbation, layers' outputs perturbed as well.
    """
    zo, op = fresh(name)
    settings_ = st.tuples(
        st.integers(0, len(op.parameters) - 1),
        st.sampled_from([0, 1, 2, 4, 5, 100, 1 << 20]),
        st.sampled_from([0.0, 1e-6, 1e-4, 1e-2, 10.0]),
    )
    keeps = st.sampled_from([0.01, 0.3, 0.9, 1.0])
    for index in range(len(op.parameters)):
        sigma, rate = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1e-4, 1e-2, 1.0]))
        configure(zo, op, index, sigma, rate, data.draw(keeps))
    for _ in range(data.draw(st.integers(1, 8))):
        if data.draw(st.integers(0, 4)) == 0:
            configure(zo, op, *data.draw(settings_), data.draw(keeps))
            op.perturbation = op.perturbation and None  # a change of settings starts from clean weights
        run_both(zo, op, data.draw(passes(len(op.parameters), len(zo.model.nodes))))
    ends = {
        "clean command": lambda: zo.run(command()),
        "no command": zo.run,
        "restore": zo.state.restore_clean,
    }
    ends[data.draw(st.sampled_from(sorted(ends)))]()
    assert_same(zo, [p.values for p in op.parameters])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("antithetic", [True, False])
def test_training_steps_equal_the_reference(name: str, antithetic: bool) -> None:
    """Whole steps, layer by layer: conv, depthwise and dense channel order, weights and biases."""
    zo, op = fresh(name)
    for index, parameter in enumerate(op.parameters):
        bias = parameter.limit > 127
        configure(zo, op, index, 100 if bias else 1 + index % 4, 3e-3)
    before = zo.tensors()
    rng = np.random.default_rng(3)
    inputs = rng.integers(-128, 128, (3, *zo.model.input_shape)).astype(np.int8)
    schedule = reference.Schedule(
        seed=11,
        queries=5,
        antithetic=antithetic,
        head=False,
        head_rate=0.0,
        groups=[(0, 2), (2, len(op.parameters))],
    )
    classes = zo.model.loss.kind == 0
    for step in range(2):
        for fields, sample in schedule.step(step, len(inputs), 0.7):
            zo.x = inputs[sample]
            zo.target = np.full_like(zo.target, sample % 3 if classes else 20 * sample)
            run_both(zo, op, fields)
    last = schedule.flush()
    assert last is not None
    run_both(zo, op, last)
    moved = [np.any(a != b) for a, b in zip(before, zo.tensors(), strict=True)]
    perturbed = [p.sigma > 0 for p in op.parameters]
    assert moved == perturbed and any(perturbed)


@pytest.mark.parametrize("name", ["extreme", "per-tensor"])
@pytest.mark.parametrize("keep", [0.03, 0.25, 0.6])
def test_masks_keep_what_they_say(keep: float, name: str) -> None:
    """The chosen channels alone are perturbed and updated, in weights and bias alike; others for every seed."""
    zo, op = fresh(name)
    last = len(op.parameters)
    for index, p in enumerate(zo.model.parameters):
        configure(zo, op, index, 2 if p.entry.headroom < 100 else 100, 1.0, keep)
    before = zo.tensors()
    for seed in (3, 4):
        zo.run(command(sign=1, seed=seed, last=last))
        for index, (p, got, was) in enumerate(zip(zo.model.parameters, zo.tensors(), before, strict=True)):
            np.testing.assert_array_equal(got != was, op.parameters[index].part(seed), err_msg=p.name)
    for parameter in op.parameters:
        if parameter.keep < 1:
            shares = [np.mean(parameter.part(seed)[parameter.moves]) for seed in range(200)]
            assert abs(np.mean(shares) - keep) < 0.2
    fields = {"update_seed": 4, "update_queries": 1, "update_last": last, "update_scale": 1.0, "update_rate": 1.0}
    zo.run(command(actions=reference.LOSS | reference.ACCUMULATE | reference.CLEAR, sign=1, seed=4, last=last))
    zo.run(command(actions=reference.UPDATE, **fields))
    for index, (got, was) in enumerate(zip(zo.tensors(), before, strict=True)):
        assert not np.any((got != was) & ~op.parameters[index].part(4))


def test_stale_or_absent_command_is_plain_inference(small: bytes) -> None:
    plain = Interpreter(small)
    zo = Engine(patch(small, "all"))  # its first pass comes with no command at all
    np.testing.assert_array_equal(zo.output(), plain.run(zo.x))
    for index in range(len(zo.model.parameters)):
        zo.state.configure(index, 4, 1.0)
    perturb = command(sign=1, seed=3, last=len(zo.model.parameters))
    zo.run(perturb)
    perturbed = zo.output()
    assert not np.array_equal(perturbed, plain.run(zo.x))
    zo.run()  # the command tensor still holds the perturbation, but it was carried out
    np.testing.assert_array_equal(zo.output(), plain.run(zo.x))
    zo.run(perturb)
    for noise in (np.full(20, -1, np.int32), np.arange(20, dtype=np.int32)):
        zo.run(noise)
        np.testing.assert_array_equal(zo.output(), plain.run(zo.x))


@pytest.mark.parametrize(
    "fields",
    [
        {"sign": 2},
        {"sign": -2},
        {"sign": 1, "query": -1},
        {"sign": 1, "query": reference.MAX_QUERIES},
        {"sign": 1, "first": -1},
        {"sign": 1, "first": 2, "last": 1},
        {"sign": 1, "last": 99},
        {"actions": reference.UPDATE, "update_queries": -1},
        {"actions": reference.UPDATE, "update_queries": reference.MAX_QUERIES + 1},
        {"actions": reference.UPDATE, "update_queries": 1, "update_first": -1, "update_last": 1},
        {"actions": reference.UPDATE, "update_queries": 1, "update_last": 99},
        {"sign": 1, "node_first": -1},
        {"sign": 1, "node_last": 99},
        {"actions": reference.UPDATE | reference.NODE_UPDATE, "update_queries": 1, "update_last": 1},
        {"actions": reference.LOSS | reference.NODE_UPDATE, "sign": 1, "update_queries": 1, "update_last": 1},
        {"actions": reference.LOSS | reference.HEAD, "sign": 1, "last": 4, "head_rate": 0.1},
        {"actions": reference.LOSS | reference.HEAD, "sign": 1, "node_last": 1, "head_rate": 0.1},
    ],
    ids=str,
)
def test_malformed_command_is_an_error_and_changes_nothing(fields: dict[str, Any]) -> None:
    zo = engine("exact head")
    zo.run(command(actions=reference.INITIALISE))
    zo.state.configure(0, 2, 1.0)
    zo.state.configure(2, 2, 1.0)  # has a closed form: is not to be perturbed while it is updated by it
    loss = reference.LOSS | reference.ACCUMULATE | reference.CLEAR
    zo.loss(command(actions=loss, sign=1, seed=5, last=2))
    before = zo.tensors()
    with pytest.raises(RuntimeError):
        zo.run(command(**({"actions": 0, "last": 2, "seed": 6} | fields)))
    assert_same(zo, before)
    zo.run()
    assert_same(zo, [np.resize(p.initial if p.count == p.initial.size else 0, p.count) for p in zo.model.parameters])


def test_reset_brings_back_the_initial_weights_and_clears_the_settings() -> None:
    zo = Engine(patch(small_models.small_model(), "all"))
    first = zo.tensors()
    for index in range(len(zo.model.parameters)):
        zo.state.configure(index, 1, 1.0)
        if not zo.model.parameters[index].name.startswith("dense"):
            assert zo.state.write(index, zo.state.view(index) // 2)
    zo.run(command(sign=1, seed=1, last=4))
    assert not np.array_equal(zo.tensors()[0], first[0])
    zo.interpreter.reset()
    zo.run()
    assert_same(zo, first)
    zo.run(command(sign=1, seed=1, last=4))
    assert_same(zo, first)


def test_settings_out_of_range_are_refused() -> None:
    zo = engine("exact head")
    headroom = zo.model.parameters[0].entry.headroom
    assert zo.state.configure(0, headroom, 0.1)
    for sigma, rate in ((headroom + 1, 0.1), (-1, 0.1), (1, -0.1), (1, np.nan), (1, np.inf)):
        assert not zo.state.configure(0, sigma, rate)
    for mask in ((1, 0), (3, 0), (4, 0), (5, 0), (2, 0x8000), (2, 0x7F80), (2, 0x7FC0)):
        assert not zo.state.configure(0, 1, 0.1, mask) and not zo.state.configure_node(0, 1, 1, 0.1, mask)
    residual = len(zo.model.parameters) - 1
    assert not zo.state.configure(residual, 1, 0.1)
    assert not zo.state.configure(residual + 1, 1, 0.1)


def test_weights_that_could_not_be_restored_are_refused() -> None:
    zo = Engine(patch(small_models.small_model("relu"), "all"))
    initial, headroom = zo.model.parameters[0].initial, zo.model.parameters[0].entry.headroom
    inner = int(np.argmin(np.abs(initial)))
    for value, accepted in ((127 - headroom, True), (127 - headroom + 1, False), (-128, False)):
        values = initial.copy()
        values[inner] = value
        before = zo.tensors()
        assert zo.state.write(0, values) is accepted
        assert_same(zo, [values, *before[1:]] if accepted else before)
    outer = int(np.argmax(np.abs(initial)))  # starts without headroom, hence is never perturbed
    values = initial.copy()
    values[outer] = -128
    assert zo.state.write(0, values)


def test_random_numbers_agree_in_python_and_reference() -> None:
    counters = np.array([0, 1, 31, 1000, 2**32 - 1], dtype=np.uint64).astype(np.uint32)
    for seed, a, b in ((0, 0, 0), (2**32 - 1, 5, 2**31), (12345, 2**32 - 1, 7)):
        key = stream_key(seed, Stream.WEIGHT_DIRECTION, a, b)
        assert int(key) == reference.stream_key(seed, 2, a, b)
        words = [reference.random_word(int(key), int(c)) for c in counters]
        assert random_words(key, counters).tolist() == words
        assert signs(key, 77).tolist() == reference.signs(int(key), 77).tolist()


def test_directions_are_balanced_and_independent() -> None:
    """Means and correlations of 64 directions of 4096 signs within five standard deviations of chance."""
    count = 4096
    u = np.stack([reference.signs(reference.stream_key(9, reference.DIRECTION, q, 3), count) for q in range(64)])
    gram = u @ u.T / count
    assert np.abs(u.mean(axis=1)).max() < 5 / np.sqrt(count)
    assert np.abs(gram - np.eye(64)).max() < 5 / np.sqrt(count)
    assert abs(np.mean(u[:, 1:] * u[:, :-1])) < 5 / np.sqrt(64 * count)


def test_error_of_a_pass_is_one_of_the_package() -> None:
    interpreter = Interpreter(patch(small_models.small_model(), "all"))
    interpreter.set_input(np.zeros((1, 8, 8, 1), np.int8), 0)
    interpreter.set_input(command(sign=5), 1)
    with pytest.raises(ZoError):
        interpreter.invoke()
