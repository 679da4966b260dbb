# SPDX-License-Identifier: Apache-2.0
"""The hyperparameters that are worth searching for a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from tflm_zo.ops.options import KIND_BIAS
from tflm_zo.ops.step import MAX_QUERIES, GroupMode
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.declaration import Choice, Numbers, Search, Traits, declarations
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.recipe import Recipe, make_recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


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


SEARCHES: dict[str, Search] = {
    name: declaration.search for name, _, declaration in declarations(Hyperparameters) if declaration.search
}


def _distribution(values: Numbers | Choice) -> BaseDistribution:
    """What a search tries, for Optuna."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, Choice):
        return CategoricalDistribution(values.values)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high), log=True)
    return FloatDistribution(values.low, values.high, log=True)


class SearchSpace:
    """The hyperparameters that matter to one model. Those in ``fixed`` are left out, and scales of rates that are
    fixed."""

    def __init__(self, traits: Traits, fixed: Collection[str]) -> None:
        given = set(fixed)
        self._searches = {
            name: search
            for name, search in SEARCHES.items()
            if search.matters(traits) and not given & {name, *search.unless}
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that are searched."""
        return tuple(self._searches)

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space for Optuna."""
        return {name: _distribution(search.values) for name, search in self._searches.items()}

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
