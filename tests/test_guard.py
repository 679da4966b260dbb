# SPDX-License-Identifier: Apache-2.0
"""What decides whether training has helped: held-out samples, scores of two sets of weights, phases of a fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflm_zo.errors import ZoError
from tflm_zo.training.guard import (
    CUT,
    ENOUGH_FOR_LOSSES,
    MOST_CUTS,
    Guard,
    Scores,
    Verdict,
    checks,
    compare,
    errors_of,
    held_out_count,
    hold_out,
)
from tflm_zo.training.watch import Watch, WatchState, check_state, divide, restore, state_of

labels_of_sets = st.lists(st.integers(0, 4), min_size=8, max_size=150).map(np.array)
seeds = st.integers(0, 2**32 - 1)


def scores(losses: np.ndarray, right: np.ndarray | None = None) -> Scores:
    losses = np.asarray(losses, dtype=np.float64)
    return Scores(errors_of(losses, right), None if right is None else np.asarray(right, dtype=bool), losses)


# -- which samples are held out ------------------------------------------------------------------------------


@given(labels=labels_of_sets, share=st.floats(0.02, 0.5), seed=seeds, known=st.booleans())
def test_held_out_samples_are_a_part_of_each_class(labels: np.ndarray, share: float, seed: int, known: bool) -> None:
    """Disjoint, complete, the same for a seed; of each class its share, to one sample, but not its only one."""
    count = held_out_count(len(labels), share)
    kept, held = hold_out(labels if known else None, len(labels), count, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(len(labels)))
    assert np.all(np.diff(kept) > 0) and np.all(np.diff(held) > 0)
    again = hold_out(labels if known else None, len(labels), count, seed)
    np.testing.assert_array_equal(again[1], held)
    if not known:
        assert len(held) == count
        return
    for value, size in zip(*np.unique(labels, return_counts=True), strict=True):
        of_class = int(np.sum(labels[held] == value))
        assert of_class < size, "a class is left without a sample to train on"
        if size > 1:
            assert abs(of_class - count * size / len(labels)) <= 1


def test_another_seed_holds_out_other_samples() -> None:
    labels = np.arange(300) % 3
    assert not np.array_equal(hold_out(labels, 300, 60, 1)[1], hold_out(labels, 300, 60, 2)[1])


def test_the_automatic_share_is_of_larger_sets_only() -> None:
    assert [held_out_count(n, None) for n in (8, 199, 200, 400, 1000)] == [0, 0, 40, 80, 140]
    counts = [held_out_count(n, None) for n in range(200, 2000)]
    assert np.all(np.diff(counts) >= 0)


# -- scores --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.data())
def test_errors_of_classes_are_between_0_and_1_and_grow_with_the_loss(losses: list[float], data: st.DataObject) -> None:
    right = np.array([data.draw(st.booleans()) for _ in losses])
    errors = errors_of(np.array(losses), right)
    assert np.all((errors >= 0) & (errors <= 1))
    assert np.all(errors_of(np.array(losses) + 0.1, right) >= errors)
    assert np.all(errors_of(np.array(losses), np.ones(len(losses), bool)) <= errors)
    np.testing.assert_array_equal(errors_of(np.array(losses), None), losses)


results = st.integers(8, 80).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0, 10), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
    )
)


@given(results, results, st.booleans(), st.booleans())
def test_nothing_worse_is_ever_accepted(first: tuple, second: tuple, best_is_start: bool, classes: bool) -> None:
    """BETTER means: a lower mean error, also with classes counting alike, and no fewer right answers; more than the
    start had, unless the losses of many samples are lower beyond chance."""
    n = min(len(first[0]), len(second[0]))
    labels = np.array(first[2][:n]) if classes else None
    before, after = (scores(np.array(s[0][:n]), np.array(s[1][:n]) if classes else None) for s in (first, second))
    guard = Guard(labels, before, best_is_start)
    verdict = guard.judge(after)
    found = compare(before, after, labels)
    gain = np.mean(before.errors - after.errors)
    assert found.gain == pytest.approx(gain)
    if verdict is Verdict.BETTER:
        assert gain > 0 and found.balanced_gain >= 0 and guard.best is after and not guard.best_is_start
        if classes:
            assert before.right is not None and after.right is not None
            more = int(after.right.sum()) - int(before.right.sum())
            lower = before.losses - after.losses
            beyond_chance = np.mean(lower) > 0.5 * np.std(lower) / np.sqrt(n - 1)
            enough = (n >= ENOUGH_FOR_LOSSES and beyond_chance) if best_is_start else more == 0
            assert more > 0 or enough
    else:
        assert guard.best is before and guard.best_is_start == best_is_start
    if verdict is Verdict.WORSE:
        assert gain < 0


@given(results, st.booleans(), st.booleans())
def test_identical_scores_are_never_better_nor_worse(result: tuple, best_is_start: bool, classes: bool) -> None:
    same = [scores(np.array(result[0]), np.array(result[1]) if classes else None) for _ in range(2)]
    labels = np.array(result[2]) if classes else None
    assert Guard(labels, same[0], best_is_start).judge(same[1]) is Verdict.GO_ON


def test_the_start_is_beaten_beyond_chance_only() -> None:
    """Weights that are neither better nor worse hardly ever pass for better; better ones mostly do."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    accepted = {0.3: 0, 0.5: 0, 0.9: 0}
    for part in accepted:
        for _ in range(300):
            before = scores(rng.exponential(1, 60), rng.random(60) < 0.5)
            after = scores(rng.exponential(1, 60), rng.random(60) < part)
            accepted[part] += Guard(labels, before).judge(after) is Verdict.BETTER
    # Either of two kinds of evidence will do, by little more than half a standard error each.
    assert accepted[0.3] < 0.05 * 300 and accepted[0.5] < 0.35 * 300 and accepted[0.9] > 0.95 * 300


