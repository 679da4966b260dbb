# SPDX-License-Identifier: Apache-2.0
"""Chains of a preparation: what they undo, the same bytes in one piece and in two, and which of them is chosen."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import small_models
from hypothesis import given, settings
from hypothesis import strategies as st
from trainers import SimTrainer, TflmTrainer

from tflm_zo import ZoError, patch
from tflm_zo.adaptation import choice
from tflm_zo.adaptation.choice import choose, information
from tflm_zo.conversion.evaluate import evaluate_plain
from tflm_zo.model.file import load_model, save_model, tensor_name
from tflm_zo.model.samples import spread_over
from tflm_zo.ops.channel_statistics import channel_statistics
from tflm_zo.patching.adapter import UNIT, add_adapter
from tflm_zo.realignment import preparation
from tflm_zo.realignment.filters import FILTERS, add_filter
from tflm_zo.realignment.preparation import AS_IT_IS, SAMPLE_STEPS, Chain, Prepared, Preparer
from tflm_zo.tflm.evaluate import predict_plain

RNG = np.random.default_rng(3)
# Of the small models' inputs.
SCALE, ZERO = 2.2 / 255, -3


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(3).bit_generator.state


@pytest.fixture(scope="module")
def taught(small: bytes) -> bytes:
    """A model that knows the patterns of noisy samples well."""
    trainer = SimTrainer(patch(small, "exact"))
    trainer.fit(*noisy(500, 1), epochs=10, holdout=0.0, verbose=False)
    return trainer.bake()


def noisy(count: int, seed: int, drift: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Samples of which the model gets a few wrong, before or after a drift."""
    x, y = small_models.separable_samples(count, seed)
    rng = np.random.default_rng(seed + 100)
    x = x + rng.normal(0, 0.8, x.shape)
    if drift == "offset":
        x = x * 0.5 + 0.8
    if drift == "each sample's offset":
        x = x * 0.4 + rng.uniform(-0.9, 0.9, (count, 1, 1, 1))
    return x.astype(np.float32), y


def identity(shape: tuple[int, ...], gains: np.ndarray, offsets: np.ndarray) -> tuple[bytes, Any]:
    """A model whose first three operators are the adapter, cut off behind them; and its tree."""
    model = small_models.small_model() if shape == (8, 8, 1) else small_models.sequence_model()
    tree = load_model(model)
    add_adapter(tree, gains, offsets)
    graph = tree.subgraphs[0]
    graph.operators = graph.operators[:3]
    graph.outputs = graph.operators[-1].outputs
    return save_model(tree), tree


# -- the adapter with gains and offsets ----------------------------------------------------------------------


