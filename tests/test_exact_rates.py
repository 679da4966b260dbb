# SPDX-License-Identifier: Apache-2.0
"""Rates of the exact layers that are measured on the sample that is learned next, as a board without a host does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import reference
import small_models
from engine import Engine, command
from hypothesis import given
from hypothesis import strategies as st

from tflm_zo import patch
from tflm_zo.ops import compiled
from tflm_zo.ops.command import REPORT_DTYPE
from tflm_zo.training.rates import head_limit

energies = st.floats(0.0, 1e9)


@given(limit=st.floats(0.01, 100.0), features=energies, layer=energies)
def test_the_formula(limit: float, features: float, layer: float) -> None:
    """The compiled formula is the one that tflm_zo.training.rates describes, in double precision to the bit."""
    head = limit / (1.0 + features)
    before = head if layer == 0.0 else min(head, 1.0 / 3.0 * limit / layer)
    assert compiled.exact_rates(limit, features, layer) == (head, before)
    assert compiled.limit_before_head(limit) == 1.0 / 3.0 * limit


def report(zo: Engine, words: np.ndarray, x: np.ndarray, y: int) -> np.void:
    return np.ascontiguousarray(zo.run(words, x, y)).view(REPORT_DTYPE)[0]


def learn(model: bytes, measured: bool, epochs: int) -> tuple[float, float]:
    """Learn samples one by one; returns accuracy before and after. Not ``measured``: all layers at the head's rate."""
    zo = Engine(patch(model, "exact"))
    nodes = zo.model.closed_nodes
    values, labels = small_models.separable_samples(60, seed=1)
    codes = np.clip(np.rint(127 * values), -128, 127).astype(np.int8).reshape(-1, *zo.model.input_shape)

    def accuracy() -> float:
        loss = command(actions=reference.LOSS)
        return float(np.mean([report(zo, loss, x, y)["prediction"] == y for x, y in zip(codes, labels, strict=True)]))

    before = accuracy()
    measure = command(actions=reference.LOSS | reference.MEASURE, node_first=nodes.start, node_last=nodes.stop)
    for step in range(epochs * len(codes)):
        x, y = codes[step % len(codes)], labels[step % len(codes)]
        found = report(zo, measure, x, y)
        head, closed = compiled.exact_rates(
            head_limit(zo.model), float(found["feature_energy"]), float(found["layer_energy"])
        )
        for node in nodes:
            assert zo.state.configure_node(node, 0, 1, closed if measured else head)
        actions = reference.LOSS | reference.HEAD
        zo.run(command(actions=actions, head_rate=head, head_seed=step, node_rate=1), x, y)
    return before, accuracy()


@pytest.mark.parametrize("model", [small_models.small_model, small_models.closed_sum_model, small_models.mean_model])
def test_every_network_learns_at_the_rates_of_its_samples(model: Callable[[], bytes]) -> None:
    before, after = learn(model(), measured=True, epochs=3)
    assert before < 0.5
    assert after > 0.9


def test_the_heads_rate_ruins_a_network_that_averages_its_features() -> None:
    """Its head is small, so the head's rate is large: the layer before it dies, and nothing is learned any more."""
    _, after = learn(small_models.mean_model(), measured=False, epochs=3)
    assert after < 0.5
