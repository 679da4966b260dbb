# SPDX-License-Identifier: Apache-2.0
"""Which preparation suits the samples: what the data say, never a rule for a kind of drift.

A preparation has not seen the labels, so labelled samples are honest judges of it, all of them, before any training.
Without labels the judge is what predictions tell about their sample: the mutual information of prediction and sample,
H(mean of p) - mean of H(p), for probabilities p (Krause et al., "Discriminative clustering by regularized information
maximization", NIPS 2010). A drift makes predictions uncertain, or the same for all; what repairs it undoes both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.samples import spread_over
from tflm_zo.patching.patch import patch
from tflm_zo.realignment.preparation import Chain, Prepared, Preparer
from tflm_zo.training.folds import into_folds, join, score_fold
from tflm_zo.training.guard import Scores, compare
from tflm_zo.training.simulator_engine import SimulatorEngine
from tflm_zo.training.trainer import Trainer
from tflm_zo.training.watch import FEWEST

# Largest number of samples that chains are judged by.
MOST_JUDGES = 500
# Standard errors by which a chain must beat the model as it is: with labels, and without; plus what few samples need
# more, as in a fit's guard.
_DEMAND, _DEMAND_WITHOUT_LABELS, _FEW_SAMPLES = 1.0, 2.0, 8.0
# Filters are tried by short trainings on halves: the loss of untrained models misleads (docs/research.md).
_FOLDS, _EPOCHS = 2, 4
_SMALLEST = 1e-6


# A chain counts as no worse than another if it is worse by at most this many standard errors.
_CLOSE = 1.0


@dataclass(frozen=True)
class Row:
    """A chain that was tried: ``error`` (with labels, see :mod:`tflm_zo.training.guard`) or mutual ``information``
    (nats, without), ``accuracy`` where there are classes and labels; ``trained``: the error was that after a short
    training, on samples left out of it."""

    chain: Chain
    error: float | None
    information: float | None
    accuracy: float | None
    trained: bool = False


@dataclass(frozen=True)
class Choice:
    """The chosen preparation, every row of what was tried, and why in one line.

    ``untrained``: what to take if the model is not trained after all: a filter has been judged after a training only.
    """

    prepared: Prepared
    rows: tuple[Row, ...]
    reason: str
    untrained: Prepared


# A preparation that was tried, its row of the report and the scores of its samples.
_Tried = tuple[Prepared, Row, Scores]


def patch_for_adapting(model: bytes, loss: str) -> bytes:
    """Return the model patched for what has gradients in closed form; without such layers, for all."""
    try:
        return patch(model, "exact", loss)
    except ZoError as error:
        try:
            return patch(model, "all", loss)
        except ZoError:
            raise error from None


def choose(preparer: Preparer, x: np.ndarray, y: np.ndarray | None, loss: str, seed: int = 0) -> Choice:
    """Choose a chain by samples ``x`` (n, ...) with labels ``y``, or None.

    The model as it is stays unless another chain is better beyond chance. ``loss`` as for :func:`tflm_zo.patch`.
    Raises :class:`ZoError` for unusable samples.
    """
    if len(x) < FEWEST:
        why = f"fewer than {FEWEST} samples do not tell preparations apart: nothing is prepared"
        return _left(preparer.prepare(Chain()), [], why)
    judges = spread_over(len(x), MOST_JUDGES)
    codes = preparer.codes(x[judges])
    labels = None if y is None else np.asarray(y)[judges]
    found: list[_Tried] = []
    seen: dict[str | None, np.ndarray] = {}
    for chain in preparer.chains():
        prepared = preparer.prepare(chain)
        if chain.sample not in seen:
            seen[chain.sample] = prepared.codes(codes[:, 0])
        row, scores = _judge(prepared, seen[chain.sample], labels, loss)
        found.append((prepared, row, scores))
    as_it_is = found[0]
    assert as_it_is[1].chain == Chain()
    rows = [row for _, row, _ in found]
    if np.isnan(as_it_is[2].errors).any():
        return _left(as_it_is[0], rows, "without labels and classes nothing tells preparations apart")
    if as_it_is[2].right is not None and np.all(as_it_is[2].right):
        return _left(as_it_is[0], rows, "the model answers every labelled sample right as it is")
    best = _simplest_of_the_best(found)
    comparison = compare(as_it_is[2], best[2], _classes(labels, as_it_is[2]))
    demand = (_DEMAND_WITHOUT_LABELS if labels is None else _DEMAND) + _FEW_SAMPLES / len(judges)
    if best is as_it_is or not comparison.better(demand):
        return _left(as_it_is[0], rows, "no preparation is better than none beyond chance")
    untrained, why = best[0], _why(best[1], as_it_is[1])
    chosen = untrained
    if y is not None:
        bound = float(np.mean(as_it_is[2].errors))

        def no_worse(prepared: Prepared) -> bool:
            row, _ = _judge(prepared, seen[untrained.chain.sample], labels, loss)
            return row.error is not None and row.error <= bound

        chosen, filtered = _with_filter(preparer, untrained, x, np.asarray(y), loss, seed=seed, no_worse=no_worse)
        rows += filtered
    return Choice(chosen, tuple(rows), why, untrained)


def _simplest_of_the_best(found: list[_Tried]) -> _Tried:
    """The chain with the fewest steps of those that are not worse than the best one by more than chance.

    The lowest error of sixteen is so by luck in part, and every step costs time, and some of them RAM, in each pass.
    """
    best = min(found, key=lambda entry: float(np.mean(entry[2].errors)))
    close = [entry for entry in found if not compare(best[2], entry[2], None).worse(_CLOSE)]
    return min(close, key=lambda entry: (entry[1].chain.steps, float(np.mean(entry[2].errors))))


def _left(as_it_is: Prepared, rows: Sequence[Row], reason: str) -> Choice:
    """The choice of the model as it is."""
    return Choice(as_it_is, tuple(rows), reason, as_it_is)


def _nothing(count: int) -> tuple[np.ndarray, None, np.ndarray]:
    """Scores that tell nothing."""
    unknown = np.full(count, np.nan)
    return unknown, None, unknown


def _why(best: Row, as_it_is: Row) -> str:
    if best.error is not None and as_it_is.error is not None:
        return f"error {as_it_is.error:.3f} as it is, {best.error:.3f} prepared, on labelled samples"
    return f"predictions tell {as_it_is.information:.2f} nats of their sample as it is, {best.information:.2f} prepared"


def _judge(prepared: Prepared, seen: np.ndarray, labels: np.ndarray | None, loss: str) -> tuple[Row, Scores]:
    """Score a preparation on samples as its model sees them (int8 (n, ...)).

    Without labels the errors are minus each sample's part of the information.
    """
    trainer = Trainer(patch_for_adapting(prepared.model, loss))
    if labels is not None:
        losses, right = trainer.sample_scores(seen, labels)
        scores = Scores.of(losses, right)
        accuracy = None if right is None else float(np.mean(right))
        return Row(prepared.chain, float(np.mean(scores.errors)), None, accuracy), scores
    if not trainer.model.loss.classes:
        return Row(prepared.chain, None, None, None), Scores(*_nothing(len(seen)))
    parts = information(trainer.predict(seen).reshape(len(seen), -1))
    return Row(prepared.chain, None, float(np.mean(parts)), None), Scores(-parts, None, -parts)


def information(outputs: np.ndarray) -> np.ndarray:
    """Return each sample's part (n,), nats, of the information that predictions carry about their sample.

    ``outputs`` (n, classes): probabilities; one column: those of class 1.
    """
    p = np.clip(outputs.astype(np.float64), 0.0, 1.0)
    if p.shape[1] == 1:
        p = np.concatenate([1.0 - p, p], axis=1)
    p = p + _SMALLEST
    p /= p.sum(axis=1, keepdims=True)
    return np.asarray(np.sum(p * np.log(p / p.mean(axis=0)), axis=1))


def _classes(labels: np.ndarray | None, scores: Scores) -> np.ndarray | None:
    return None if labels is None or scores.right is None else labels.reshape(-1)


def _with_filter(
    preparer: Preparer,
    chosen: Prepared,
    x: np.ndarray,
    y: np.ndarray,
    loss: str,
    *,
    seed: int,
    no_worse: Callable[[Prepared], bool],
) -> tuple[Prepared, list[Row]]:
    """The same chain with the filter that is best after a short training, on halves; and a row for each.

    A filter must be better than none beyond chance, and its model ``no_worse`` than the one as it is before training.
    Without the simulator filters are not tried: it would take too long.
    """
    chains = list(preparer.filtered(chosen.chain))
    if not chains or not isinstance(Trainer(patch_for_adapting(chosen.model, loss)).engine, SimulatorEngine):
        return chosen, []
    seen = chosen.codes(preparer.codes(x)[:, 0])
    samples = into_folds(seen, y, _FOLDS, seed)
    passes = _EPOCHS * (len(seen) - len(seen) // _FOLDS)
    best, rows = chosen, []
    without: Scores | None = None
    lowest = float("inf")
    for chain in [chosen.chain, *chains]:
        prepared = chosen if chain == chosen.chain else preparer.prepare(chain)
        patched = patch_for_adapting(prepared.model, loss)
        try:
            score = join([score_fold(patched, samples, fold, seed, passes, {}) for fold in range(_FOLDS)])
        except ZoError:  # a short training has too few passes for weight perturbation
            return chosen, []
        scores = Scores.of(score.losses, score.hits)
        labels = None if score.hits is None else y.reshape(-1)[np.concatenate(samples.folds)]
        error = float(np.mean(scores.errors))
        rows.append(Row(prepared.chain, error, None, score.accuracy, trained=True))
        if without is None:
            without, lowest = scores, error
        elif error < lowest and compare(without, scores, labels).better(_DEMAND) and no_worse(prepared):
            best, lowest = prepared, error
    return best, rows


def plain(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Return rows as plain values, for JSON."""
    return [
        {
            "preparation": row.chain.name,
            "error": row.error,
            "information": row.information,
            "accuracy": row.accuracy,
            "after_short_training": row.trained,
        }
        for row in rows
    ]
