# SPDX-License-Identifier: Apache-2.0
"""Labelled samples as a patched model takes them."""

from __future__ import annotations

import os

import numpy as np

from tflm_zo.errors import ZoError, warn_of_data
from tflm_zo.model.file import load_model
from tflm_zo.model.labels import PLAIN, Labels, loss_for, plain_ends, read_labels, sample_notes, target_notes
from tflm_zo.model.quantization import Quantization, quantize
from tflm_zo.model.samples import load_npz, load_npz_samples
from tflm_zo.ops.names import is_patched
from tflm_zo.ops.options import LOSS_NAMES
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.engine import Labelled


def sample_codes(x: np.ndarray, y: np.ndarray | None, model: PatchedModel) -> tuple[np.ndarray, np.ndarray]:
    """Return samples as the model's input takes them, and labels as target tensors: int32 (n, 1) classes, or int8
    (n, *shape).

    Without labels the classes are -1. Raises :class:`ZoError` as :meth:`~tflm_zo.model.ends.End.codes` does, if the
    model's loss needs labels and there are none, or if their number, shape, type or range does not fit.
    """
    found = labelled(x, y, model)
    return found.codes, found.targets


def labelled(x: np.ndarray, y: np.ndarray | None, model: PatchedModel) -> Labelled:
    """Return samples and labels for an engine that runs ``model``; raises as :func:`sample_codes`.

    Warns (:class:`~tflm_zo.errors.DataWarning`) of samples or labels that are clipped, constant or read in a way that
    is not plain.
    """
    codes = model.input.codes(x)
    notes = sample_notes(x, model.input)
    if y is None:
        if model.loss.needs_labels:
            raise ZoError(
                f"there are no labels y, but the model is patched for the loss {LOSS_NAMES[model.loss.kind]}: give "
                "labels, or patch it with loss entropy"
            )
        warn_of_data(notes)
        return Labelled(codes, np.full((len(codes), 1), -1, dtype=np.int32))
    classes = model.loss.classes > 0
    outputs = model.outputs
    labels = read_labels(y, len(codes), outputs, classes=classes and outputs.ending == PLAIN)
    if classes:
        warn_of_data([*notes, labels.note] if labels.note else notes)
        return Labelled(codes, _classes(labels, model)[:, None], labels)
    if labels.values is None:
        raise ZoError(
            f"y has one number a sample, but the model is patched for mean squared error on {outputs.count} outputs; "
            "for class indices patch it with loss cross-entropy"
        )
    target = Quantization(np.array([model.loss.scale]), model.loss.zero_point)
    warn_of_data([*notes, *target_notes(labels, target)])
    return Labelled(codes, quantize(labels.values, target).reshape(len(codes), *model.target_shape), labels)


def loss_and_labels(model: bytes, loss: str, x: np.ndarray, y: np.ndarray) -> tuple[str, np.ndarray]:
    """Return which loss to patch a plain model for (:func:`~tflm_zo.model.labels.loss_for`), and its labels in their
    plainest form, for what trains on parts of the samples.

    Warns as :func:`labelled` does, once for all samples; raises :class:`ZoError` for samples or labels that do not fit.
    """
    if is_patched(load_model(model)):
        raise ZoError("the model is patched already: patch the original model instead")
    source, outputs = plain_ends(model)
    count = len(source.codes(x))
    loss = loss_for(loss, y, count, outputs)
    labels = read_labels(y, count, outputs, classes=loss == "cross-entropy" and outputs.ending == PLAIN)
    warn_of_data([*sample_notes(x, source), *target_notes(labels, outputs.quantization)])
    return loss, np.asarray(y) if labels.classes is None or loss == "mse" else labels.classes


def _classes(labels: Labels, model: PatchedModel) -> np.ndarray:
    """The classes (n,) of labels for a model that is patched for them."""
    if labels.classes is not None:
        return labels.classes
    loss = LOSS_NAMES[model.loss.kind]
    if labels.flags is not None:
        raise ZoError(
            f"y has rows with several labels, or with none, but the model is patched for {loss}, one class a sample: "
            "patch it with loss mse, which trains each label by itself"
        )
    raise ZoError(
        f"y has values that are no classes, but the model is patched for {loss}: give class indices 0 to "
        f"{model.loss.classes - 1}, or patch it with loss mse"
    )


def load_npz_for(model: PatchedModel, path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return ``x`` and ``y`` of an ``.npz`` file to train or measure ``model`` with.

    ``y`` is None only if the file has none and the model's loss needs none; raises as :func:`load_npz`.
    """
    return load_npz(path) if model.loss.needs_labels else load_npz_samples(path)