@pytest.mark.parametrize(("count", "surer_is"), [(40, Verdict.GO_ON), (400, Verdict.BETTER)])
def test_the_same_answers_are_better_than_the_start_by_lower_losses_of_many(count: int, surer_is: Verdict) -> None:
    """More certainty of the same answers: of few samples it tells nothing; nor may those that are wrong pay for it,
    one of ten."""
    right, labels = np.arange(count) % 10 > 0, np.arange(count) % 2
    before = scores(np.full(count, 1.0), right)
    surer, rash = scores(np.full(count, 0.2), right), scores(np.where(right, 0.2, 9.0), right)
    for after, verdict in ((surer, surer_is), (rash, Verdict.GO_ON)):
        assert compare(before, after, None).gain > 0.15
        assert Guard(labels, before).judge(after) is verdict
    assert Guard(labels, before, best_is_start=False).judge(surer) is Verdict.BETTER


def test_lower_losses_alone_are_not_better() -> None:
    """A model that is only less certain of what it gets wrong: lower losses, more wrong answers."""
    labels = np.arange(40) % 2
    before = scores(np.where(np.arange(40) < 12, 8.0, 0.1), np.arange(40) >= 12)
    after = scores(np.full(40, 0.69), np.arange(40) >= 13)
    found = compare(before, after, labels)
    assert found.loss_gain > 2 * found.loss_deviation
    assert Guard(labels, before).judge(after) is not Verdict.BETTER


def test_a_start_that_answers_everything_right_cannot_gain() -> None:
    assert not Guard(None, scores(np.ones(9), np.ones(9, bool))).can_gain
    assert Guard(None, scores(np.ones(9), np.arange(9) > 0)).can_gain
    assert Guard(None, scores(np.zeros(9))).can_gain, "a regression can always gain"


def test_a_rare_class_is_not_given_up_for_the_others() -> None:
    labels = np.where(np.arange(100) < 5, 1, 0)
    before = scores(np.full(100, 0.7), np.where(labels == 1, True, np.arange(100) % 2 == 0))
    after = scores(np.where(labels == 1, 5.0, 0.2), labels == 0)
    found = compare(before, after, labels)
    assert found.better(9.0) is False and found.gain > 9 * found.deviation and found.gain_of_right > 0
    assert Guard(labels, before).judge(after) is not Verdict.BETTER
    alike = scores(np.where(labels == 1, 0.7, 0.2), np.ones(100, bool))
    assert Guard(labels, before).judge(alike) is Verdict.BETTER


def test_a_regression_is_judged_by_its_loss() -> None:
    rng = np.random.default_rng(1)
    losses = rng.uniform(0.5, 1.5, 50)
    for factor, verdict in ((0.5, Verdict.BETTER), (1.0, Verdict.GO_ON), (2.0, Verdict.WORSE)):
        assert Guard(None, scores(losses)).judge(scores(losses * factor)) is verdict


