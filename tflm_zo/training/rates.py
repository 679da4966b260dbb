# SPDX-License-Identifier: Apache-2.0
"""Learning rates that a network bears, from what a few forward passes measure of it.

A step of gradient descent on a layer's weights changes the logits z of its own sample by -rate K g, where g is the
loss's gradient dL/dz and K the layer's part of the tangent kernel, (dz/dw)(dz/dw)^T. The loss falls as long as
rate * k < 2 / h, where k is K along g and h the largest curvature of the loss in z: 1/2 for softmax cross-entropy,
2 / n for a mean squared error of n outputs. Both factors of the product are measured or known, so the rate needs no
constant of its own for a network's width, depth, scales or pooling; docs/design.md has the derivation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tflm_zo.ops import compiled
from tflm_zo.ops.options import LOSS_CROSS_ENTROPY, LOSS_ENTROPY
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.patched_model import PatchedModel

# Rate times kernel of the head, in parts of the limit of stability 2 / h (1 / h for a squared error, whose
# curvature is the same everywhere). Entropy follows its mean prediction, which must not be left behind.
_HEAD_PARTS: dict[int, float] = {LOSS_CROSS_ENTROPY: 0.75, LOSS_ENTROPY: 0.05}
_SQUARED_ERROR_PART = 0.5

# The stable rate follows from the steepest curvature, which cross-entropy has for a few samples only. Most networks
# learn sooner at higher rates, some are ruined by them. With a guard, which sees that and cuts the rates, the layers
# before the head begin at this many times the stable rate.
_BOLD = 3.0

# _BATCH: the rate of perturbed weights that a batch bears, in units of the best rate for single samples.
# _OTHER_SAMPLES: the weight of other samples' steps in the best rate of nodes, for a layer of one position. The
# results hardly change within a factor of two; chosen on ten models and three drifts of each.
_BATCH, _OTHER_SAMPLES = 2.0, 4.0

# Fits of more epochs than this get lower rates: less noise, less overfitting.
_FEW_EPOCHS = 12


@dataclass(frozen=True)
class Rates:
    """Learning rates of a fit: of the head, of the layers before it that have a closed form, of parameters (by
    index) trained by weight perturbation and of nodes (by number) trained by node perturbation. None or absent: nothing
    is trained so, or the rate is given."""

    head: float | None = None
    closed: float | None = None
    parameters: dict[int, float] = field(default_factory=dict)
    nodes: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ExactSizes:
    """What passes on a few samples measured of the exact layers, means in real units: squared length of the head's
    input; tangent kernel of the layers before it along dL/dz (0 without any); squared length of dL/dz."""

    feature_energy: float
    closed_kernel: float
    gradient_energy: float


@dataclass(frozen=True)
class GroupSizes:
    """What passes on a few samples measured of a group that is perturbed.

    ``slope_energy``: mean square of (L(+) - L(-)) / 2; ``curvature``: mean of L(+) + L(-) - 2 L, and ``deviation``, its
    standard error; of nodes ``unit_energy``, mean squared length of the gradient of an output channel's weights and
    bias whose dL/dy is 1 everywhere, real units, and ``positions``, that a channel has (0: weights).
    """

    slope_energy: float
    curvature: float
    deviation: float
    unit_energy: float = 0.0
    positions: int = 0


def head_limit(model: PatchedModel) -> float:
    """Return rate times kernel that the head is trained with."""
    if model.loss.kind in _HEAD_PARTS:
        return 4.0 * _HEAD_PARTS[model.loss.kind]
    return _SQUARED_ERROR_PART * model.loss.outputs


def fewer_for_long(model: PatchedModel, epochs: int) -> float:
    """Return the factor of the exact layers' rates in a fit of ``epochs``.

    With an input adapter, which leaves them less to do, it falls faster.
    """
    longer = min(1.0, _FEW_EPOCHS / epochs)
    return longer if any(p.layer == ADAPTER for p in model.parameters) else math.sqrt(longer)


def exact_rates(model: PatchedModel, sizes: ExactSizes, epochs: int) -> tuple[float, float]:
    """Return the learning rates of the head and of the layers before it.

    The head's kernel is 1 + |x|^2 of its own input x (the bias has an input of 1); the layers before it get a third of
    its limit, and no higher rate. The factors are flat within a factor of three around their best. A board that learns
    by itself measures its rates by the same formula (``kernels/exact_rates.h``).
    """
    limit = head_limit(model) * fewer_for_long(model, epochs)
    return compiled.exact_rates(limit, sizes.feature_energy, sizes.closed_kernel)


def under_guard(rates: Rates) -> Rates:
    """Return the rates that a fit with a guard begins with."""
    if rates.head is None or rates.closed is None:
        return rates
    return replace(rates, closed=min(rates.head, _BOLD * rates.closed))


def perturbed_rate(
    model: PatchedModel, sizes: GroupSizes, gradient_energy: float, scale: float, directions: int
) -> float:
    """Return the learning rate of weights or nodes that ``directions`` random directions train together.

    A step along one direction u, of -rate times the slope s, changes the loss by -rate s^2 + rate^2 s^2 c / 2, where c
    is the curvature along u, (L(+) + L(-) - 2 L) / sigma^2: 1 / c is the best rate. c is the mean curvature of all
    directions, not that of the gradient: what a direction has besides the gradient hardly moves the logits, which are
    few, and so does little harm, however many the weights are. (A bound by the number of dimensions d, as the ``dim``
    scaling n / (n + d - 1) of Zhao et al., ACM TODAES 30(5), 2025, is far below the best rate: docs/research.md.) It is
    taken a standard error higher than it was measured.

    Weights: the mean of n directions has an n-th of c, and (n - 1) / n of the curvature along the gradient, which the
    tangent kernel bounds: |dL/dw|^2 / |dL/dz|^2 / limit, with the mean square of the slopes for |dL/dw|^2. Single
    samples were measured, but a batch is stepped with, whose loss is less rough.

    Nodes: every sample has a direction and a step of its own. In a layer of many positions these average, in one of a
    few every step also moves the other samples, and the limit of layers that are updated exactly counts, too.

    ``scale`` turns what is measured into that of the weights, in real units. Without any slope nothing can be learned,
    and the rate is 0.
    """
    energy = sizes.slope_energy * scale
    curvature = (max(sizes.curvature, 0.0) + sizes.deviation) * scale
    if not energy > 0.0 or not gradient_energy > 0.0 or not curvature > 0.0 or not math.isfinite(curvature):
        return 0.0
    limit = head_limit(model) * gradient_energy / energy
    if sizes.positions > 0:
        before_head = compiled.limit_before_head(head_limit(model)) * gradient_energy / energy
        return _caution(model) / (curvature + _OTHER_SAMPLES / (before_head * sizes.positions))
    return _caution(model) * _BATCH * directions / (curvature + (directions - 1) / limit)


def _caution(model: PatchedModel) -> float:
    """The part of the best rate that the model's loss bears."""
    return _HEAD_PARTS[LOSS_ENTROPY] / _HEAD_PARTS[LOSS_CROSS_ENTROPY] if model.loss.kind == LOSS_ENTROPY else 1.0


def standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean of ``values``, added up in order; of one value its size."""
    if len(values) < 2:
        return abs(mean(values))
    middle = mean(values)
    return math.sqrt(mean([(v - middle) * (v - middle) for v in values]) / (len(values) - 1))


def mean(values: Sequence[float]) -> float:
    """Return the mean, added up in order, so that it is the same on every platform; 0 of nothing."""
    total: Any = 0.0
    for value in values:
        total += value
    return float(total) / len(values) if len(values) else 0.0
