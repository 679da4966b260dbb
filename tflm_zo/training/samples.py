# SPDX-License-Identifier: Apache-2.0
"""Labelled samples as a patched model takes them."""

from __future__ import annotations

import os

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.quantization import Quantization
from tflm_zo.model.samples import class_indices, codes_of, input_codes, load_npz, load_npz_samples
from tflm_zo.ops.options import LOSS_NAMES
from tflm_zo.patching.patched_model import PatchedModel


def sample_codes(x: np.ndarray, y: np.ndarray | None, model: PatchedModel) -> tuple[np.ndarray, np.ndarray]:
    """Return samples as :func:`input_codes`, and labels as target tensors: int32 (n, 1) classes, or int8 (n, *shape).

    Without labels the classes are -1. Raises :class:`ZoError` as :func:`input_codes` does, if the model's loss needs
    labels and there are none, or if their number, shape, type or range does not fit.
    """
    codes = input_codes(x, model.input_shape, model.input_quantization)
    return codes, _target_codes(y, model, len(codes))


def _target_codes(y: np.ndarray | None, model: PatchedModel, samples: int) -> np.ndarray:
    if y is None:
        if model.loss.needs_labels:
            raise ZoError(
                f"there are no labels y, but the model is patched for the loss {LOSS_NAMES[model.loss.kind]}: give "
                "labels, or patch it with loss entropy"
            )
        return np.full((samples, 1), -1, dtype=np.int32)
    y = np.asarray(y)
    if len(y.shape) == 0 or y.shape[0] != samples:
        raise ZoError(f"y has shape {y.shape}, but x has {samples} samples: give one label a sample")
    if not model.loss.classes:
        shape = model.target_shape
        if y.ndim == 1 and int(np.prod(shape)) > 1:
            raise ZoError(
                f"y has one number a sample, but the model is patched for mean squared error on "
                f"{int(np.prod(shape))} outputs; for class indices patch it with loss cross-entropy"
            )
        target = Quantization(np.array([model.loss.scale]), model.loss.zero_point)
        return codes_of(y, shape, target, "y", "the model's output")
    return class_indices(y, model.loss.classes)[:, None]


def load_npz_for(model: PatchedModel, path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Return ``x`` and ``y`` of an ``.npz`` file to train or measure ``model`` with.

    ``y`` is None only if the file has none and the model's loss needs none; raises as :func:`load_npz`.
    """
    return load_npz(path) if model.loss.needs_labels else load_npz_samples(path)
