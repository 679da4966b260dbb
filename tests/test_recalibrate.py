# SPDX-License-Identifier: Apache-2.0
"""Recalibration of the input adapter: a plain NumPy reference to the bit, what it undoes, what it refuses.

tests/cpp/test_recalibrate.cc has the same arithmetic on a Cortex-M4F, test_monitor.py over a serial line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from trainers import SimTrainer, TflmTrainer

from tflm_zo.cli.main import main
from tflm_zo.conversion.evaluate import evaluate_plain
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model
from tflm_zo.model.quantization import Quantization
from tflm_zo.ops.channel_statistics import channel_axis, channel_statistics
from tflm_zo.ops.options import ParameterOptions, Reference, pack_parameters, unpack_parameters
from tflm_zo.patching.adapter import NAME, UNIT, add_adapter
from tflm_zo.patching.front_layer import insert_front_layer
from tflm_zo.patching.patch import patch
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.training.trainer import Trainer

F = np.float32
CHANNELS = 8  # of the small model's input, 8 x 8 x 1


def recalibrated(codes: np.ndarray, reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset codes for samples ``codes`` (int8 (n, 1, 8, 8, 1)), in single precision, one operation after the
    other."""
    gains, offsets = [], []
    for channel, values in enumerate(codes.reshape(-1, CHANNELS).T.astype(int).tolist()):
        count, total = len(values), sum(values)
        center = (2 * total + count) // (2 * count)
        shift = F(total - center * count) / F(count)
        variance = F(sum((v - center) ** 2 for v in values)) / F(count) - shift * shift
        mean, spread = F(center) + shift, np.sqrt(variance)
        before = F(reference.spread[channel])
        gain = F(UNIT) * before / spread if before > 0 and spread > 0 else F(UNIT)
        gains.append(int(np.floor(np.clip(gain, F(1), F(123)) + F(0.5))))
        zero = F(reference.zero_point)
        offset = F(UNIT) * (F(reference.mean[channel]) - zero) - F(gains[-1]) * (mean - zero)
        offsets.append(int(np.floor(offset + F(0.5))))
    return np.array(gains, np.int8), np.array(offsets, np.int32)


def samples(seed: int, count: int, low: int = -60, high: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 1)).astype(np.int8)


def adapter_of(trainer: Trainer) -> tuple[np.ndarray, np.ndarray]:
    weights = trainer.weights
    return weights[f"{NAME}/weights"].reshape(-1), weights[f"{NAME}/bias"]


def input_quantization(model: PatchedModel) -> Quantization:
    assert model.input_quantization is not None
    return model.input_quantization


def adapted(codes: np.ndarray, trainer: Trainer) -> np.ndarray:
    """What the adapter makes of codes, before they are limited to int8."""
    gains, offsets = adapter_of(trainer)
    zero = input_quantization(trainer.model).zero_point
    return (gains * (codes.reshape(-1, CHANNELS).astype(np.float64) - zero) + offsets) / UNIT + zero


@pytest.fixture(scope="module")
def model(small: bytes) -> bytes:
    return patch(small, "exact", adapter=True, reference=samples(1, 50))


@pytest.fixture(scope="module")
def trainer(model: bytes) -> Trainer:
    return TflmTrainer(model)


# -- statistics --------------------------------------------------------------------------------------------


def test_channels_are_those_of_the_adapter() -> None:
    assert [channel_axis(s) for s in [(1, 49, 10, 1), (1, 32, 32, 3), (1, 640), (1, 1, 1), (7, 1)]] == [2, 3, 1, 2, 0]


