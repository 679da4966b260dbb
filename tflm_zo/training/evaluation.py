# SPDX-License-Identifier: Apache-2.0
"""How good a patched model is on samples."""

from __future__ import annotations

import numpy as np

from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.engine import Engine, Labelled
from tflm_zo.training.step_totals import sum_in_order


def scored(model: PatchedModel, samples: Labelled) -> bool:
    """Whether the labels are classes, and known, so that right answers can be counted."""
    return model.loss.classes > 0 and bool(np.all(samples.targets >= 0))


def sample_scores(engine: Engine, samples: Labelled) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the loss of each sample (float32 (n,)) and, for one known class a sample, whether the model's int8 output
    is right (bool (n,), else None); a pass for each.

    A squared error is of the labels as they are, not as the codes that training compares with.
    """
    if engine.model.loss.classes == 0 and samples.labels is not None:
        return samples.labels.squared_errors(_outputs(engine, samples)).astype(np.float32), None
    losses, right = _scores(engine, samples)
    return losses, right[:, 0] if right is not None and engine.model.loss.counts_right else None


def mean_scores(engine: Engine, samples: Labelled) -> dict[str, float]:
    """Return the mean ``loss`` and, for known classes, the ``accuracy``, of a map that of its cells; of a model patched
    for a squared error also the accuracy, where its labels are classes or flags
    (:meth:`~tflm_zo.model.labels.Labels.measure`)."""
    if engine.model.loss.classes == 0 and samples.labels is not None:
        outputs = _outputs(engine, samples)
        scores = {"loss": float(np.mean(samples.labels.squared_errors(outputs)))}
        return scores | {k: v for k, v in samples.labels.measure(outputs).items() if k != "mean_squared_error"}
    losses, right = _scores(engine, samples)
    scores = {"loss": sum_in_order(losses) / len(losses)}
    if right is not None:
        scores["accuracy"] = int(np.sum(right)) / right.size
    return scores


def _scores(engine: Engine, samples: Labelled) -> tuple[np.ndarray, np.ndarray | None]:
    """Losses (n,) and, for known classes, what the output is right on (n, cells)."""
    found = engine.evaluate(samples)
    if found.classes is None or not scored(engine.model, samples):
        return found.losses, None
    return found.losses, found.classes.reshape(len(samples), -1) == samples.targets


def _outputs(engine: Engine, samples: Labelled) -> np.ndarray:
    return engine.model.output.reals(engine.predict(samples.codes))