# -- the phases of a fit -------------------------------------------------------------------------------------


@given(labels=labels_of_sets, share=st.none() | st.floats(0, 0.5), passes=st.none() | st.integers(1, 3000), seed=seeds)
def test_phases_end_with_all_samples_or_a_held_out_share(
    labels: np.ndarray, share: float | None, passes: int | None, seed: int
) -> None:
    """No phase judges by what it trains on; the guard takes at most a quarter of the passes before it has begun."""
    everything = np.arange(len(labels))
    phases = divide(labels, len(labels), share, passes, seed)
    for phase in phases:
        assert not np.intersect1d(phase.trains, phase.judges).size
        if phase.judges.size:
            np.testing.assert_array_equal(np.union1d(phase.trains, phase.judges), everything)
    judging = sum(len(phase.judges) for phase in phases)
    if len(phases) == 3:
        np.testing.assert_array_equal(phases[2].trains, everything)
        np.testing.assert_array_equal(phases[0].trains, phases[1].judges)
        assert judging == len(labels)
    elif not judging:
        np.testing.assert_array_equal(phases[0].trains, everything)
    if passes is not None and judging:
        assert 2 * judging <= 0.25 * passes + 2


def test_modes_by_the_number_of_samples() -> None:
    def mode(samples: int, share: float | None = None, passes: int | None = None) -> str:
        codes, labels = np.zeros((samples, 1), np.int8), np.arange(samples) % 2
        phases = divide(labels, samples, share, passes, 0)
        return Watch(phases, codes, labels[:, None], labels).outcome.mode

    assert [mode(n) for n in (1, 7, 8, 199, 200)] == ["none", "none", "halves", "halves", "held out"]
    assert mode(100, share=0.2) == "held out" and mode(500, share=0.0) == "none"
    assert mode(100, passes=700) == "none" and mode(100, passes=900) == "halves"
    assert mode(500, passes=600) == "none" and mode(500, passes=900) == "held out"


@given(passes=st.integers(1, 10**6), held_out=st.integers(1, 5000))
def test_looks_are_few_and_bounded(passes: int, held_out: int) -> None:
    found = checks(passes, held_out)
    assert 1 <= found <= 10
    assert found == 1 or (found + 1) * held_out <= 0.12 * passes + 1e-6


# -- what follows from a look --------------------------------------------------------------------------------


class FakeFit:
    """Weights are a number; what they score is in a table: a loss, and the part of right answers."""

    def __init__(self, table: dict[int, float]) -> None:
        self.table, self.weights, self.kept = table, 0, -1

    def keep(self) -> None:
        self.kept = self.weights

    def return_to_kept(self) -> None:
        self.weights = self.kept

    def scores(self, codes: np.ndarray, targets: np.ndarray) -> Scores:
        part = self.table[self.weights]
        right = np.arange(len(codes)) < part * len(codes)
        return scores(np.where(right, 0.1, 2.0), right)


def new_watch(samples: int, table: dict[int, float]) -> tuple[Watch, FakeFit]:
    labels = np.arange(samples) % 2
    watch = Watch(divide(labels, samples, None, None, 3), np.zeros((samples, 1), np.int8), labels[:, None], labels)
    fit = FakeFit(table)
    watch.begin(fit)
    return watch, fit


def test_held_out_samples_choose_the_best_of_several_looks() -> None:
    watch, fit = new_watch(400, {0: 0.5, 1: 0.7, 2: 0.9, 3: 0.85, 4: 0.85})
    for epoch in range(1, 5):
        fit.weights = epoch
        assert not watch.after_epoch(fit, epoch, 4, 100000)
    watch.end(fit)
    assert fit.weights == 2 and watch.outcome.kept == "best" and watch.outcome.looked == 4
    before, after = watch.outcome.error_before, watch.outcome.error_after
    assert before is not None and after is not None and after < before


def test_worse_weights_are_given_up_and_rates_cut_until_there_is_no_point() -> None:
    watch, fit = new_watch(400, {0: 0.9, 1: 0.1})
    for epoch in range(1, MOST_CUTS + 2):
        assert not watch.finished
        fit.weights = 1
        watch.after_epoch(fit, epoch, 10, 100000)
        assert fit.weights == 0 and watch.factor == CUT**epoch
    watch.end(fit)
    assert watch.finished and fit.weights == 0 and watch.outcome.kept == "start"


