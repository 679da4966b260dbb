# SPDX-License-Identifier: Apache-2.0
"""Classes that a model knows nothing of yet, where their training begins, and known ones that samples leave out.

A new class (:mod:`tflm_zo.patching.widen`) begins as the mean of those that the model knows: its logit is then the mean
of theirs, so it is never the largest, and as the softmax sees differences of logits only, no class is nearer to it than
another. From there, and from few samples, the head's exact gradient comes as far as the best weights for these samples
do (docs/new-class.md); from weights of 0 and a low bias it goes astray first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflm_zo.model.class_names import class_label
from tflm_zo.ops.options import KIND_BIAS, KIND_RESIDUAL, KIND_WEIGHTS
from tflm_zo.patching.patched_model import Parameter, PatchedModel
from tflm_zo.training.engine import Engine, Labelled
from tflm_zo.training.training_state import Snapshot

# So many classes are named in a warning.
_SHOWN = 6


@dataclass(frozen=True)
class _Head:
    """The parameters of a head with an exact gradient, as a table of rows, one a class."""

    weights: Parameter
    bias: Parameter
    residual: Parameter

    def rows(self, snapshot: Snapshot) -> np.ndarray:
        """Return weights and biases, real values, float64 (classes, features + 1)."""
        classes = self.bias.count
        weights = snapshot.values[self.weights.index].reshape(classes, -1).astype(np.float64)
        biases = snapshot.values[self.bias.index].reshape(classes, 1).astype(np.float64)
        return np.hstack([weights * _scales(self.weights, classes), biases * _scales(self.bias, classes)])

    def set_row(self, snapshot: Snapshot, number: int, row: np.ndarray) -> None:
        """Set the row of a class to real values, rounded to codes."""
        classes = self.bias.count
        scale, bias_scale = (float(_scales(p, classes)[number, 0]) for p in (self.weights, self.bias))
        snapshot.values[self.weights.index].reshape(classes, -1)[number] = np.clip(np.rint(row[:-1] / scale), -127, 127)
        snapshot.values[self.bias.index][number] = round(row[-1] / bias_scale)
        snapshot.values[self.residual.index].reshape(classes, -1)[number] = 0


def _scales(parameter: Parameter, rows: int) -> np.ndarray:
    """Scales of a parameter's rows (float64, (rows, 1)): its factors are 1 / scale^2."""
    found = 1.0 / np.sqrt(parameter.factors.astype(np.float64))
    return np.broadcast_to(found.reshape(-1, 1), (rows, 1))


def _head_of(model: PatchedModel) -> _Head | None:
    """The head that learns classes by its weights, None without one."""
    found = {p.kind: p for p in model.parameters if p.entry.layer == model.head_layer}
    if model.loss.classes < 3 or not {KIND_WEIGHTS, KIND_BIAS, KIND_RESIDUAL} <= set(found):
        return None
    return _Head(found[KIND_WEIGHTS], found[KIND_BIAS], found[KIND_RESIDUAL])


def unknown_classes(engine: Engine) -> frozenset[int]:
    """Return the classes of which the present weights say nothing: weights of 0, or the mean of all others.

    Weights are asked for only where the model was patched with such classes.
    """
    head = _head_of(engine.model)
    if head is None or not any(_is_zero(head, head.weights.initial)):
        return frozenset()
    snapshot = _copy_of_weights(engine)
    rows = head.rows(snapshot)
    zero = _is_zero(head, snapshot.values[head.weights.index])
    found = set(np.flatnonzero(zero).tolist())
    for number in range(len(rows)):
        others = [i for i in range(len(rows)) if not zero[i] and not np.array_equal(rows[i], rows[number])]
        if number not in found and len(others) > 1:
            head.set_row(snapshot, number, _mean(rows, others))
            if np.array_equal(head.rows(snapshot)[number], rows[number]):
                found.add(number)
    return frozenset(found)


def _copy_of_weights(engine: Engine) -> Snapshot:
    """The present weights, to be changed."""
    found = engine.read()
    return Snapshot([np.array(values) for values in found.values], found.moments)


def _is_zero(head: _Head, weights: np.ndarray) -> np.ndarray:
    """Whether each row of weights is 0 (bool, (classes,))."""
    return ~np.any(weights.reshape(head.bias.count, -1), axis=1)


def _mean(rows: np.ndarray, which: list[int]) -> np.ndarray:
    """The mean of some rows, added up one after the other: the same bits everywhere."""
    total = np.zeros(rows.shape[1])
    for number in which:
        total = total + rows[number]
    return total / len(which)


def start_classes(engine: Engine, classes: frozenset[int], unknown: frozenset[int]) -> None:
    """Give ``classes``, all of them ``unknown``, the mean of the known classes' weights and biases."""
    head = _head_of(engine.model)
    if head is None or not classes:
        return
    snapshot = _copy_of_weights(engine)
    rows = head.rows(snapshot)
    mean = _mean(rows, [i for i in range(len(rows)) if i not in unknown])
    for number in sorted(classes):
        head.set_row(snapshot, number, mean)
    engine.write(snapshot)


def classes_in(model: PatchedModel, samples: Labelled) -> frozenset[int]:
    """Return the classes that labelled samples come from, none without classes or labels."""
    if not model.loss.classes or not model.loss.needs_labels:
        return frozenset()
    return frozenset(np.unique(samples.targets).tolist())


def known_but_missing(model: PatchedModel, present: frozenset[int], unknown: frozenset[int]) -> tuple[int, ...]:
    """Return the classes that the model knows and samples of the classes ``present`` leave out, in order."""
    every = range(max(model.loss.classes, 2)) if present else ()
    return tuple(number for number in every if number not in present and number not in unknown)


def missing_notes(model: PatchedModel, missing: tuple[int, ...]) -> list[str]:
    """Return what to tell of known classes without samples, as :func:`~tflm_zo.errors.warn_of_data` takes it."""
    named = [class_label(model.outputs.names, number) for number in missing]
    some = ", ".join(named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
    return [
        f"no samples of class{'es' if len(named) > 1 else ''} {some}, which the model knows: training on others makes "
        "it forget them; add a few samples of each (--reservoir keeps some from training to training)"
    ][: len(named)]
