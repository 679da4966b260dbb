# SPDX-License-Identifier: Apache-2.0
"""What a suite is: models and samples, the methods that train on them, and what they are compared with."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tflm_zo import realign
from tflm_zo.front_layer import FRONT_OPERATORS
from tflm_zo.input_filter import NO_FILTER
from tflm_zo.model_file import load_model, save_model
from tflm_zo.simulator import SimModel
from tflm_zo.tuning.filter_choice import choose_filter

# What a training starts from: the model as it is, realigned to the drift without labels, or that with the filter in
# front that suits the labelled samples best, if any does.
AS_IT_IS, REALIGNED, FILTERED = "as it is", "realigned", "filtered, realigned"


@dataclass(frozen=True, eq=False)
class Method:
    """How the model that a training starts from is patched and fitted."""

    name: str
    patching: dict[str, Any]
    fitting: dict[str, Any] = field(default_factory=dict)
    start: str = AS_IT_IS


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

    def behind_filter(self) -> Case:
        """Return the case whose samples went through the filter, and whose model, realigned, stands behind it.

        For back-propagation: it trains the layers of the model, not the filter.
        """
        model = self.model_at(FILTERED)
        if self.filter == NO_FILTER:
            return replace(self, model=model)
        tree = load_model(model)
        graph = tree.subgraphs[0]
        result = int(graph.operators[FRONT_OPERATORS - 1].outputs[0])
        passed = SimModel(model)

        def codes(x: np.ndarray) -> np.ndarray:
            return passed.run_layers(0, FRONT_OPERATORS, {passed.inputs[0]: x}, [result]).tensors[result]

        graph.operators = graph.operators[FRONT_OPERATORS:]
        graph.inputs = np.array([result], dtype=np.int32)
        return replace(self, model=save_model(tree), x=codes(self.x), x_test=codes(self.x_test))


@dataclass(frozen=True, eq=False)
class Suite:
    """Cases, the methods tried on each, and the back-propagation they are compared with.

    ``yardsticks`` are :class:`suites.yardsticks.Yardstick`; the first is the one to reach.
    """

    name: str
    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    yardsticks: tuple[Any, ...]
