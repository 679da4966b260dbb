# SPDX-License-Identifier: Apache-2.0
"""What a suite is: models and samples, the methods that train on them, and what they are compared with."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from suites.adaptation import adapted
from tflm_zo import realign
from tflm_zo.model.file import load_model, save_model
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.tuning.filter_choice import choose_filter

# What a training starts from: the model as it is, realigned to the drift without labels, or that with the filter in
# front that suits the labelled samples best, if any does.
AS_IT_IS, REALIGNED, FILTERED = "as it is", "realigned", "filtered, realigned"
# Or what the package's own choice of preparations makes of it.
PREPARED = "prepared"
# Passes of the training that the choice was made for.
_PREPARING = 5000


@dataclass(frozen=True, eq=False)
class Method:
    """How the model that a training starts from is patched and fitted.

    chain: prepared, patched and fitted by the package's ``adapt``, which chooses all of it.
    """

    name: str
    patching: dict[str, Any] = field(default_factory=dict)
    fitting: dict[str, Any] = field(default_factory=dict)
    start: str = AS_IT_IS
    chain: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """An int8 model, and samples after a drift: codes int8 (n, ...) with class indices or, for "mse", real vectors.

    ``x_before`` and ``y_before`` are the test samples as they were before the drift, ``reference`` unlabelled others.
    ``group``: what cases are averaged over, beside all of them; ``about``: the drift's parameters; ``folder``: where
    models that take long to prepare are kept.
    """

    name: str
    model: bytes
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    x_before: np.ndarray
    y_before: np.ndarray
    reference: np.ndarray
    loss: str = "cross-entropy"
    group: str = ""
    about: str = ""
    folder: Path | None = None

    @classmethod
    def cut(
        cls,
        name: str,
        model: bytes,
        *,
        before: tuple[np.ndarray, np.ndarray],
        after: tuple[np.ndarray, np.ndarray],
        adapt: int,
        test: int,
        loss: str = "cross-entropy",
    ) -> Case:
        """Take the first ``adapt`` of the same samples (x, y), before and after the drift, to adapt to, the last
        ``test`` to test on."""
        return cls(
            name=name,
            model=model,
            x=after[0][:adapt],
            y=after[1][:adapt],
            x_test=after[0][-test:],
            y_test=after[1][-test:],
            x_before=before[0][-test:],
            y_before=before[1][-test:],
            reference=before[0][:adapt],
            loss=loss,
        )

    @property
    def metric(self) -> str:
        """What is measured, a key of ``Trainer.evaluate``."""
        return "accuracy" if self.higher_is_better else "loss"

    @property
    def higher_is_better(self) -> bool:
        """Accuracy, or else an error."""
        return self.loss == "cross-entropy"

    def model_at(self, start: str) -> bytes:
        """Return the model that a training starts from."""
        if start == AS_IT_IS:
            return self.model
        if start == PREPARED:
            return adapted(self, _PREPARING, 0).prepared
        return self._filtered if start == FILTERED else self._realigned

    @functools.cached_property
    def filter(self) -> str:
        """The filter that suits the labelled samples best."""
        return next(iter(choose_filter(self.model, self.reference, self.x, self.y)))

    @functools.cached_property
    def _realigned(self) -> bytes:
        return realign(self.model, self.reference, self.x)

    @functools.cached_property
    def _filtered(self) -> bytes:
        return realign(self.model, self.reference, self.x, self.filter)

    def behind_front(self, start: str) -> Case:
        """Return the case whose samples went through what a preparation has put in front of the model, and whose model
        is what stands behind that.

        For back-propagation: it trains the layers of the model, not those in front.
        """
        tree = load_model(self.model_at(start))
        graph = tree.subgraphs[0]
        front = len(graph.operators) - len(load_model(self.model).subgraphs[0].operators)
        if front == 0:
            return replace(self, model=self.model_at(start))
        result = int(graph.operators[front - 1].outputs[0])
        behind, ends = graph.operators[front:], graph.outputs
        graph.operators, graph.outputs = graph.operators[:front], np.array([result], dtype=np.int32)
        through = save_model(tree)
        graph.operators, graph.outputs = behind, ends
        graph.inputs = np.array([result], dtype=np.int32)
        codes = [predict_plain(through, x) for x in (self.x, self.x_test)]
        return replace(self, model=save_model(tree), x=codes[0], x_test=codes[1])


@dataclass(frozen=True, eq=False)
class Suite:
    """Cases, the methods tried on each, and the back-propagation they are compared with.

    ``yardsticks`` are :class:`suites.yardsticks.Yardstick`; the first is the one to reach.
    """

    name: str
    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    yardsticks: tuple[Any, ...]
