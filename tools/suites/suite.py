# SPDX-License-Identifier: Apache-2.0
"""What a suite is: models and samples, the methods that train on them, and what they are compared with."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tflm_zo.adapter import add_adapter
from tflm_zo.model_file import load_model, save_model


@dataclass(frozen=True, eq=False)
class Method:
    """How the model is patched and fitted."""

    name: str
    patching: dict[str, Any]
    fitting: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Case:
    """An int8 model, and samples after a drift: codes int8 (n, ...) with class indices or, for "mse", real vectors.

    ``x_before`` and ``y_before`` are the test samples as they were before the drift.
    """

    name: str
    model: bytes
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    x_before: np.ndarray
    y_before: np.ndarray
    loss: str = "cross-entropy"

    @property
    def metric(self) -> str:
        """What is measured, a key of ``Trainer.evaluate``."""
        return "accuracy" if self.higher_is_better else "loss"

    @property
    def higher_is_better(self) -> bool:
        """Accuracy, or else an error."""
        return self.loss == "cross-entropy"

    @functools.cached_property
    def with_adapter(self) -> bytes:
        """The model behind an identity layer for its input's channels."""
        tree = load_model(self.model)
        add_adapter(tree)
        return save_model(tree)


@dataclass(frozen=True, eq=False)
class Suite:
    """Cases, the methods tried on each, and the back-propagation they are compared with.

    ``yardsticks`` are :class:`suites.yardsticks.Yardstick`; the first is the one to reach.
    """

    name: str
    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    yardsticks: tuple[Any, ...]
