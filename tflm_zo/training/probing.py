# SPDX-License-Identifier: Apache-2.0
"""Forward passes that measure what learning rates a network bears, before a fit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tflm_zo.model.samples import spread_over
from tflm_zo.ops.command import LOSS, MEASURE, make_command
from tflm_zo.ops.step import Group, GroupMode
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.rates import (
    ExactSizes,
    GroupSizes,
    Rates,
    exact_rates,
    mean,
    perturbed_rate,
    standard_error,
)
from tflm_zo.training.recipe import Recipe

# On how many samples the exact layers are measured, and on how many of these each group of perturbed layers.
_EXACT_SAMPLES, _GROUP_SAMPLES = 32, 16

# One forward pass: input codes, target and command; returns the report (REPORT_DTYPE).
Pass = Callable[[np.ndarray, np.ndarray, np.ndarray], np.void]


def passes_to_measure(recipe: Recipe, hyper: Hyperparameters, samples: int) -> int:
    """Return how many forward passes :func:`measure_rates` takes."""
    groups = recipe.to_measure()
    if not groups and not _measures_exact(recipe, hyper):
        return 0
    a_group = [2 + (group.mode is GroupMode.NODES) for group in groups]
    return min(samples, _EXACT_SAMPLES) + min(samples, _GROUP_SAMPLES) * sum(a_group)


def measure_rates(
    model: PatchedModel,
    recipe: Recipe,
    hyper: Hyperparameters,
    run: Pass,
    codes: np.ndarray,
    targets: np.ndarray,
    *,
    epochs: int,
    seed: int,
) -> Rates:
    """Return the rates that ``recipe`` leaves open, for a fit of ``epochs``.

    ``run`` carries out a pass of the model, whose parameters and nodes are configured with the recipe's
    perturbations; ``codes`` and ``targets`` are the samples of the fit. Changes no weight.
    """
    groups = recipe.to_measure()
    if not groups and not _measures_exact(recipe, hyper):
        return Rates(head=hyper.head_lr, closed=hyper.head_lr)
    prober = _Prober(model, run, codes, targets, seed)
    exact = prober.exact()
    head, closed = exact_rates(model, exact, epochs)
    rates = Rates(hyper.exact_lr_scale * head, hyper.exact_lr_scale * closed)
    if hyper.head_lr is not None:
        rates = Rates(hyper.head_lr, hyper.head_lr)
    for group in groups:
        sizes = prober.group(group)
        for index in range(group.first, group.last):
            scale = _scale(model, recipe, group, index, sizes)
            rate = perturbed_rate(model, sizes, exact.gradient_energy, scale, hyper.queries)
            (rates.nodes if group.mode is GroupMode.NODES else rates.parameters)[index] = hyper.lr_scale * rate
    return rates


def _measures_exact(recipe: Recipe, hyper: Hyperparameters) -> bool:
    return bool(recipe.exact) and hyper.head_lr is None


def _scale(model: PatchedModel, recipe: Recipe, group: Group, index: int, sizes: GroupSizes) -> float:
    """What turns the square of a slope into the squared gradient of the weights, real units.

    Weights: a direction moves each by sigma codes of s, so (slope / sigma)^2 / s^2. All of the slope is taken for one
    parameter's, which makes the rate lower than it need be where a bias is perturbed beside its weights. Nodes: a
    direction moves an output channel by sigma codes of s_y, and of its n positions each is given the channel's
    whole gradient: slope^2 / (sigma s_y)^2 times the unit gradient's energy / n.
    """
    if group.mode is not GroupMode.NODES:
        setting, factors = recipe.parameters[index], model.parameters[index].factors
        return mean([float(f) for f in factors]) / max(setting.sigma, 1) ** 2
    positions = model.nodes[index].options.positions
    sigma = recipe.nodes[index].sigma
    unit = model.nodes[index].options.inverse_output_scale / max(sigma, 1)
    return sizes.unit_energy / positions * unit * unit


class _Prober:
    def __init__(self, model: PatchedModel, run: Pass, codes: np.ndarray, targets: np.ndarray, seed: int) -> None:
        self._model, self._run, self._seed = model, run, seed
        self._codes, self._targets = codes, targets
        closed = model.closed_nodes
        command = make_command(LOSS | MEASURE, node_first=closed.start, node_last=closed.stop)
        self._unperturbed = {i: self._measure(i, command) for i in self._samples(_EXACT_SAMPLES)}

    def exact(self) -> ExactSizes:
        reports = self._unperturbed.values()
        # The kernel is a ratio to the loss's gradient: samples without any gradient say nothing about it.
        kernels = [float(r["layer_energy"]) for r in reports if r["layer_energy"] > 0]
        return ExactSizes(
            feature_energy=mean([float(r["feature_energy"]) for r in reports]),
            closed_kernel=mean(kernels),
            gradient_energy=mean([float(r["gradient_energy"]) for r in reports]),
        )

    def group(self, group: Group) -> GroupSizes:
        nodes = group.mode is GroupMode.NODES
        members = {("node_first" if nodes else "first"): group.first, ("node_last" if nodes else "last"): group.last}
        slopes, curvatures, units = [], [], []
        for query, i in enumerate(self._samples(_GROUP_SAMPLES)):
            plus, minus = (
                float(self._measure(i, self._perturbed(sign=sign, query=query, **members))["loss"]) for sign in (1, -1)
            )
            slopes.append(((plus - minus) / 2.0) ** 2)
            curvatures.append(plus + minus - 2.0 * float(self._unperturbed[i]["loss"]))
            if nodes:
                command = make_command(MEASURE, **members)
                units.append(float(self._measure(i, command)["layer_energy"]))
        positions = 0
        if nodes:
            positions = min(self._model.nodes[n].options.positions for n in range(group.first, group.last))
        return GroupSizes(mean(slopes), mean(curvatures), standard_error(curvatures), mean(units), positions)

    def _samples(self, most: int) -> list[int]:
        return [int(i) for i in spread_over(len(self._codes), most)]

    def _perturbed(self, **fields: int) -> np.ndarray:
        return make_command(LOSS, seed=self._seed, **fields)

    def _measure(self, sample: int, command: np.ndarray) -> np.void:
        return self._run(self._codes[sample], self._targets[sample], command)
