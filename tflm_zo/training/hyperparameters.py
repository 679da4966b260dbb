# SPDX-License-Identifier: Apache-2.0
"""What a fit can be told: each hyperparameter with its range, default, unit, help and search, declared once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tflm_zo.errors import ZoError
from tflm_zo.ops.step import MAX_QUERIES
from tflm_zo.patching.adapter import UNIT as ADAPTER_UNIT
from tflm_zo.training.declaration import (
    Choice,
    Codes,
    Numbers,
    OneOf,
    Part,
    Rate,
    Search,
    Switch,
    Whole,
    declarations,
    declare,
    default_text,
)
from tflm_zo.training.lr_schedule import LR_SCHEDULES

METHODS = ("auto", "exact", "weights", "nodes", "frozen")
SCALINGS = ("none", "dim", "sqrt-dim")

_MEASURED = "measured on the first samples"

# Those of earlier versions, and what to do instead.
REMOVED = {"mask": "leave it out; keep alone now draws that part of the output channels"}


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """What a fit can be told; the defaults suit a drifted sensor and a few hundred samples."""

    epochs: int = declare(20, Whole(1, 1 << 24), "Times the samples are gone through.")
    passes: int | None = declare(
        None,
        Whole(1, 1 << 40),
        "At most this many forward passes; training ends, and learning rates end their decay, where this bound or "
        "that of the epochs is reached first.",
        none="no bound",
    )
    batch_size: int = declare(
        16,
        Whole(1, 1 << 16),
        "Samples of a step.",
        search=Search(Numbers(4, 32, whole=True), lambda traits: traits.batches),
    )
    method: str | Mapping[str, str] = declare(
        "auto",
        OneOf(METHODS),
        "How layers are trained, all or those named (the first name that fits counts; others: auto). exact: "
        "gradient in closed form; weights, nodes: weight or node perturbation; frozen: not; auto: exact where there "
        "is a closed form, weights for the input adapter and where only the bias is trained, nodes elsewhere.",
        by_layer=True,
    )
    holdout: float | None = declare(
        None,
        Part(0, 0.5),
        "Part of the labelled samples that is not trained on, but tells whether training helps; 0: none, and whatever "
        "the training ends with is kept.",
        none="by their number",
    )

    lr_schedule: str = declare(
        "linear",
        OneOf(LR_SCHEDULES),
        "How all learning rates fall, from the whole to the part lr_end of them. constant: not at all; linear: on a "
        "line; cosine: by half a wave; step: to a tenth of the difference after half of the steps, and a hundredth "
        "after three quarters.",
    )
    lr_end: float = declare(0.0, Part(0, 1), "Part of all learning rates that is left at the end.")
    head_lr: float | None = declare(
        None,
        Rate(),
        "Learning rate of the exact layers.",
        none=_MEASURED,
    )
    exact_lr_scale: float = declare(
        1.0,
        Rate(),
        "Multiplies the measured rates of the exact layers.",
        search=Search(Numbers(0.05, 20.0), lambda traits: traits.exact, unless=("head_lr",)),
    )
    lr: float | Mapping[str, float] | None = declare(
        None,
        Rate(),
        "Learning rate of weight perturbation.",
        none=_MEASURED,
        by_layer=True,
    )
    node_lr: float | Mapping[str, float] | None = declare(
        None,
        Rate(),
        "Learning rate of node perturbation.",
        none=_MEASURED,
        by_layer=True,
    )
    lr_scale: float = declare(
        1.0,
        Rate(),
        "Multiplies the measured rates of weight and node perturbation.",
        search=Search(
            Numbers(0.01, 100.0),
            lambda traits: traits.weights or traits.biases or traits.nodes,
            unless=("lr", "node_lr"),
        ),
    )
    adapter_lr: float = declare(
        0.005,
        Rate(),
        "Step of the input adapter's gains, of one size whatever the gradient (signed momentum).",
        search=Search(Numbers(5e-4, 5e-2), lambda traits: traits.adapter),
    )
    gradient_scaling: str = declare(
        "none",
        OneOf(SCALINGS),
        "What given rates of weight and node perturbation are multiplied by where n directions perturb d numbers. "
        "dim: n / (n + d - 1); sqrt-dim: the square root of that; none: 1.",
    )

    queries: int = declare(
        4,
        Whole(1, MAX_QUERIES),
        "Directions of a step (weights) or a sample (nodes), for each group; the adapter has one.",
        search=Search(Numbers(1, 16, whole=True), lambda traits: traits.groups > 0),
    )
    antithetic: bool = declare(
        True,
        Switch("antithetic", "forward-difference"),
        "Losses at +sigma and -sigma, or at +sigma and of the clean model.",
        # Directions of a sample's own need both sides.
        search=Search(Choice((True, False)), lambda traits: traits.groups > 0 and not traits.adapter),
    )
    layerwise: bool = declare(
        True,
        Switch("layerwise", "all-at-once"),
        "Perturb one layer at a time, or all together.",
        search=Search(Choice((True, False)), lambda traits: traits.groups > 1),
    )
    sigma: int | Mapping[str, int] = declare(
        1,
        Codes(),
        "Perturbation of weights.",
        unit="codes",
        by_layer=True,
        search=Search(Numbers(1, 4, whole=True), lambda traits: traits.weights),
    )
    bias_sigma: int | Mapping[str, int] = declare(
        100,
        Codes(),
        "Perturbation of biases.",
        unit="codes",
        by_layer=True,
        search=Search(Numbers(10, 3000, whole=True), lambda traits: traits.biases),
    )
    node_sigma: int | Mapping[str, int] = declare(
        5,
        Whole(0, 127),
        "Perturbation of outputs.",
        unit="codes",
        by_layer=True,
        search=Search(Numbers(1, 32, whole=True), lambda traits: traits.nodes),
    )
    node_block: int = declare(
        0,
        Whole(0, 1 << 16),
        "Side of the blocks of an output map that share a sign; 0: the whole map is one.",
        unit="positions",
        search=Search(Choice((0, 2, 4, 8)), lambda traits: traits.nodes),
    )
    adapter_sigma: int = declare(
        ADAPTER_UNIT // 8,
        Codes(),
        "Perturbation of the adapter's gains.",
        unit=f"codes of 1/{ADAPTER_UNIT}",
    )
    adapter_bias_sigma: int = declare(
        2 * ADAPTER_UNIT,
        Codes(),
        "Perturbation of the adapter's offsets.",
        unit=f"1/{ADAPTER_UNIT} input codes",
    )
    keep: float | Mapping[str, float] = declare(
        1.0,
        Part(1e-6, 1),
        "Part of a layer's output channels that weights or nodes perturb and update, drawn anew for each step.",
        by_layer=True,
    )

    def check(self) -> None:
        """Raise :class:`ZoError` naming a value that is out of range."""
        for name, _, declaration in declarations(type(self)):
            declaration.check(name, getattr(self, name))


def check_names(names: Iterable[str], besides: Iterable[str] = ()) -> None:
    """Raise :class:`ZoError` for a name that is no hyperparameter, nor one of ``besides``."""
    known = {name for name, _, _ in declarations(Hyperparameters)} | set(besides)
    for name in sorted(set(names) - known):
        if name in REMOVED:
            raise ZoError(f"{name} has gone: {REMOVED[name]}")
        raise ZoError(f"no hyperparameter is called {name!r}; there are {', '.join(sorted(known))}")


def _described() -> Iterable[str]:
    for name, default, declaration in declarations(Hyperparameters):
        unit = f"in {declaration.unit}; " if declaration.unit else ""
        by_layer = ", or a dict by layer name" if declaration.by_layer else ""
        words = f"{unit}{declaration.range}{by_layer}; default: {default_text(default, declaration)}"
        yield f"{name}: {declaration.text.rstrip('.')} ({words})."


# What `help()` shows.
Hyperparameters.__doc__ = "\n\n".join([Hyperparameters.__doc__ or "", *_described()])
