# SPDX-License-Identifier: Apache-2.0
"""Patching: training ops and weights in the arena for any int8 ``.tflite``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.class_names import write_class_names
from tflm_zo.model.ends import TO_INT8, described, input_end
from tflm_zo.model.file import damage_reported, load_model, save_model
from tflm_zo.model.graph import main_graph
from tflm_zo.model.layers import trainable_layers
from tflm_zo.model.outputs import choose_output, require_one_input
from tflm_zo.model.state import read_state
from tflm_zo.ops.channel_statistics import ChannelStatistics, channel_statistics
from tflm_zo.ops.names import is_patched
from tflm_zo.ops.options import LOSS_MEAN_SQUARED_ERROR
from tflm_zo.patching import adapter as input_adapter
from tflm_zo.patching.loss_path import closed_forms, find_loss_end, missing_head
from tflm_zo.patching.output_layers import layers_of_output
from tflm_zo.patching.patcher import Patcher
from tflm_zo.patching.selection import select
from tflm_zo.patching.widen import widen


def patch(
    model: bytes,
    trainable: str = "exact",
    loss: str = "auto",
    *,
    adapter: bool = False,
    accumulate: bool = False,
    reference: np.ndarray | None = None,
    output: str | int | None = None,
    classes: int | str | None = None,
    class_names: Sequence[str] | None = None,
) -> bytes:
    """Return ``model`` with training ops and its trainable weights in the arena.

    ``model`` is any ``.tflite`` that is int8 inside, its input and output int8, uint8 or float; ``trainable`` is
    ``head`` (the fully connected layer that makes the logits, or a convolution whose one window is its whole input, or
    one cell of a map), ``exact`` (also the layers before it whose gradient has a closed form, unless the loss is mse),
    ``all``, ``last:K``, ``bias`` or comma-separated layers: names, globs, operator numbers (``6``), or ``conv2d:3`` for
    the third of its kind (:func:`tflm_zo.model.layer_names.matching`); ``/bias`` behind one of these chooses biases
    only. ``loss`` is ``cross-entropy`` (target: class index), ``mse`` (target: a vector like the output), ``entropy``
    (no target: predictions are to be certain, but not all the same) or ``auto``: cross-entropy if the model ends in
    SOFTMAX or LOGISTIC, or in a layer without activation that gives a vector of logits (two or more numbers, not as
    many as inputs, with a range of 4 or more), else mse. ``adapter`` puts a trainable gain and offset for each input
    channel in front (see :mod:`tflm_zo.patching.adapter`). ``accumulate`` gives each layer that is trained by its
    output a buffer for the gradient of a batch, 4 bytes a weight and bias; without it each sample is applied at once,
    which costs no RAM. ``reference``: samples (n, ...) from before any drift, like those that the original model was
    trained on. Mean and spread of each channel go into the model, so that the adapter can be recalibrated without
    labels (:meth:`~tflm_zo.training.trainer.Trainer.recalibrate`). ``output``: name or place of the output that the
    loss is taken of, if the model has several; only layers that lead to it alone are trained, so the others stay as
    they are. On a map (FOMO, segmentation) cross-entropy is the mean over its cells, each of which has a class.
    ``classes``: how many classes the model is to have, or "+N" for N more, which come last
    (:mod:`tflm_zo.patching.widen`); ``class_names``: of all, which the model carries from there; more names make more.

    The result has inputs ``zo/command`` (int32[20]) and ``zo/target`` behind the model's own, and output ``zo/report``
    (int32[8]) behind the one that is trained, which comes first; other outputs of the model follow. Until it is trained
    it computes what ``model`` computes, byte for byte (the logits, if it has more classes); what the model carries from
    pass to pass, such as the state of an LSTM, is cleared in each. Raises :class:`ZoError` if the model or a choice
    cannot be used.
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
        require_one_input(tree)
        state = read_state(tree)
        state.require_tensors()
        widened = _add_classes(tree, loss, output, classes, class_names)
        patcher = _patcher(tree, trainable, loss, output, accumulate=accumulate, reference=before)
        if widened:
            _require_trained_head(patcher)
        patcher.run(state.tensors)
        return save_model(tree)


def _patcher(
    tree: Any,
    trainable: str,
    loss: str,
    output: str | int | None,
    *,
    accumulate: bool,
    reference: ChannelStatistics | None,
) -> Patcher:
    """Find in a model's tree what :func:`patch` asks for."""
    place = choose_output(tree, output)
    layers = layers_of_output(tree, trainable_layers(tree), place)
    end = find_loss_end(tree, layers, loss, place)
    # The passes that perturb the adapter are those that update in closed form.
    closed = [f for f in closed_forms(tree, layers, end.head) if f.layer.name != input_adapter.NAME]
    # A squared error bounds no gradient: at the head's rate the layer before it diverges (docs/research.md).
    exact = [] if end.kind == LOSS_MEAN_SQUARED_ERROR else [form.layer.ordinal for form in closed]
    if end.head is not None:
        exact.append(end.head.ordinal)
    why = "" if exact else missing_head(tree, layers, end)
    selection = select(layers, trainable, frozenset(exact), end.head, why)
    return Patcher(tree, layers, selection, end, closed, accumulate=accumulate, reference=reference)


def _add_classes(
    tree: Any, loss: str, output: str | int | None, classes: int | str | None, names: Sequence[str] | None
) -> bool:
    """Widen a model to so many classes, and give them names; returns whether there are more than before."""
    if classes is None and names is None:
        return False
    place = choose_output(tree, output)
    end = find_loss_end(tree, layers_of_output(tree, trainable_layers(tree), place), loss, place)
    present = count = end.outputs
    if classes is None and names is not None and len(names) > count:
        classes = len(names)
    if classes is not None:
        count = widen(tree, end, classes)
    if names is not None:
        if len(names) != count:
            raise ZoError(f"there are {len(names)} class names for {count} classes: give one for each")
        write_class_names(tree, names)
    return count > present


def _require_trained_head(patcher: Patcher) -> None:
    """Raise :class:`ZoError` if the weights that new classes are learned by are not to be trained."""
    head = patcher.end.head
    if head is not None and head.ordinal not in patcher.selection.weights:
        raise ZoError(f"a new class is learned by layer {head.name}: name it in --trainable, too")


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
    codes = source.codes(x, "reference")
    if len(codes) < 2:
        raise ZoError("reference has one sample: give at least 2, better some hundred")
    return channel_statistics(codes)