@given(st.integers(0, 1000), st.integers(1, 6), st.sampled_from([(1, 7, 3, 1), (1, 4, 4, 2), (1, 9), (1, 1)]))
def test_statistics_are_those_of_numpy(seed: int, count: int, shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(seed).integers(-128, 128, (count, *shape)).astype(np.int8)
    found = channel_statistics(codes)
    axis = 1 + channel_axis(shape)
    others = tuple(a for a in range(codes.ndim) if a != axis)
    assert found.count == count
    np.testing.assert_allclose(found.mean, codes.mean(axis=others), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.spread, codes.astype(float).std(axis=others), rtol=1e-12, atol=1e-12)


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    codes = np.full((100000, 1, 1), 127, np.int8)
    codes[0] = 126
    found = channel_statistics(codes)
    assert found.mean[0] == pytest.approx(127 - 1e-5, rel=1e-12)
    assert found.spread[0] == pytest.approx(np.sqrt(1e-5 * (1 - 1e-5)), rel=1e-12)
    assert channel_statistics(codes[1:]).spread[0] == 0


# -- the model ---------------------------------------------------------------------------------------------


def test_options_keep_the_reference() -> None:
    reference = Reference(np.array([1.5, -2], F), np.array([0.25, 3], F), -128, 4, 5)
    found = unpack_parameters(pack_parameters(ParameterOptions((), 3, np.array([7], F), reference))).reference
    assert found is not None
    assert (found.zero_point, found.gain_parameter, found.offset_parameter) == (-128, 4, 5)
    np.testing.assert_array_equal(found.mean, reference.mean)
    np.testing.assert_array_equal(found.spread, reference.spread)
    assert unpack_parameters(pack_parameters(ParameterOptions((), 3, np.array([7], F)))).reference is None


def test_the_reference_is_in_the_model(small: bytes, model: bytes) -> None:
    before = channel_statistics(samples(1, 50)[:, None])
    reference = read_patched(model).reference
    assert reference is not None
    np.testing.assert_array_equal(reference.mean, before.mean.astype(F))
    np.testing.assert_array_equal(reference.spread, before.spread.astype(F))
    # In the model's float units it is the same.
    quantization = input_quantization(read_patched(model))
    values = (samples(1, 50).astype(F) - quantization.zero_point) * quantization.scale
    assert patch(small, "exact", adapter=True, reference=values.astype(F)) == model
    assert read_patched(patch(small, "exact", adapter=True)).reference is None


def test_untrained_it_computes_what_the_original_does(small: bytes, model: bytes) -> None:
    x, y = samples(3, 30, -128, 128), np.arange(30) % 3
    assert TflmTrainer(model).evaluate(x, y)["accuracy"] == evaluate_plain(small, x, y)["accuracy"]
    plain = TflmTrainer(patch(small, "exact"))
    np.testing.assert_array_equal(TflmTrainer(model).predict_codes(x), plain.predict_codes(x))


def test_a_model_of_an_earlier_version_is_refused(model: bytes) -> None:
    beginning = pack_parameters(ParameterOptions((), 0, np.zeros(0)))[:8]
    assert model.count(beginning) == 1
    old = model.replace(beginning, beginning[:4] + (3).to_bytes(4, "little"))
    with pytest.raises(ZoError, match="patched by another version of tflm-zo"):
        read_patched(old)


def test_patch_refuses(small: bytes) -> None:
    with pytest.raises(ZoError, match="patch with the adapter too"):
        patch(small, reference=samples(1, 5))
    with pytest.raises(ZoError, match="reference has one sample"):
        patch(small, adapter=True, reference=samples(1, 1))
    with pytest.raises(ZoError, match="reference has samples of shape"):
        patch(small, adapter=True, reference=samples(1, 5)[:, :4])


def test_a_prepared_adapter_is_led_to_the_reference(small: bytes) -> None:
    """Its gains are in its scales; these and the codes together undo the drift."""
    tree = load_model(small)
    gains, offsets = np.linspace(0.5, 2.5, CHANNELS), np.linspace(-20, 10, CHANNELS)
    add_adapter(tree, gains, offsets)
    trainer = TflmTrainer(patch(save_model(tree), adapter=True, reference=samples(1, 200)))
    drifted = np.rint(samples(2, 200) * 0.6 + 30.0).astype(np.int8)
    trainer.recalibrate(drifted)
    codes, bias = adapter_of(trainer)
    assert len(set(codes)) == CHANNELS
    zero = input_quantization(trainer.model).zero_point
    inputs = drifted.reshape(-1, CHANNELS).astype(float) - zero
    result = gains * (codes * inputs + bias) / UNIT + zero
    before = channel_statistics(samples(1, 200)[:, None])
    assert np.all(np.abs(result.mean(axis=0) - before.mean) <= gains / 63)
    assert np.all(np.abs(result.std(axis=0) - before.spread) <= 0.51 * gains / UNIT * inputs.std(axis=0))


def test_samples_that_are_changed_ahead_of_the_adapter_take_no_reference(small: bytes) -> None:
    tree = load_model(small)
    add_adapter(tree)
    weights = np.full((1, 1, 1, 1), 64, np.int8)
    insert_front_layer(tree, "ahead", (1, 8, 8, 1), weights, np.array([1 / 64]))
    with pytest.raises(ZoError, match="in front of the adapter"):
        patch(save_model(tree), adapter=True, reference=samples(1, 5))


# -- the result --------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.integers(2, 12),
    st.integers(-128, 127),
    st.integers(0, 255),
    st.sampled_from([0, 1, 4, 8]),
)
def test_numpy_reference_to_the_bit(
    trainer: Trainer, seed: int, count: int, low: int, width: int, constant: int
) -> None:
    codes = samples(seed, count, low, min(low + width, 127) + 1)
    codes[:, :, :constant] = low  # channels without any spread
    trainer.recalibrate(codes)
    assert trainer.model.reference is not None
    gains, offsets = recalibrated(codes, trainer.model.reference)
    found = adapter_of(trainer)
    np.testing.assert_array_equal(found[0], gains)
    np.testing.assert_array_equal(found[1], offsets)


