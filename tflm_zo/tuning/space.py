# SPDX-License-Identifier: Apache-2.0
"""The hyperparameters that are worth searching for a model, and their ranges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tflm_zo.ops.options import KIND_BIAS
from tflm_zo.ops.step import MAX_QUERIES, GroupMode
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.recipe import Recipe, make_recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Traits:
    """How a model is trained, as far as it decides what to search: in closed form, by its input adapter, by the
    outputs of layers, by perturbed weights or biases (other than the adapter's), in how many groups; ``batches``:
    samples of a batch are not just trained on one after the other."""

    exact: bool
    adapter: bool
    nodes: bool
    weights: bool
    biases: bool
    groups: int
    batches: bool


def traits_of(model: PatchedModel, hyper: Hyperparameters) -> Traits:
    """Return the traits of ``model`` trained with the methods of ``hyper``; raises as :func:`make_recipe`."""
    recipe: Recipe = make_recipe(model, hyper)
    modes = [group.mode for group in recipe.groups]
    adapter = GroupMode.SAMPLE_DIRECTIONS in modes
    perturbed = [p for p in model.parameters if p.layer != ADAPTER and recipe.parameters.get(p.index, (0, 0.0))[0]]
    return Traits(
        exact=bool(recipe.exact),
        adapter=adapter,
        nodes=GroupMode.NODES in modes,
        weights=any(p.kind != KIND_BIAS for p in perturbed),
        biases=any(p.kind == KIND_BIAS for p in perturbed),
        groups=len(modes) - adapter,
        batches=bool(modes) or any(node.accumulates for node in model.nodes),
    )


@dataclass(frozen=True)
class Numbers:
    """Numbers from ``low`` to ``high``, even on a logarithmic scale; ``whole``: integers."""

    low: float
    high: float
    whole: bool = False

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=True)
        return FloatDistribution(self.low, self.high, log=True)


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[int | bool, ...]

    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter, what is tried for it, and the models that it matters to."""

    name: str
    values: Numbers | Choice
    matters: Callable[[Traits], bool]


# The default of each, which is the first trial, must be among its values.
DIMENSIONS: tuple[Dimension, ...] = (
    Dimension("batch_size", Numbers(4, 32, whole=True), lambda traits: traits.batches),
    # In units of the rates that a fit measures.
    Dimension("exact_lr_scale", Numbers(0.05, 20.0), lambda traits: traits.exact),
    Dimension("lr_scale", Numbers(0.01, 100.0), lambda traits: traits.weights or traits.biases or traits.nodes),
    Dimension("adapter_lr", Numbers(5e-4, 5e-2), lambda traits: traits.adapter),
    Dimension("queries", Numbers(1, 16, whole=True), lambda traits: traits.groups > 0),
    # Directions of a sample's own need both sides.
    Dimension("antithetic", Choice((True, False)), lambda traits: traits.groups > 0 and not traits.adapter),
    Dimension("layerwise", Choice((True, False)), lambda traits: traits.groups > 1),
    Dimension("sigma", Numbers(1, 4, whole=True), lambda traits: traits.weights),
    Dimension("bias_sigma", Numbers(10, 3000, whole=True), lambda traits: traits.biases),
    Dimension("node_sigma", Numbers(1, 32, whole=True), lambda traits: traits.nodes),
    Dimension("node_block", Choice((0, 2, 4, 8)), lambda traits: traits.nodes),
)


# A given rate leaves nothing to scale.
_SCALED = {"exact_lr_scale": {"head_lr"}, "lr_scale": {"lr", "node_lr"}}


class SearchSpace:
    """The dimensions that matter to one model. Names in ``fixed`` are left out, and scales of rates that are fixed."""

    def __init__(self, traits: Traits, fixed: Collection[str]) -> None:
        given = set(fixed)
        self._dimensions = tuple(
            d
            for d in DIMENSIONS
            if d.matters(traits) and d.name not in given and not _SCALED.get(d.name, set()) & given
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that are searched."""
        return tuple(dimension.name for dimension in self._dimensions)

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space for Optuna."""
        return {dimension.name: dimension.values.distribution() for dimension in self._dimensions}

    def defaults(self) -> dict[str, Any]:
        """The point of the space that the defaults are."""
        return {name: getattr(Hyperparameters, name) for name in self.names}

    def hyperparameters(self, point: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyperparameters of a point that differ from the defaults.

        ``fixed`` are those from outside the space. As many queries are taken as the ops can keep directions for.
        """
        values = dict(point)
        if "queries" in values:
            batch = values.get("batch_size", fixed.get("batch_size", Hyperparameters.batch_size))
            values["queries"] = max(1, min(values["queries"], MAX_QUERIES // batch))
        return {name: value for name, value in values.items() if value != getattr(Hyperparameters, name)}
