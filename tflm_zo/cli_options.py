# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable

import click

from tflm_zo.recipe import Hyperparameters

_HYPERPARAMETERS = [
    click.option(
        "--epochs", default=Hyperparameters.epochs, show_default=True, help="Times the samples are gone through."
    ),
    click.option("--passes", type=int, help="At most this many forward passes."),
    click.option("--batch-size", default=Hyperparameters.batch_size, show_default=True),
    click.option(
        "--lr-end",
        default=Hyperparameters.lr_end,
        show_default=True,
        help="Part of all learning rates left at the end.",
    ),
    click.option(
        "--method",
        multiple=True,
        metavar="[GLOB=]METHOD",
        help="exact, weights, nodes, frozen or auto, for all layers or those of a name; may be repeated.",
    ),
    click.option(
        "--queries", default=Hyperparameters.queries, show_default=True, help="Directions a step or sample, and layer."
    ),
    click.option(
        "--antithetic/--forward-difference", default=Hyperparameters.antithetic, help="Two-sided or one-sided losses."
    ),
    click.option(
        "--layerwise/--all-at-once", default=Hyperparameters.layerwise, help="Perturb layer by layer, or all layers."
    ),
    click.option("--head-lr", type=float, help="Rate of the exact layers; default: found from the samples."),
    click.option(
        "--adapter-lr", default=Hyperparameters.adapter_lr, show_default=True, help="Step of the input adapter."
    ),
    click.option("--lr", default=Hyperparameters.lr, show_default=True, help="Rate of weight perturbation."),
    click.option(
        "--sigma", default=Hyperparameters.sigma, show_default=True, help="Perturbation of weights, in codes."
    ),
    click.option(
        "--bias-sigma", default=Hyperparameters.bias_sigma, show_default=True, help="Perturbation of biases, in codes."
    ),
    click.option("--node-lr", default=Hyperparameters.node_lr, show_default=True, help="Rate of node perturbation."),
    click.option(
        "--node-sigma", default=Hyperparameters.node_sigma, show_default=True, help="Perturbation of outputs, in codes."
    ),
    click.option(
        "--node-block",
        default=Hyperparameters.node_block,
        show_default=True,
        help="Side of blocks that share a sign; 0: all.",
    ),
    click.option("--seed", default=0, show_default=True),
]


def hyperparameter_options(command: Callable) -> Callable:
    """Give a command the options of :class:`~tflm_zo.recipe.Hyperparameters`, and ``--seed``."""
    for option in reversed(_HYPERPARAMETERS):
        command = option(command)
    return command


def methods_by_layer(options: tuple[str, ...]) -> str | dict[str, str]:
    """``--method nodes`` is for all layers, ``--method conv2d=nodes`` for those the glob matches."""
    pairs = [option.rsplit("=", 1) for option in options]
    if len(pairs) == 1 and len(pairs[0]) == 1:
        return pairs[0][0]
    return {pair[0] if len(pair) == 2 else "*": pair[-1] for pair in pairs}
