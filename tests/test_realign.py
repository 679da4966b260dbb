# SPDX-License-Identifier: Apache-2.0
"""Realignment: statistics come back, int8 weights stay, TFLM agrees, accuracy returns without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from trainers import TflmTrainer

from tflm_zo import ZoError, patch, realign
from tflm_zo.conversion.evaluate import evaluate_plain
from tflm_zo.model.file import constant, load_model
from tflm_zo.model.layers import trainable_layers
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm.evaluate import predict_plain

CODES = np.random.default_rng(5).integers(-128, 128, (60, *small_models.INPUT_SHAPE)).astype(np.int8)
# Half the contrast, and an offset.
DRIFTED = np.clip(np.rint(CODES * 0.5 + 30), -128, 127).astype(np.int8)
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "no bias": {"bias": False}, "per tensor": {"per_channel": False}}


def statistics(model: bytes, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and standard deviation of each convolution's channels, from the accumulators."""
    sim = SimModel(model)
    found = []
    for layer in sim.layers:
        if layer.op not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            continue
        values = sim.run_layers(0, layer.index + 1, {sim.inputs[0]: x}, accumulators=layer.index).accumulators
        assert values is not None and layer.weight_scales is not None
        real = values.reshape(-1, values.shape[-1]) * (sim.tensors[layer.inputs[0]].scale * layer.weight_scales)
        found.append((real.mean(axis=0), real.std(axis=0)))
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_statistics_come_back(variant: str) -> None:
    model = small_models.small_model(**VARIANTS[variant])
    aligned = realign(model, CODES, DRIFTED)
    wanted, drifted, found = statistics(model, CODES), statistics(model, DRIFTED), statistics(aligned, DRIFTED)
    for (mean, spread), (drifted_mean, drifted_spread), (new_mean, new_spread) in zip(
        wanted, drifted, found, strict=True
    ):
        np.testing.assert_allclose(new_spread, spread, rtol=1e-3)
        np.testing.assert_allclose(new_mean, mean, atol=0.01 * spread.max())
        assert np.abs(drifted_mean - mean).max() + np.abs(drifted_spread - spread).max() > 0.1 * spread.max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_int8_weights_stay_and_tflm_agrees(variant: str) -> None:
    model = small_models.small_model(**VARIANTS[variant])
    aligned = realign(model, CODES, DRIFTED)
    before, after = load_model(model), load_model(aligned)
    for old, new in zip(trainable_layers(before), trainable_layers(after), strict=True):
        weights = [constant(t, t.subgraphs[0].tensors[la.weights], np.int8) for t, la in ((before, old), (after, new))]
        assert weights[0] is not None and weights[1] is not None
        np.testing.assert_array_equal(weights[0], weights[1])
    outputs = predict_plain(aligned, DRIFTED).reshape(len(DRIFTED), -1)
    np.testing.assert_array_equal(outputs, SimModel(aligned).run(DRIFTED).reshape(len(DRIFTED), -1))
    # It trains as any model does.
    trainer = TflmTrainer(patch(aligned, "exact"))
    trainer.fit(DRIFTED, np.arange(len(DRIFTED)) % 3, epochs=1, verbose=False)
    np.testing.assert_array_equal(predict_plain(trainer.bake(), DRIFTED), trainer.predict_codes(DRIFTED))


@pytest.mark.parametrize("kind", ["gated", "mean", "sequence"])
def test_models_of_other_operators(kind: str) -> None:
    """Means, gates, paddings, and shapes that the model computes, which are no layers of the simulator."""
    model = getattr(small_models, f"{kind}_model")()
    rng = np.random.default_rng(6)
    shape = tuple(load_model(model).subgraphs[0].tensors[0].shape[1:])
    before = rng.integers(-128, 128, (60, *shape)).astype(np.int8)
    after = np.clip(np.rint(before * 0.5 + 30), -128, 127).astype(np.int8)
    aligned = realign(model, before, after)
    for (mean, spread), (new_mean, new_spread) in zip(
        statistics(model, before), statistics(aligned, after), strict=True
    ):
        np.testing.assert_allclose(new_spread, spread, rtol=0.02)
        np.testing.assert_allclose(new_mean, mean, atol=0.02 * spread.max())
    outputs = predict_plain(aligned, after).reshape(len(after), -1)
    np.testing.assert_array_equal(outputs, SimModel(aligned).run(after).reshape(len(after), -1))


def test_a_model_of_float_input() -> None:
    """The same layers change, by the same samples, as without the QUANTIZE in front of them."""
    x = small_models.separable_samples(60, seed=1)[0]
    drifted = (x * 0.5 + 0.2).astype(np.float32)
    found = [realign(small_models.small_model(float_ends=ends), x, drifted) for ends in (False, True)]
    plain, floating = ([layer.weight_scales for layer in trainable_layers(load_model(model))] for model in found)
    for one, other in zip(plain, floating, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert found[1] != small_models.small_model(float_ends=True)
    sim = SimModel(found[1])
    np.testing.assert_array_equal(sim.reals(sim.run(sim.codes(drifted))), TflmTrainer(patch(found[1])).predict(drifted))


def test_nothing_changes_without_a_drift(small: bytes) -> None:
    np.testing.assert_array_equal(predict_plain(realign(small, CODES, CODES), CODES), predict_plain(small, CODES))


def test_what_cannot_be_realigned_is_refused(small: bytes) -> None:
    with pytest.raises(ZoError, match="no convolution"):
        realign(small_models.dense_model(), CODES[:, 0, :, 0], CODES[:, 0, :, 0])
    with pytest.raises(ZoError, match="patched already"):
        realign(patch(small), CODES, CODES)
    with pytest.raises(ZoError, match=r"does not run LOG_SOFTMAX \(operator"):
        realign(small_models.small_model("log-softmax"), CODES, CODES)
    with pytest.raises(ZoError, match="samples of shape"):
        realign(small, CODES[:, :4], CODES)


def test_keyword_spotting_recovers_without_labels(shared_data: Path) -> None:
    """Half the contrast costs 34 points, unlabelled samples bring most of them back."""
    model = (shared_data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    data = np.load(shared_data / "kws01_dev.npz")
    x, y = data["x"], data["y"]
    mean = x.mean(axis=(1, 2), keepdims=True)
    drifted = np.rint(mean + (x - mean) / 2).astype(np.int8)
    before = evaluate_plain(model, drifted[400:], y[400:])["accuracy"]
    after = evaluate_plain(realign(model, x[:400], drifted[:400]), drifted[400:], y[400:])["accuracy"]
    assert before < 0.6 and after > before + 0.1
