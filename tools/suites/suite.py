# SPDX-License-Identifier: Apache-2.0
"""What a suite is: models and samples, the methods that train on them, and what they are compared with."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tflm_zo import realign
from tflm_zo.adapter import add_adapter
from tflm_zo.model_file import load_model, save_model


@dataclass(frozen=True, eq=False)
class Method:
    """How the model is patched and fitted; realigned: from the model realigned to the drift, without labels."""

    name: str
    patching: dict[str, Any]
    fitting: dict[str, Any] = field(default_factory=dict)
    realigned: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """An int8 model, and samples after a drift: codes int8 (n, ...) with class indices or, for "mse", real vectors.

    ``x_before`` and ``y_before`` are the test samples as they were before the drift, ``reference`` unlabelled others.
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

    def start(self, *, adapter: bool = False, realigned: bool = False) -> bytes:
        """Return the model that training starts from: behind an identity layer for its input's channels, realigned."""
        model = self._realigned if realigned else self.model
        if not adapter:
            return model
        tree = load_model(model)
        add_adapter(tree)
        return save_model(tree)

    @functools.cached_property
    def _realigned(self) -> bytes:
        return realign(self.model, self.reference, self.x)


@dataclass(frozen=True, eq=False)
class Suite:
    """Cases, the methods tried on each, and the back-propagation they are compared with.

    ``yardsticks`` are :class:`suites.yardsticks.Yardstick`; the first is the one to reach.
    """

    name: str
    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    yardsticks: tuple[Any, ...]
