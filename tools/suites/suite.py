# SPDX-License-Identifier: Apache-2.0
"""What a suite is: models and samples, the methods that train on them, and what they are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from suites.case import Case
from suites.float_network import Setting
from suites.starts import AS_IT_IS


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


@dataclass(frozen=True)
class Yardstick:
    """A form of back-propagation, and the settings to choose from.

    adapter: with an identity layer for the input's channels in front, trained too. start: as a method's.
    folds: settings are compared on ``folds`` held-out parts of ``parts`` that the samples are cut into. limited: only
    the layers that can be trained in the RAM of the default patch (:func:`suites.memory.first_affordable_layer`).
    """

    name: str
    grid: tuple[Setting, ...]
    int8: bool = False
    adapter: bool = False
    start: str = AS_IT_IS
    parts: int = 3
    folds: int = 3
    limited: bool = False


@dataclass(frozen=True, eq=False)
class Suite:
    """Cases, the methods tried on each, and the back-propagation they are compared with.

    Of the ``yardsticks`` the first is the one to reach.
    """

    name: str
    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    yardsticks: tuple[Yardstick, ...]
