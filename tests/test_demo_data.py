# SPDX-License-Identifier: Apache-2.0
"""The digits demo's data, drift and network, and the back-propagation it is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tflm_zo.conversion.accuracy import accuracy_report
from tflm_zo.conversion.convert import convert
from tflm_zo.conversion.keras_support import predict_float
from tflm_zo.demo import backprop as backprop_module
from tflm_zo.demo.backprop import backprop
from tflm_zo.demo.digits import Digits, drift, load_digits, train_model
from tflm_zo.errors import ZoError

pytest.importorskip("sklearn", reason="the demo needs scikit-learn (extra: demo)")

pytestmark = pytest.mark.slow  # trains networks in TensorFlow

# Largest model that leaves a 256 KB microcontroller room for its program, in bytes of weights.
MAX_MODEL_BYTES = 16 * 1024


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="module")
def model(digits: Digits) -> Any:
    pytest.importorskip("tensorflow", reason="the demo needs TensorFlow (extra: demo)")
    return train_model(digits)


def test_split_is_disjoint_complete_and_repeatable(digits: Digits) -> None:
    sets = [digits.x_pretrain, digits.x_adapt, digits.x_test]
    assert [x.shape for x in sets] == [(800, 8, 8, 1), (500, 8, 8, 1), (497, 8, 8, 1)]
    assert all(x.dtype == np.float32 and x.min() == 0 and x.max() == 1 for x in sets)
    rows = np.concatenate(sets).reshape(1797, 64)
    # The source has 1797 different images, so a repeated one would be in two sets.
    assert len(np.unique(rows, axis=0)) == 1797
    for y in (digits.y_pretrain, digits.y_adapt, digits.y_test):
        assert np.bincount(y, minlength=10).min() >= 0.07 * len(y)
    again, other = load_digits(), load_digits(seed=1)
    np.testing.assert_array_equal(again.x_adapt, digits.x_adapt)
    np.testing.assert_array_equal(again.y_test, digits.y_test)
    assert not np.array_equal(other.y_adapt, digits.y_adapt)


def test_drift_is_contrast_shift_and_noise(digits: Digits) -> None:
    x = digits.x_adapt
    before = x.copy()
    seen = drift(x, 1)
    np.testing.assert_array_equal(x, before)
    assert seen.shape == x.shape and seen.dtype == np.float32
    assert seen.min() >= 0 and seen.max() <= 1
    np.testing.assert_array_equal(seen, drift(x, 1))
    assert not np.array_equal(seen, drift(x, 2))
    # Shifted by one column, the drifted image is a linear function of the original plus noise.
    slope, offset = np.polyfit(x[:, :, :-1].ravel(), seen[:, :, 1:].ravel(), 1)
    assert slope == pytest.approx(0.5, abs=0.02) and offset == pytest.approx(0.25, abs=0.02)
    residual = seen[:, :, 1:] - (slope * x[:, :, :-1] + offset)
    assert residual.std() == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ZoError, match="images"):
        drift(x[0], 1)


def test_int8_network_works_and_the_drift_breaks_it(digits: Digits, model: Any) -> None:
    content = convert(model, digits.x_pretrain[:200])
    assert len(content) < MAX_MODEL_BYTES
    clean = accuracy_report(model, content, digits.x_test, digits.y_test)
    assert clean.float_value > 0.96
    assert abs(clean.int8_value - clean.float_value) < 0.01
    drifted = accuracy_report(model, content, drift(digits.x_test, 2), digits.y_test)
    assert 0.3 < drifted.int8_value < 0.55


def test_training_is_repeatable(digits: Digits, model: Any) -> None:
    again = train_model(digits)
    for first, second in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4)


def test_backprop_recovers_most_and_leaves_the_model_alone(
    digits: Digits, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The whole search takes longer than a test should; what it does is the same with less of it.
    candidates = {"adam": (1e-6, 1e-3)}
    monkeypatch.setattr(backprop_module, "_CANDIDATES", candidates)
    monkeypatch.setattr(backprop_module, "_MAX_EPOCHS", 15)
    x, x_test = drift(digits.x_adapt, 1), drift(digits.x_test, 2)
    weights = [value.copy() for value in model.get_weights()]
    start = np.mean(predict_float(model, x_test).argmax(axis=1) == digits.y_test)
    result = backprop(model, x, digits.y_adapt, x_test, digits.y_test)
    assert result.accuracy > start + 0.35
    assert result.accuracy == pytest.approx(np.mean(result.run_accuracies))
    # The step size that cannot learn was on offer and has to lose.
    assert result.learning_rate == 1e-3 and 1 <= result.epochs <= 15
    assert abs(result.validation_accuracy - result.accuracy) < 0.08
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    # Wrong labels on the test set change the measurement, never the choice.
    wrong = backprop(model, x, digits.y_adapt, x_test, (digits.y_test + 1) % 10)
    assert wrong.accuracy < 0.2
    assert (wrong.optimizer, wrong.learning_rate, wrong.epochs) == (
        result.optimizer,
        result.learning_rate,
        result.epochs,
    )
    with pytest.raises(ZoError, match="at least 3"):
        backprop(model, x[:2], digits.y_adapt[:2], x_test, digits.y_test)
