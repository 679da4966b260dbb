# SPDX-License-Identifier: Apache-2.0
"""Patching: training ops and weights in the arena for any int8 ``.tflite``."""

from __future__ import annotations

from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.ends import TO_INT8, described, input_end
from tflm_zo.model.file import damage_reported, load_model, save_model
from tflm_zo.model.graph import main_graph
from tflm_zo.model.layers import trainable_layers
from tflm_zo.ops.channel_statistics import ChannelStatistics, channel_statistics
from tflm_zo.ops.names import is_patched
from tflm_zo.ops.options import LOSS_MEAN_SQUARED_ERROR
from tflm_zo.patching import adapter as input_adapter
from tflm_zo.patching.loss_path import closed_forms, find_loss_end, missing_head
from tflm_zo.patching.patcher import Patcher
from tflm_zo.patching.selection import select


def patch(
    model: bytes,
    trainable: str = "exact",
    loss: str = "auto",
    *,
    adapter: bool = False,
    accumulate: bool = False,
    reference: np.ndarray | None = None,
) -> bytes:
    """Return ``model`` with training ops and its trainable weights in the arena.

    ``model`` is any ``.tflite`` that is int8 inside, its input and output int8, uint8 or float; ``trainable`` is
    ``head`` (the fully connected layer that makes the logits, or a convolution whose one window is its whole input),
    ``exact`` (also the layers before it whose gradient has a closed form, unless the loss is mse), ``all``, ``last:K``,
    ``bias`` or comma-separated layers: names, globs, operator numbers (``6``), or ``conv2d:3`` for the third of its
    kind (:func:`tflm_zo.model.layer_names.matching`); ``/bias`` behind one of these chooses biases only. ``loss`` is
    ``cross-entropy`` (target: class index), ``mse`` (target: a vector like the output), ``entropy`` (no target:
    predictions are to be certain, but not all the same) or ``auto``: cross-entropy if the model ends in SOFTMAX or
    LOGISTIC, or in a layer without activation that gives a vector of logits (two or more numbers, not as many as
    inputs, with a range of 4 or more), else mse. ``adapter`` puts a trainable gain and offset for each input channel in
    front (see :mod:`tflm_zo.patching.adapter`). ``accumulate`` gives each layer that is trained by its output a buffer
    for the gradient of a batch, 4 bytes a weight and bias; without it each sample is applied at once, which costs no
    RAM.
    ``reference``: samples (n, ...) from before any drift, like those that the original model was trained on. Mean and
    spread of each channel go into the model, so that the adapter can be recalibrated without labels
    (:meth:`~tflm_zo.training.trainer.Trainer.recalibrate`).

    The result has the model's inputs and outputs first, then inputs ``zo/command`` (int32[20]) and ``zo/target``
    and output ``zo/report`` (int32[8]). Until it is trained it computes what ``model`` computes, byte for byte.
    Raises :class:`ZoError` if the model or a choice cannot be used.
    """
    tree = load_model(model)
    if is_patched(tree):
        raise ZoError("the model is patched already: patch the original model instead")
    if reference is not None and not adapter:
        raise ZoError("reference samples serve to recalibrate the input adapter: patch with the adapter too")
    with damage_reported():
        if adapter:
            # A prepared model already has an adapter; training starts from its gains and offsets.
            if not input_adapter.has_adapter(tree):
                input_adapter.add_adapter(tree)
            trainable = f"{trainable},{input_adapter.NAME}"
        before = None if reference is None else _reference_statistics(tree, reference)
        layers = trainable_layers(tree)
        end = find_loss_end(tree, layers, loss)
        # The passes that perturb the adapter are those that update in closed form.
        closed = [f for f in closed_forms(tree, layers, end.head) if f.layer.name != input_adapter.NAME]
        # A squared error bounds no gradient: at the head's rate the layer before it diverges (docs/research.md).
        exact = [] if end.kind == LOSS_MEAN_SQUARED_ERROR else [form.layer.ordinal for form in closed]
        if end.head is not None:
            exact.append(end.head.ordinal)
        why = "" if exact else missing_head(tree, layers, end)
        selection = select(layers, trainable, frozenset(exact), end.head, why)
        Patcher(tree, layers, selection, end, closed, accumulate=accumulate, reference=before).run()
        return save_model(tree)


def _reference_statistics(tree: Any, x: np.ndarray) -> ChannelStatistics:
    """Statistics of reference samples in the model's input codes."""
    if not input_adapter.reads_the_input(tree):
        raise ZoError("something in front of the adapter changes the samples: such a model takes no reference")
    source = input_end(main_graph(tree))
    if source.outer.type != "INT8":
        # A board adds up the codes that it is sent, as they are.
        raise ZoError(
            f"reference samples need an int8 input, but {described(source.outer)}: leave them out, or {TO_INT8}"
        )
    codes = source.codes(x)
    if len(codes) < 2:
        raise ZoError("reference has one sample: give at least 2, better some hundred")
    return channel_statistics(codes)
