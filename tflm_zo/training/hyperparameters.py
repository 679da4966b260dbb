# SPDX-License-Identifier: Apache-2.0
"""What a fit can be told, with its defaults and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tflm_zo.errors import ZoError
from tflm_zo.ops.step import MAX_QUERIES
from tflm_zo.patching.adapter import UNIT as ADAPTER_UNIT
from tflm_zo.training.masks import MASKS

# Of the kernels (Configure): a larger one would leave the range of float32.
LARGEST_RATE = 1e30

METHODS = ("auto", "exact", "weights", "nodes", "frozen")
SCALINGS = ("none", "dim", "sqrt-dim")
LR_SCHEDULES = ("constant", "linear", "cosine", "step")

_LEAST_KEEP = 1e-6


@dataclass(frozen=True)
class Hyperparameters:
    """What a fit can be told; the defaults suit a drifted sensor and a few hundred samples.

    epochs, batch_size: as in Keras. passes: an upper bound of training passes; training ends, and the learning
    rates end their decay, where the first of the two bounds is reached. lr_schedule: how all learning rates fall,
    from the whole to the part ``lr_end`` of them: ``linear``, ``cosine`` (half a wave), ``step`` (a tenth of the
    difference is left after half of the steps, a hundredth after three quarters), or not at all (``constant``).

    method: how layers are trained, one name for all, or a dict of names and globs (first match counts; layers
    without one: auto). ``exact``: gradient in closed form (head, and layers that reach it by pooling alone);
    ``weights``: weight perturbation; ``nodes``: node perturbation; ``frozen``; ``auto``: exact where there is a
    closed form, weights for the input adapter and where only the bias is trained, nodes elsewhere.

    head_lr: learning rate of the exact layers; None: what the network bears (:mod:`tflm_zo.training.rates`), measured
    on the first samples, which costs a pass for each of them; less for fits of more than twelve epochs.
    adapter_lr: step of the input adapter's gains, of one size whatever the gradient (signed momentum).
    lr, sigma, bias_sigma: learning rate (None: measured as well, with a few passes for each layer) and
    perturbation (codes) of weight perturbation. node_lr, node_sigma:
    likewise of node perturbation; node_block: positions of a block of this side share a sign (0: the whole map).
    exact_lr_scale, lr_scale: multiply the measured rates of the exact layers, and of weight and node perturbation.
    adapter_sigma, adapter_bias_sigma: perturbation of the adapter's gains (codes of 1/32) and offsets (codes of 1/32
    input code).
    sigma, bias_sigma and the rates may be dicts by layer name; layers that a dict does not name are not trained.

    keep: the fraction of its elements, or of its output channels, that a layer trained by weights or nodes perturbs
    and updates (Zhao et al., ACM TODAES 30(5), 2025, section on sparse training); a number, or a dict by layer name
    (others: all). mask: which; ``random`` elements or ``random-channels``, drawn anew for each step, or those of the
    largest initial weights, ``top-k`` elements or ``top-k-channels`` (sum of squares). Nodes are masked by channel
    with either.
    gradient_scaling: ``dim`` multiplies the rates of a group by n / (n + d - 1), where n directions estimate the
    gradient of d numbers, ``sqrt-dim`` by the square root of that (same paper); not the adapter's, whose steps have
    one size.

    holdout: the part of the labelled samples that is not trained on, but tells whether training helps (None: by their
    number, see :mod:`tflm_zo.training.guard`; 0: none, and whatever the training ends with is kept; so it is with loss
    entropy, which has no labels to judge by).

    queries: directions per group, of each step (weights) or each sample (nodes, adapter: 1). antithetic: losses at
    +sigma and -sigma rather than at +sigma and the clean model. layerwise: perturb one layer at a time.
    """

    epochs: int = 20
    batch_size: int = 16
    passes: int | None = None
    lr_end: float = 0.0
    lr_schedule: str = "linear"
    method: str | Mapping[str, str] = "auto"
    queries: int = 4
    antithetic: bool = True
    layerwise: bool = True
    head_lr: float | None = None
    adapter_lr: float = 0.005
    adapter_sigma: int = ADAPTER_UNIT // 8
    adapter_bias_sigma: int = 2 * ADAPTER_UNIT
    lr: float | Mapping[str, float] | None = None
    sigma: int | Mapping[str, int] = 1
    bias_sigma: int | Mapping[str, int] = 100
    node_lr: float | Mapping[str, float] | None = None
    node_sigma: int | Mapping[str, int] = 5
    node_block: int = 0
    exact_lr_scale: float = 1.0
    lr_scale: float = 1.0
    holdout: float | None = None
    mask: str = "random"
    keep: float | Mapping[str, float] = 1.0
    gradient_scaling: str = "none"

    def check(self) -> None:
        """Raise :class:`ZoError` naming a value that is out of range."""
        for name, value, low, high in (
            ("epochs", self.epochs, 1, 1 << 24),
            ("batch_size", self.batch_size, 1, 1 << 16),
            ("queries", self.queries, 1, MAX_QUERIES),
            ("passes", 1 if self.passes is None else self.passes, 1, 1 << 40),
            ("node_block", self.node_block, 0, 1 << 16),
        ):
            if not (low <= value <= high and int(value) == value):
                raise ZoError(f"{name} is {value}: it must be a whole number from {low} to {high}")
        for name, rate in (
            ("head_lr", self.head_lr or 0.0),
            ("adapter_lr", self.adapter_lr),
            ("exact_lr_scale", self.exact_lr_scale),
            ("lr_scale", self.lr_scale),
        ):
            if not 0 <= rate < LARGEST_RATE:
                raise ZoError(f"{name} is {rate}: it must be 0 or more, and below {LARGEST_RATE:g}")
        if not 0 <= (self.holdout or 0.0) <= 0.5:
            raise ZoError(f"holdout is {self.holdout}: it must be from 0 to 0.5")
        if not 0 <= self.lr_end <= 1:
            raise ZoError(f"lr_end is {self.lr_end}: it must be from 0 to 1")
        names = [self.method] if isinstance(self.method, str) else list(self.method.values())
        chosen: list[tuple[str, str, tuple[str, ...]]] = [("method", name, METHODS) for name in names]
        chosen += [
            ("lr_schedule", self.lr_schedule, LR_SCHEDULES),
            ("mask", self.mask, MASKS),
            ("gradient_scaling", self.gradient_scaling, SCALINGS),
        ]
        for option, name, known in chosen:
            if name not in known:
                raise ZoError(f"{option} {name!r} is unknown: choose from {', '.join(known)}")
        for keep in self.keep.values() if isinstance(self.keep, Mapping) else [self.keep]:
            if not _LEAST_KEEP <= keep <= 1:
                raise ZoError(f"keep is {keep}: it must be from {_LEAST_KEEP:g} to 1")