def depthwise(codes: np.ndarray, gains: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """What the adapter computes of int8 (n, channels), as TFLite defines a depthwise layer: int32 sums, times a
    multiplier of 31 bits, rounded twice."""
    scales = (gains / UNIT).astype(np.float32).astype(np.float64)
    bias = np.rint(offsets / scales).astype(np.int64)
    result = np.empty(codes.shape, dtype=np.int64)
    for channel, scale in enumerate(np.float32(SCALE).astype(np.float64) * scales / np.float32(SCALE)):
        mantissa, exponent = np.frexp(scale)
        multiplier = int(np.floor(mantissa * (1 << 31) + 0.5))
        sums = (codes[:, channel].astype(np.int64) - ZERO) * UNIT + bias[channel]
        left, right = max(int(exponent), 0), max(-int(exponent), 0)
        product = (sums << left) * multiplier
        high = np.where(product >= 0, product + (1 << 30), product + 1 - (1 << 30))
        high = np.sign(high) * (np.abs(high) >> 31)
        mask = (1 << right) - 1
        rest, threshold = high & mask, (mask >> 1) + (high < 0)
        result[:, channel] = (high >> right) + (rest > threshold)
    return np.clip(result + ZERO, -128, 127).astype(np.int8)


@pytest.mark.parametrize("gain", [1 / 16, 0.3, 1.0, 1.7, 16.0])
def test_the_adapter_is_its_depthwise_layer_to_the_bit(gain: float) -> None:
    """In TFLite Micro and in LiteRT, on every code."""
    gains, offsets = gain * np.array([1.0, 0.7, 1.0, 1.3]), np.array([0.0, 12.3, -90.0, 7.5])
    model, _ = identity((12, 4), gains, offsets)
    x = np.resize(RNG.permutation(np.repeat(np.arange(-128, 128), 4)), (30, 12, 4)).astype(np.int8)
    x = np.concatenate([x, np.resize(np.arange(-128, 128), (12, 4, 12)).transpose(2, 0, 1).astype(np.int8)])
    found = predict_plain(model, x).reshape(x.shape)
    np.testing.assert_array_equal(found.reshape(-1, 4), depthwise(x.reshape(-1, 4), gains, offsets))
    exact = (x.astype(float) - ZERO) * gains + offsets + ZERO
    # The result is rounded, and the offset to a part of the gain, and the multiplication before the shift.
    assert np.abs(found - np.clip(exact, -128, 127)).max() <= 0.6 + 0.5 * gain / UNIT * 1.3
    litert = pytest.importorskip("ai_edge_litert.interpreter")
    engine = litert.Interpreter(model_content=model, experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF)
    engine.allocate_tensors()
    for sample, ours in zip(x, found, strict=True):
        engine.set_tensor(engine.get_input_details()[0]["index"], sample[None])
        engine.invoke()
        np.testing.assert_array_equal(engine.get_tensor(engine.get_output_details()[0]["index"])[0], ours)


def test_the_adapter_without_numbers_is_the_identity() -> None:
    x = np.arange(-128, 128, dtype=np.int8).reshape(4, 8, 8, 1)
    model, _ = identity((8, 8, 1), np.ones(8), np.zeros(8))
    np.testing.assert_array_equal(predict_plain(model, x).reshape(x.shape), x)


@settings(max_examples=50)
@given(st.floats(0.3, 1.3), st.floats(-20, 20), st.integers(0, 2**32 - 1))
def test_channels_are_brought_back(gain: float, offset: float, seed: int) -> None:
    """An exact gain and offset of each channel: mean and spread come back within rounding, and so do samples."""
    model = small_models.sequence_model()
    rng = np.random.default_rng(seed)
    before = np.rint(rng.normal(0, 22, (60, 12, 4)).clip(-60, 60)).astype(np.int8)
    gains = gain * np.array([1.0, 0.8, 1.0, 0.9])
    after = np.rint((before - ZERO) * gains + offset * np.array([1.0, -1.0, 0.5, 0.0]) + ZERO).astype(np.int8)
    preparer = Preparer(model, before, after)
    found = preparer._gains_and_offsets(None)
    np.testing.assert_allclose(found[0], 1 / gains, rtol=0.03)
    front, _ = identity((12, 4), *found)
    back = predict_plain(front, after).reshape(after.shape)
    usual, now = channel_statistics(before), channel_statistics(back)
    # Where all codes lie half-way between two, all are rounded to the same side.
    assert np.abs(now.mean - usual.mean).max() < 0.55 and np.abs(now.spread / usual.spread - 1).max() < 0.03
    assert np.abs(back.astype(float) - before).max() <= 0.5 / gains.min() + 2


def test_channels_that_say_nothing_keep_their_gain() -> None:
    before = np.repeat(np.array([[[10, 20, -5, 0]]], dtype=np.int8), 20, axis=0).repeat(12, axis=1)
    before[:, :6, 1] += 8
    after = before + np.int8(5)
    gains, offsets = Preparer(small_models.sequence_model(), before, after)._gains_and_offsets(None)
    np.testing.assert_array_equal(gains, 1.0)
    np.testing.assert_allclose(offsets, -5.0)
    # A spread that has all but vanished is amplified by so much, not more.
    before[:, :, 0] = np.resize(np.array([-100, 100], dtype=np.int8), 12)
    after[:, :, 0] = np.resize(np.array([0, 1], dtype=np.int8), 12)
    assert Preparer(small_models.sequence_model(), before, after)._gains_and_offsets(None)[0][0] == 16.0


def test_training_goes_on_from_the_adapter_of_a_preparation(taught: bytes) -> None:
    """Patching with an adapter takes the one that is there; it learns, and is baked where it was."""
    x, y = noisy(60, 4, "offset")
    prepared = Preparer(taught, noisy(100, 2)[0], x).prepare(Chain(channels=True)).model
    names = [tensor_name(t) for t in load_model(prepared).subgraphs[0].tensors]
    patched = patch(prepared, "exact", adapter=True)
    trainer = TflmTrainer(patched, seed=1)
    np.testing.assert_array_equal(trainer.predict_codes(x), predict_plain(prepared, x))
    before = {name: value.copy() for name, value in trainer.weights.items()}
    assert [name for name in before if name.startswith("adapter")] == ["adapter/weights", "adapter/bias"]
    np.testing.assert_array_equal(before["adapter/weights"], UNIT)
    trainer.fit(x, y, epochs=3, adapter_lr=3.0, holdout=0.0, verbose=False)
    assert np.any(trainer.weights["adapter/bias"] != before["adapter/bias"])
    baked = trainer.bake()
    found = [tensor_name(t) for t in load_model(baked).subgraphs[0].tensors]
    assert sum(name == "adapter/depthwise" for name in found) == names.count("adapter/depthwise") == 1
    np.testing.assert_array_equal(predict_plain(baked, x), trainer.predict_codes(x))


# -- chains --------------------------------------------------------------------------------------------------

CHAINS = [
    Chain(sample, channels, kernel, realigned)
    for sample, channels, kernel, realigned in itertools.product(
        (None, *SAMPLE_STEPS), (False, True), ("none", "smooth3"), (False, True)
    )
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain.name)
def test_in_one_piece_and_in_two(taught: bytes, chain: Chain) -> None:
    """The whole model on raw codes gives what its second part gives on prepared ones; and the same when trained; and
    the same bytes whoever prepares it, whatever was prepared before."""
    x, y = noisy(24, 5, "offset")
    reference = noisy(60, 2)[0]
    preparer = Preparer(taught, reference, x)
    codes = preparer.codes(x)
    prepared = preparer.prepare(chain)
    seen = prepared.codes(codes)
    assert seen.shape == codes.shape and seen.dtype == np.int8
    np.testing.assert_array_equal(prepared.codes(codes[:, 0]), seen[:, 0])
    expected = predict_plain(prepared.model, seen[:, 0])
    np.testing.assert_array_equal(predict_plain(prepared.whole(), codes[:, 0]), expected)
    trainer = SimTrainer(patch(prepared.model, "exact"))
    np.testing.assert_array_equal(trainer.predict_codes(seen[:, 0]), expected)
    trainer.fit(seen[:, 0], y, epochs=2, holdout=0.0, verbose=False)
    trained = trainer.predict_codes(seen[:, 0])
    assert np.any(trained != expected)
    np.testing.assert_array_equal(predict_plain(prepared.whole(trainer.bake()), codes[:, 0]), trained)
    again = Preparer(taught, reference, x)
    for other in again.chains():
        again.prepare(other)
    assert again.prepare(chain).whole() == prepared.whole()


def test_the_model_as_it_is_comes_first_and_unchanged(taught: bytes) -> None:
    preparer = Preparer(taught, noisy(60, 2)[0], noisy(60, 3)[0])
    chains = list(preparer.chains())
    assert chains[0] == Chain() and chains[0].name == AS_IT_IS and len(set(chains)) == len(chains) == 16
    x = noisy(20, 4)[0]
    prepared = preparer.prepare(Chain())
    np.testing.assert_array_equal(predict_plain(prepared.whole(), x), predict_plain(taught, x))
    filtered = list(preparer.filtered(chains[3]))
    assert [chain.filter for chain in filtered] == [name for name, kernel in FILTERS.items() if len(kernel) <= 8]
    assert {replace(chain, filter="none") for chain in filtered} == {chains[3]}


def test_chains_that_a_model_does_not_take_are_left_out() -> None:
    """No filters of vectors, no spread of more elements than can be summed, no realigning without convolutions."""
    x = RNG.uniform(-1, 1, (10, 20)).astype(np.float32)
    vectors = Preparer(small_models.dense_model(), x, x)
    assert not any(chain.realigned for chain in vectors.chains())
    assert list(vectors.filtered(Chain())) == []
    with pytest.raises(ZoError):
        vectors.prepare(Chain(realigned=True))
    large = small_models.layer_model("conv", (160, 160, 3), 4, kernel=(8, 8), stride=(8, 8), pool=(20, 20))
    x = RNG.uniform(-3, 3, (3, 160, 160, 3)).astype(np.float32)
    preparer = Preparer(large, x, x)
    chains = list(preparer.chains())
    assert {chain.sample for chain in chains} == {None, "mean", "channel means"}
    for chain in chains:
        prepared = preparer.prepare(chain)
        np.testing.assert_array_equal(
            predict_plain(prepared.whole(), x), predict_plain(prepared.model, prepared.codes(preparer.codes(x)[:, 0]))
        )


def test_samples_are_taken_from_all_over(taught: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets may be in the order of their classes."""
    np.testing.assert_array_equal(spread_over(5, 9), np.arange(5))
    np.testing.assert_array_equal(spread_over(10, 5), [0, 2, 4, 6, 8])
    assert len(spread_over(0, 5)) == 0
    monkeypatch.setattr(preparation, "_MOST_SAMPLES", 50)
    x = np.concatenate([np.full((400, 8, 8, 1), -0.5), np.full((400, 8, 8, 1), 0.5)]).astype(np.float32)
    prepared = Preparer(taught, x, x).prepare(Chain(sample="mean"))
    assert prepared.normalization is not None and prepared.normalization.mean_codes[0] in (ZERO, ZERO - 1)


def test_samples_in_other_forms(taught: bytes) -> None:
    """Codes or real values, with or without the channels' axis: the same model."""
    reference, x = noisy(60, 2)[0], noisy(60, 3, "offset")[0]
    whole = Preparer(taught, reference, x)
    codes = whole.codes(x)[:, 0]
    for other in ((reference, codes), (reference[..., 0], x), (whole.codes(reference)[:, 0, :, :, 0], codes[..., 0])):
        assert Preparer(taught, *other).prepare(Chain("mean", True)) == whole.prepare(Chain("mean", True))


def test_what_cannot_be_prepared_is_named(taught: bytes, small: bytes) -> None:
    x = noisy(20, 2)[0]
    prepared = [Preparer(taught, x, x).prepare(chain).whole() for chain in (Chain("mean"), Chain(channels=True))]
    for model, reference, now, words in (
        (patch(small), x, x, "patched already: prepare the original model"),
        (prepared[0], x, x, "prepared already: prepare the original model"),
        (prepared[1], x, x, "prepared already: prepare the original model"),
        (small_models.float_model(), x, x, "needs an input that is int8 inside, but .* is float32"),
        (small, x[:0], x, "reference holds no samples"),
        (small, x[:, :4], x, r"reference has samples of shape \[4, 8, 1\], but the model's input is \[8, 8, 1\]"),
        (small, x, x[:, :4], r"^x has samples of shape \[4, 8, 1\]"),
        (small, np.where(x > 0, np.nan, x), x, r"reference\[0\] has a value that is not finite"),
        (small, x.astype(np.uint16), x, "reference has dtype uint16: give float values .* or int8 codes"),
    ):
        with pytest.raises(ZoError, match=words) as caught:
            Preparer(model, reference, now)
        assert "\n" not in str(caught.value)


# -- choosing ------------------------------------------------------------------------------------------------

LABELLED = pytest.mark.parametrize("labelled", [True, False], ids=["labels", "no labels"])


def accuracy(model: bytes, drift: str) -> float:
    return evaluate_plain(model, *noisy(300, 9, drift))["accuracy"]


@LABELLED
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_what_undoes_a_drift_is_chosen(taught: bytes, seed: int, labelled: bool) -> None:
    x, y = noisy(100, seed, "offset")
    found = choose(Preparer(taught, noisy(200, 2)[0], x), x, y if labelled else None, "auto")
    assert found.prepared.chain.channels and "prepared" in found.reason
    assert accuracy(taught, "offset") < 0.4 and accuracy(found.prepared.whole(), "offset") > 0.95
    assert labelled or found.prepared == found.untrained


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_what_differs_from_sample_to_sample_is_normalized_in_each(taught: bytes, seed: int) -> None:
    drift = "each sample's offset"
    x, y = noisy(100, seed, drift)
    preparer = Preparer(taught, noisy(200, 2)[0], x)
    found = choose(preparer, x, y, "auto")
    assert found.untrained.chain.sample is not None and found.prepared.chain.sample == found.untrained.chain.sample
    assert found.untrained.chain.filter == "none"
    assert accuracy(found.untrained.whole(), drift) > accuracy(taught, drift) + 0.3
    bare = choose(preparer, x, None, "auto")
    assert accuracy(bare.prepared.whole(), drift) >= accuracy(taught, drift)


@LABELLED
@pytest.mark.parametrize("seed", range(11, 14))
@pytest.mark.parametrize("count", [8, 60])
def test_without_a_drift_nothing_is_lost(taught: bytes, seed: int, count: int, labelled: bool) -> None:
    x, y = noisy(count, seed)
    found = choose(Preparer(taught, noisy(200, 2)[0], x), x, y if labelled else None, "auto")
    if found.prepared.chain != Chain():
        assert accuracy(found.prepared.whole(), "") > accuracy(taught, "") - 0.05


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("drift", ["", "offset", "each sample's offset"])
def test_the_choice_is_never_worse_on_labelled_samples(taught: bytes, drift: str, seed: int) -> None:
    """The chosen model, before any training; also with a filter that a training has found to be good."""
    x, y = noisy(8 + 12 * seed, 20 + seed, drift)
    found = choose(Preparer(taught, noisy(30, seed)[0], x), x, y, "auto", seed)
    assert found.rows[0].chain == Chain() and found.rows[0].accuracy == evaluate_plain(taught, x, y)["accuracy"]
    for prepared in (found.prepared, found.untrained):
        assert evaluate_plain(prepared.whole(), x, y)["accuracy"] >= found.rows[0].accuracy
    assert any(row.chain == found.prepared.chain for row in found.rows)


def test_a_filter_that_only_training_can_use_is_not_taken(taught: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter whose model is worse than the one as it is, untrained, however good it is on halves."""
    x, y = noisy(100, 11, "offset")
    preparer = Preparer(taught, noisy(200, 2)[0], x)
    scored = choice.score_fold

    def flattered(model: bytes, samples: Any, fold: int, *rest: Any) -> Any:
        score = scored(model, samples, fold, *rest)
        filtered = any("filter" in tensor_name(t) for t in load_model(model).subgraphs[0].tensors)
        assert score.hits is not None
        return type(score)(score.losses * (0.01 if filtered else 1.0), score.hits | filtered, score.passes)

    monkeypatch.setattr(choice, "score_fold", flattered)
    assert choose(preparer, x, y, "auto").prepared.chain.filter != "none"
    prepare = preparer.prepare
    ruined = SimTrainer(patch(taught, "exact"))
    ruined.fit(x, (y + 1) % 3, epochs=20, holdout=0.0, verbose=False)
    tree = load_model(ruined.bake())
    add_filter(tree, "smooth3", ZERO)

    def bad(chain: Chain) -> Prepared:
        return (
            prepare(chain)
            if chain.filter == "none"
            else Prepared(chain, save_model(tree), prepare(chain).normalization)
        )

    with mock.patch.object(preparer, "prepare", bad):
        found = choose(preparer, x, y, "auto")
    assert found.prepared.chain.filter == "none" and sum(row.trained for row in found.rows) == 4


def test_a_model_that_is_right_already_stays(taught: bytes) -> None:
    x, y = small_models.separable_samples(60, 3)
    right = predict_plain(taught, x).argmax(axis=1) == y
    found = choose(Preparer(taught, x, x), x[right], y[right], "auto")
    assert found.prepared.chain == Chain() and "right as it is" in found.reason


@LABELLED
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_few_samples_choose_nothing(taught: bytes, count: int, labelled: bool) -> None:
    x, y = noisy(count, 3, "offset")
    found = choose(Preparer(taught, noisy(100, 2)[0], x), x, y if labelled else None, "auto")
    assert found.prepared.chain == Chain() and found.rows == () and "fewer than 8 samples" in found.reason


def test_without_labels_and_classes_nothing_is_chosen() -> None:
    x = RNG.uniform(-1, 1, (40, 20)).astype(np.float32)
    found = choose(Preparer(small_models.dense_model(""), x, x * 0.3 + 0.6), x * 0.3 + 0.6, None, "mse")
    assert found.prepared.chain == Chain() and "without labels and classes" in found.reason


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_information_lies_between_nothing_and_the_entropy_of_classes(classes: int, count: int, seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(max(classes, 2)), count)
    outputs = p if classes > 1 else p[:, 1:]
    found = information(outputs).mean()
    q = p.mean(axis=0)
    expected = -(q * np.log(q)).sum() + (p * np.log(np.maximum(p, 1e-300))).sum(axis=1).mean()
    assert found == pytest.approx(expected, abs=1e-3) and -1e-9 <= found <= np.log(max(classes, 2)) + 1e-3
    assert information(np.repeat(p[:1], 5, axis=0)) == pytest.approx(0, abs=1e-9)