def test_a_perfect_start_is_not_trained() -> None:
    watch, _ = new_watch(400, {0: 1.0})
    assert watch.finished


@pytest.mark.parametrize(("trial", "kept"), [(0.95, "last"), (0.5, "start")])
def test_halves_lead_to_all_samples_or_back_to_the_start(trial: float, kept: str) -> None:
    """Each half begins with the weights of the start; in vain, once more with lower rates."""
    watch, fit = new_watch(100, {0: 0.5, 1: trial})
    seen = []
    for _ in range(6):
        seen.append((len(watch.trains), watch.factor))
        assert fit.weights == 0
        fit.weights = 1
        if not watch.after_epoch(fit, 5, 5, 1000):
            break
    watch.end(fit)
    assert watch.outcome.kept == kept and fit.weights == (1 if kept == "last" else 0)
    halves = [(50, 1.0), (50, 1.0)]
    assert seen == halves + ([(100, 1.0)] if kept == "last" else [(50, CUT), (50, CUT)])


@pytest.mark.parametrize("samples", [100, 400])
def test_a_watch_goes_on_from_its_state(samples: int) -> None:
    """After every look, through JSON as a checkpoint has it: the same from there on."""
    table = {0: 0.5, 1: 0.7, 2: 0.6, 3: 0.3, 4: 0.95}
    results = []
    for resumed in (False, True):
        watch, fit = new_watch(samples, table)
        for epoch in range(1, 5):
            fit.weights = epoch
            watch.after_epoch(fit, epoch if samples == 400 else 4, 4, 100000)
            if resumed:
                state = state_of(watch)
                state = WatchState(json.loads(json.dumps(state.values)), dict(state.arrays))
                check_state(state)
                watch, _ = new_watch(samples, table)
                restore(watch, state)
        watch.end(fit)
        results.append((watch.outcome, watch.phase, watch.factor, watch.finished, fit.weights))
    assert results[0] == results[1]


@pytest.mark.parametrize(("samples", "kept"), [(100, "start"), (400, "best")])
def test_without_passes_for_the_last_phase_the_best_weights_stay(samples: int, kept: str) -> None:
    watch, fit = new_watch(samples, {0: 0.5, 1: 0.9})
    for _ in range(1 if samples == 400 else 2):
        fit.weights = 1
        assert watch.after_epoch(fit, 4, 4, 100000)
    assert watch.outcome.kept == "last"
    watch.give_up()
    watch.end(fit)
    assert watch.outcome.kept == kept and fit.weights == (1 if kept == "best" else 0)


def test_held_out_samples_are_learned_once_training_has_helped() -> None:
    """From the best weights; not if the last look found weights that are worse."""
    watch, fit = new_watch(400, {0: 0.5, 1: 0.9})
    fit.weights = 1
    assert watch.after_epoch(fit, 4, 4, 100000)
    assert fit.weights == 1 and not watch.unjudged and len(watch.trains) == 400
    fit.weights = 7
    assert not watch.after_epoch(fit, 1, 1, 100000)
    watch.end(fit)
    assert fit.weights == 7 and watch.outcome.kept == "last"
    watch, fit = new_watch(400, {0: 0.5, 1: 0.9, 2: 0.7})
    for epoch in (1, 2):
        fit.weights = epoch
        assert not watch.after_epoch(fit, 2 * epoch, 4, 100000)
    watch.end(fit)
    assert fit.weights == 1 and watch.outcome.kept == "best"


def test_a_state_of_another_guard_is_refused() -> None:
    """As a damaged checkpoint has it, or other hyperparameters make it: as many judges, but other phases."""
    watch, _ = new_watch(400, {0: 0.5})
    state = state_of(watch)
    state.values["phase"] = 2
    check_state(state)
    with pytest.raises(ZoError, match="had another guard: give the same hyperparameters"):
        restore(new_watch(400, {0: 0.5})[0], state)


def test_a_state_of_other_samples_is_refused() -> None:
    watch, _ = new_watch(400, {0: 0.5})
    other, _ = new_watch(300, {0: 0.5})
    with pytest.raises(ZoError, match="same samples"):
        restore(other, state_of(watch))
