# SPDX-License-Identifier: Apache-2.0
"""What hyperparameters mean for each tensor and layer of a patched model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from tflm_zo.errors import ZoError
from tflm_zo.model.layer_names import listing, matching
from tflm_zo.ops.options import KIND_BIAS, KIND_WEIGHTS
from tflm_zo.ops.step import Exact, Group, GroupMode
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.adapter import UNIT as ADAPTER_UNIT
from tflm_zo.patching.patched_model import Parameter, PatchedModel
from tflm_zo.training.declaration import LARGEST_RATE, declarations
from tflm_zo.training.gradient_scaling import scale_rates
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.masks import Mask, channel_mask
from tflm_zo.training.rates import Rates

_Value = TypeVar("_Value", int, float)

# Offsets are learned in units of this many input codes, which makes them as quick as gains.
_ADAPTER_OFFSET_UNIT = 38


class ParameterSetting(NamedTuple):
    """Perturbation in codes, learning rate (None: to be measured) and mask of a parameter."""

    sigma: int
    rate: float | None
    mask: Mask = Mask()


class NodeSetting(NamedTuple):
    """Perturbation in output codes, block, learning rate (None: to be measured) and mask of a node."""

    sigma: int
    block: int
    rate: float | None
    mask: Mask = Mask()


@dataclass
class Recipe:
    """Hyperparameters resolved for one patched model.

    ``parameters`` holds settings by parameter index, ``nodes`` by node number; ``groups`` is what a step perturbs, in
    the order of the schedule.
    """

    exact: Exact
    parameters: dict[int, ParameterSetting] = field(default_factory=dict)
    nodes: dict[int, NodeSetting] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def with_rates(self, rates: Rates) -> Recipe:
        """Return the recipe with the rates that were to be measured; what has none is not trained."""
        parameters = {
            i: s._replace(rate=rates.parameters.get(i, 0.0)) if s.rate is None else s
            for i, s in self.parameters.items()
        }
        nodes = {}
        for number, node in self.nodes.items():
            measured = (rates.closed or 0.0) if node.sigma == 0 else rates.nodes.get(number, 0.0)
            nodes[number] = node._replace(rate=measured) if node.rate is None else node
        return replace(self, parameters=parameters, nodes=nodes)

    def to_measure(self) -> list[Group]:
        """The groups with rates that are to be measured."""
        return [g for g in self.groups if any(self._is_measured(g, i) for i in range(g.first, g.last))]

    def settings(self, group: Group) -> dict[int, Any]:
        """The settings that hold those of the group: of nodes, or of parameters."""
        return self.nodes if group.mode is GroupMode.NODES else self.parameters

    def _is_measured(self, group: Group, index: int) -> bool:
        setting = self.settings(group).get(index)
        return setting is not None and setting.rate is None and setting.sigma != 0

    def passes_a_sample(self, antithetic: bool) -> int:
        """Forward passes a step takes for each of its samples."""
        count = sum(group.passes_a_sample(antithetic) for group in self.groups)
        # The exact update rides on the last pass of sample directions and of nodes.
        rides = bool(self.groups) and self.groups[-1].mode is not GroupMode.BATCH_DIRECTIONS
        return count + (1 if self.exact and not rides else 0)


def make_recipe(model: PatchedModel, hyper: Hyperparameters) -> Recipe:
    """Return what ``hyper`` means for ``model``.

    Raises :class:`ZoError` if a value is out of range, names a layer that is not trained, asks a layer for a
    method it has not, or leaves nothing to train.
    """
    hyper.check()
    hyper = _by_shown_names(model, hyper)
    layers = _by_layer(model)
    methods = layer_methods(model, hyper)
    recipe = Recipe(_exact(model, layers, methods))
    for name, parameters in layers.items():
        _set_parameters(recipe, name, parameters, methods[name], hyper)
    _set_nodes(recipe, model, methods, hyper)
    _set_groups(recipe, model, layers, methods, hyper)
    if hyper.gradient_scaling != "none":
        for group in recipe.groups:
            scale_rates(recipe.settings(group), group, model, hyper)
    if not recipe.groups and not recipe.exact:
        raise ZoError("nothing would be trained: all layers are frozen")
    return recipe


def layer_methods(model: PatchedModel, hyper: Hyperparameters) -> dict[str, str]:
    """Return how each trainable layer is trained: exact, weights, nodes or frozen.

    Raises :class:`ZoError` if a layer cannot be trained as ``hyper`` asks.
    """
    hyper = _by_shown_names(model, hyper)
    return {name: _method(model, name, ps, hyper) for name, ps in _by_layer(model).items()}


def _by_layer(model: PatchedModel) -> dict[str, list[Parameter]]:
    layers: dict[str, list[Parameter]] = {}
    for parameter in model.parameters:
        if parameter.in_model:
            layers.setdefault(parameter.layer, []).append(parameter)
    return layers


def _by_shown_names(model: PatchedModel, hyper: Hyperparameters) -> Hyperparameters:
    """Return ``hyper`` with the layers that it names, in whichever way, called by the names that are shown."""
    changed: dict[str, Any] = {}
    for option in (name for name, _, declaration in declarations(Hyperparameters) if declaration.by_layer):
        value = getattr(hyper, option)
        if not isinstance(value, Mapping):
            continue
        values: dict[str, Any] = {}
        for reference, wanted in value.items():
            found = matching(model.labels, reference)
            if not found:
                raise ZoError(
                    f"{option} names {reference!r}, which is not trained; the trained layers (operators) are: "
                    f"{listing(model.labels)}"
                )
            for position in sorted(found):
                values.setdefault(model.labels[position].name, wanted)
        changed[option] = values
    return replace(hyper, **changed)


def possible_methods(model: PatchedModel) -> dict[str, tuple[str, ...]]:
    """Return by what each trainable layer could be trained, the best first."""
    return {
        name: tuple(m for m in ("exact", "nodes", "weights") if m in _possible(model, name, parameters))
        for name, parameters in _by_layer(model).items()
    }


def _possible(model: PatchedModel, layer: str, parameters: list[Parameter]) -> list[str]:
    is_head = parameters[0].entry.layer == model.head_layer
    possible = ["frozen"]
    if is_head or any(n.layer == layer and n.closed_form for n in model.nodes):
        possible.append("exact")
    if any(n.layer == layer and not n.closed_form for n in model.nodes):
        possible.append("nodes")
    if not (is_head and _trains_weights(parameters)):  # an exact head's have no headroom
        possible.append("weights")
    return possible


def _method(model: PatchedModel, layer: str, parameters: list[Parameter], hyper: Hyperparameters) -> str:
    chosen = hyper.method if isinstance(hyper.method, str) else "auto"
    if isinstance(hyper.method, Mapping):
        chosen = hyper.method.get(layer, "auto")
    possible = _possible(model, layer, parameters)
    if chosen == "auto":
        order = ["exact", "nodes", "weights"] if _trains_weights(parameters) else ["exact", "weights"]
        if layer == ADAPTER:
            order = ["weights"]
        return next(m for m in order if m in possible)
    if chosen not in possible:
        if isinstance(hyper.method, str):  # one method for all: the head has its own
            return "exact" if parameters[0].entry.layer == model.head_layer else "frozen"
        raise ZoError(
            f"layer {layer} cannot be trained by {chosen!r} in this patched model; it can by: {', '.join(possible)}"
        )
    return chosen


def _trains_weights(parameters: Sequence[Parameter]) -> bool:
    """Whether a layer of these parameters trains more than its bias."""
    return any(p.kind == KIND_WEIGHTS for p in parameters)


def _exact(model: PatchedModel, layers: Mapping[str, list[Parameter]], methods: Mapping[str, str]) -> Exact:
    exact = {layers[name][0].entry.layer for name, method in methods.items() if method == "exact"}
    if not exact:
        return Exact.NOTHING
    return Exact.ALL if model.head_layer in exact else Exact.BEFORE_HEAD


def _set_parameters(
    recipe: Recipe, layer: str, parameters: list[Parameter], method: str, hyper: Hyperparameters
) -> None:
    for parameter in parameters:
        sigma: int = 0
        rate: float | None = 0.0
        bias = parameter.kind == KIND_BIAS
        if method == "weights" and layer == ADAPTER:
            sigma = hyper.adapter_bias_sigma if bias else hyper.adapter_sigma
            # The bias scale is the input's scale / UNIT.
            offset = _ADAPTER_OFFSET_UNIT * ADAPTER_UNIT / math.sqrt(float(parameter.factors[0]))
            rate = hyper.adapter_lr * (offset if bias else 1.0)
        elif method == "weights":
            sigma = _of_layer(hyper.bias_sigma if bias else hyper.sigma, layer)
            rate = None if hyper.lr is None else _of_layer(hyper.lr, layer)
        if not (0 <= sigma <= parameter.entry.headroom and int(sigma) == sigma):
            raise ZoError(
                f"{parameter.name}: sigma is {sigma}; it must be whole codes from 0 to {parameter.entry.headroom}"
            )
        if rate is not None and not 0 <= rate < LARGEST_RATE:
            raise ZoError(f"{parameter.name}: lr is {rate}; it must be 0 or more")
        mask = channel_mask(hyper.keep, layer) if method == "weights" and layer != ADAPTER else Mask()
        recipe.parameters[parameter.index] = ParameterSetting(int(sigma), None if rate is None else float(rate), mask)


def _set_nodes(recipe: Recipe, model: PatchedModel, methods: Mapping[str, str], hyper: Hyperparameters) -> None:
    for node in model.nodes:
        sigma: int = 0
        rate: float | None = 0.0
        if node.closed_form:
            # A given rate of the head is that of all exact layers.
            rate = hyper.head_lr if methods[node.layer] == "exact" else 0.0
        elif methods[node.layer] == "nodes":
            sigma = _of_layer(hyper.node_sigma, node.layer)
            rate = None if hyper.node_lr is None else _of_layer(hyper.node_lr, node.layer)
        mask = channel_mask(hyper.keep, node.layer) if sigma else Mask()
        recipe.nodes[node.number] = NodeSetting(int(sigma), hyper.node_block, rate, mask)


def _set_groups(
    recipe: Recipe,
    model: PatchedModel,
    layers: Mapping[str, list[Parameter]],
    methods: Mapping[str, str],
    hyper: Hyperparameters,
) -> None:
    ranges = [
        (ps[0].index, ps[-1].index + 1) for name, ps in layers.items() if methods[name] == "weights" and name != ADAPTER
    ]
    if ranges and not hyper.layerwise:
        # Layers between them that are not perturbed have a sigma of 0.
        ranges = [(ranges[0][0], ranges[-1][1])]
    for first, last in ranges:
        recipe.groups.append(Group(GroupMode.BATCH_DIRECTIONS, first, last, hyper.queries))
    if methods.get(ADAPTER) == "weights":
        ps = layers[ADAPTER]
        recipe.groups.append(Group(GroupMode.SAMPLE_DIRECTIONS, ps[0].index, ps[-1].index + 1, 1))
    numbers = [n.number for n in model.nodes if not n.closed_form and methods[n.layer] == "nodes"]
    if numbers and not hyper.layerwise:
        recipe.groups.append(Group(GroupMode.NODES, numbers[0], numbers[-1] + 1, hyper.queries))
    elif numbers:
        recipe.groups += [Group(GroupMode.NODES, n, n + 1, hyper.queries) for n in numbers]


def _of_layer(value: _Value | Mapping[str, _Value], layer: str) -> _Value | int:
    return value.get(layer, 0) if isinstance(value, Mapping) else value