@pytest.fixture(scope="module")
def uniform(small: bytes) -> Trainer:
    return TflmTrainer(patch(small, "exact", adapter=True, reference=samples(7, 40, -50, 50)))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.35, 1.8), st.floats(-22, 22))  # within the codes, with all below
def test_undoes_gain_and_offset(uniform: Trainer, seed: int, gain: float, offset: float) -> None:
    """Whatever they are for each channel: mean and spread come back, but for the rounding of the gain."""
    rng = np.random.default_rng(seed)
    clean = samples(seed, 40, -50, 50)
    steps = np.array([0.8, 0.9, 1, 1, 1, 1, 1.05, 1.1])
    reference = uniform.model.reference
    assert reference is not None
    shifts = offset + rng.uniform(-5, 5, 8)
    drifted = np.rint(clean[..., 0] * gain * steps + shifts)
    assert np.abs(drifted).max() <= 127
    drifted = drifted.astype(np.int8)[..., None]
    uniform.recalibrate(drifted)
    result = adapted(drifted, uniform)
    assert np.abs(result.mean(axis=0) - reference.mean).max() <= 1 / 63
    coded = np.rint(result)
    assert np.abs(coded.mean(axis=0) - reference.mean).max() <= 0.5
    unit = drifted.reshape(-1, CHANNELS).std(axis=0) / UNIT
    assert np.all(np.abs(result.std(axis=0) - reference.spread) <= 0.51 * unit)


def test_the_present_state_of_the_adapter_does_not_matter(trainer: Trainer) -> None:
    codes = samples(8, 20, -100, 30)
    trainer.recalibrate(codes)
    first = adapter_of(trainer)
    trainer.recalibrate(codes[::-1])
    second = adapter_of(trainer)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_samples_like_the_reference_leave_the_model_as_it_was(model: bytes) -> None:
    trainer = TflmTrainer(model)
    before = trainer.predict_codes(samples(4, 20))
    trainer.recalibrate(samples(1, 50))
    np.testing.assert_array_equal(trainer.predict_codes(samples(4, 20)), before)


@pytest.mark.parametrize("loss", ["auto", "entropy"])
def test_training_saving_and_baking_go_on_from_there(small: bytes, loss: str, tmp_path: Path) -> None:
    """And the simulator does the same."""
    x, y = small_models.separable_samples(60, 1)
    model = patch(small, "exact", loss, adapter=True, reference=x)
    data = (0.6 * x + 0.2, None if loss == "entropy" else y)
    fit: dict[str, Any] = {"epochs": 2, "batch_size": 8, "verbose": False}
    results = []
    for kind in (TflmTrainer, SimTrainer):
        trainer = kind(model, seed=3)
        trainer.fit(*data, **fit)
        assert any(np.any(moments) for moments in trainer.engine.read().moments.values())
        trainer.recalibrate(data[0])
        assert not any(np.any(moments) for moments in trainer.engine.read().moments.values())
        trainer.save(tmp_path / "run.ckpt")
        again = kind(model)
        again.load(tmp_path / "run.ckpt")
        assert again.bake() == trainer.bake()
        for one in (trainer, again):
            one.fit(*data, **fit)
        assert again.bake() == trainer.bake()
        assert (
            evaluate_plain(trainer.bake(), *small_models.separable_samples(30, 2))["accuracy"]
            == (trainer.evaluate(*small_models.separable_samples(30, 2))["accuracy"])
        )
        results.append(trainer.bake())
    assert results[0] == results[1]


def test_refusals_change_nothing(small: bytes, model: bytes) -> None:
    trainer = TflmTrainer(model)
    with pytest.raises(ZoError, match="x has one sample"):
        trainer.recalibrate(samples(1, 1))
    with pytest.raises(ZoError, match="x has samples of shape"):
        trainer.recalibrate(samples(1, 3)[:, :4])
    assert np.all(adapter_of(trainer)[0] == UNIT)
    for other in (patch(small, "exact"), patch(small, "exact", adapter=True)):
        with pytest.raises(ZoError, match="--adapter --reference"):
            TflmTrainer(other).recalibrate(samples(1, 3))


def test_command(small: bytes, model: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(small)
    np.savez(tmp_path / "before.npz", x=samples(1, 50))
    words = ["patch", str(tmp_path / "model.tflite"), "-o", str(tmp_path / "zo.tflite")]
    words += ["--reference", str(tmp_path / "before.npz")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "patch with the adapter too" in refused.output
    assert not (tmp_path / "zo.tflite").exists()
    done = CliRunner().invoke(main, [*words, "--adapter"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "zo.tflite").read_bytes() == model
