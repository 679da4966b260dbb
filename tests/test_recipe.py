# SPDX-License-Identifier: Apache-2.0
"""What hyperparameters mean for a model: learning-rate schedules, gradient scaling, masks, sigmas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import small_models
from hypothesis import given
from hypothesis import strategies as st

from tflm_zo import ZoError, patch
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training.fit_plan import FitPlan
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.lr_schedule import LR_SCHEDULES
from tflm_zo.training.masks import RANDOM_CHANNELS
from tflm_zo.training.recipe import Recipe, make_recipe

MODEL = read_patched(patch(small_models.small_model(), "all", adapter=True))
COLLECTED = read_patched(patch(small_models.small_model(), "all", adapter=True, accumulate=True))


def recipe(model: Any = MODEL, **hyper: Any) -> Recipe:
    return make_recipe(model, Hyperparameters(**hyper))


def rates(made: Recipe, layer: str) -> list[float | None]:
    return [made.parameters[p.index].rate for p in MODEL.parameters if p.layer == layer and p.in_model]


@given(
    schedule=st.sampled_from(LR_SCHEDULES),
    lr_end=st.floats(0, 1),
    steps=st.integers(1, 5000),
)
def test_rates_fall_from_the_whole_to_their_end(schedule: str, lr_end: float, steps: int) -> None:
    hyper = Hyperparameters(epochs=steps, batch_size=1, lr_schedule=schedule, lr_end=lr_end)
    plan = FitPlan(1, hyper, 1, 0)
    scales = np.array([plan.rate_scale(step) for step in (*range(0, steps, 1 + steps // 50), steps)])
    assert scales[0] == 1.0 and np.all(np.diff(scales) <= 1e-15)
    left = {"constant": 1.0, "linear": lr_end, "cosine": lr_end, "step": lr_end + 0.01 * (1 - lr_end)}
    assert scales[-1] == pytest.approx(left[schedule], abs=1e-12)
    if schedule == "cosine":
        for step in range(0, steps, 1 + steps // 50):
            wanted = lr_end + (1 - lr_end) * (1 + math.cos(math.pi * step / steps)) / 2
            assert plan.rate_scale(step) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(("scaling", "power"), [("dim", 1.0), ("sqrt-dim", 0.5)])
def test_gradient_scaling_of_weights(scaling: str, power: float) -> None:
    """d: the elements of a layer that can be perturbed, or of all layers at once; the adapter is left alone."""
    hyper: dict[str, Any] = {"method": "weights", "queries": 3, "lr": 0.1}
    sizes = {
        layer: sum(
            np.sum(np.abs(p.initial.astype(int)) <= np.iinfo(p.dtype).max - p.entry.headroom)
            for p in MODEL.parameters
            if p.layer == layer
        )
        for layer in ("stem", "spread")
    }
    for layerwise in (True, False):
        made = recipe(gradient_scaling=scaling, layerwise=layerwise, **hyper)
        for layer, size in sizes.items():
            d = size if layerwise else sum(sizes.values())
            assert rates(made, layer) == pytest.approx([0.1 * (3 / (3 + d - 1)) ** power] * 2)
        assert rates(made, ADAPTER) == rates(recipe(**hyper), ADAPTER)
    half = recipe(gradient_scaling=scaling, keep={"stem": 0.5}, **hyper)
    assert rates(half, "stem") == pytest.approx([0.1 * (3 / (3 + sizes["stem"] / 2 - 1)) ** power] * 2)


def test_gradient_scaling_of_nodes() -> None:
    """d: the signs; a batch that is collected averages over the directions of all its samples."""
    stem = next(n for n in MODEL.nodes if n.layer == "stem")
    shape = stem.options.shape
    outputs = shape.output_height * shape.output_width * shape.output_channels
    blocks = -(-shape.output_height // 3) * -(-shape.output_width // 3) * shape.output_channels
    for model, directions in ((MODEL, 4), (COLLECTED, 4 * 8)):
        for block, d in ((0, shape.output_channels), (1, outputs), (3, blocks)):
            hyper: dict[str, Any] = {"node_lr": 0.2, "node_block": block, "batch_size": 8}
            made = recipe(model, gradient_scaling="dim", **hyper)
            assert made.nodes[stem.number].rate == pytest.approx(0.2 * directions / (directions + d - 1))


def test_masks_by_layer() -> None:
    everything = recipe(method="weights")
    assert all(setting.mask == (0, 0) for setting in everything.parameters.values())
    assert everything == recipe(method="weights", keep=1)
    made = recipe(method={"stem": "weights"}, keep={"stem": 0.5})
    for p in MODEL.parameters:
        if p.in_model:
            assert made.parameters[p.index].mask == ((RANDOM_CHANNELS, 0x3F00) if p.layer == "stem" else (0, 0))
    assert all(node.mask.kind == 0 for node in made.nodes.values())
    by_nodes = recipe(method="nodes", keep=0.5).nodes
    masked = [n.number for n in MODEL.nodes if by_nodes[n.number].mask.kind == RANDOM_CHANNELS]
    assert masked == [n.number for n in MODEL.nodes if not n.closed_form]


def test_sigmas_of_the_adapter() -> None:
    gain, offset = (p.index for p in MODEL.parameters if p.layer == ADAPTER)
    made = recipe(adapter_sigma=2, adapter_bias_sigma=9)
    assert (made.parameters[gain].sigma, made.parameters[offset].sigma) == (2, 9)
    for name in ("adapter_sigma", "adapter_bias_sigma"):
        with pytest.raises(ZoError, match=f"{ADAPTER}/.*sigma is -1"):
            recipe(**{name: -1})
