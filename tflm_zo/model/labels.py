# SPDX-License-Identifier: Apache-2.0
"""What labels y mean to a model, and how right its outputs are: one decision for all commands.

It follows from the operator that makes the output and from what y holds, never from the command:

* A softmax, and a vector of bare logits: class indices (n,) or (n, 1), of any number type or names, or one-hot rows.
* The same of each cell of a map (FOMO, segmentation): an index a cell, (n, cells) in any shape, or one-hot.
* One sigmoid: classes 0 and 1 as indices, booleans, names, or one-hot rows of two. Fractions are values.
* Several sigmoids: class indices or one-hot rows, of which the largest output wins; rows with any number of ones are
  flags, each label a question of its own.
* Everything else is values like the output, compared by their mean squared error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.class_names import read_class_names
from tflm_zo.model.ends import End, as_int8, input_end, output_end
from tflm_zo.model.file import load_model
from tflm_zo.model.graph import SHAPES_ONLY, Graph, main_graph
from tflm_zo.model.maps import is_map_of_classes, map_cells, map_classes
from tflm_zo.model.outputs import choose_output, require_one_input
from tflm_zo.model.quantization import Quantization, quantize
from tflm_zo.model.samples import class_indices

SOFTMAX, SIGMOID, PLAIN = "SOFTMAX", "LOGISTIC", ""

# Shares from which on it is told that samples or labels do not fit their range.
_MANY_CLIPPED = 0.5
_SHOWN_NAMES = 8


@dataclass(frozen=True)
class Outputs:
    """A model's output as labels are compared with it: number of values, which of :data:`SOFTMAX`, :data:`SIGMOID` and
    :data:`PLAIN` makes them, the tensor they are read from, how many cells there are that have a class each (1: no
    map), and names of the classes, if the model carries some."""

    count: int
    ending: str
    end: End
    cells: int = 1
    names: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        """Values of a cell; of all, if it is no map."""
        return self.count // self.cells

    @property
    def classes(self) -> int:
        """How many classes it can tell apart."""
        return max(self.units, 2)

    @property
    def quantization(self) -> Quantization | None:
        """Scale and zero point of the int8 codes inside, None without."""
        return self.end.quantization

    @property
    def span(self) -> float:
        """How far its largest value is from its smallest one, infinite if it is float throughout."""
        return np.inf if self.quantization is None else 255 * self.quantization.scale


def outputs_of(graph: Graph, end: End, names: tuple[str, ...] = ()) -> Outputs:
    """Return what labels are compared with at the output ``end``, by classes of these ``names``."""
    made = end.outer.index if end.inner is None else end.inner.index
    maker = next((op for op in graph.operators if made in op.outputs), None)
    while maker is not None and maker.name in SHAPES_ONLY:
        made = maker.inputs[0]
        maker = next((op for op in graph.operators if made in op.outputs), None)
    ending = maker.name if maker is not None and maker.name in (SOFTMAX, SIGMOID) else PLAIN
    shape = graph.tensors[made].shape
    # Several sigmoids a cell are a detector's, each a question of its own.
    classes = ending == SOFTMAX or (ending == SIGMOID and shape[-1:] == (1,))
    return Outputs(int(np.prod(end.shape)), ending, end, map_cells(shape) if classes else 1, names)


def plain_ends(model: bytes, output: str | int | None = None) -> tuple[End, Outputs]:
    """Return the input of a plain model, and what labels are compared with at its output, the one of that name or
    place if it has several.

    Raises :class:`ZoError` if it has several inputs, or outputs without a choice, or of types that no command takes.
    """
    tree = load_model(model)
    require_one_input(tree)
    graph = main_graph(tree)
    end = output_end(graph, graph.outputs[choose_output(tree, output)])
    return input_end(graph), outputs_of(graph, end, read_class_names(tree))


@dataclass(frozen=True)
class Labels:
    """Labels of n samples: ``classes`` (int32 (n,), of a map (n, cells)), or ``flags`` (bool (n, outputs)), or neither;
    ``values`` (float64 (n, outputs)) where y has the form of the output, None for class indices. ``note``: what to
    tell, '' if nothing."""

    values: np.ndarray | None
    classes: np.ndarray | None = None
    flags: np.ndarray | None = None
    note: str = ""

    def measure(self, outputs: np.ndarray) -> dict[str, float]:
        """Return how right ``outputs`` (n, ...), real values, are.

        ``accuracy`` of classes: the largest output is that of the label, or the only one is above 0.5 for class 1;
        ``label_accuracy`` of flags: the part of all n x outputs flags on whose side of 0.5 the output is;
        ``mean_squared_error`` of values.
        """
        flat = outputs.reshape(len(outputs), -1)
        if self.classes is not None:
            cells = flat.reshape(self.classes.size, -1)
            return {"accuracy": float(np.mean(predicted_classes(cells) == self.classes.reshape(-1)))}
        if self.flags is not None:
            return {"label_accuracy": float(np.mean((flat > 0.5) == self.flags))}
        return {"mean_squared_error": float(np.mean(self.squared_errors(flat)))}

    def squared_errors(self, outputs: np.ndarray) -> np.ndarray:
        """Return of each sample the mean squared error, float64 (n,); only with ``values``."""
        assert self.values is not None
        return np.asarray(((outputs.reshape(self.values.shape).astype(np.float64) - self.values) ** 2).mean(axis=1))


def predicted_classes(outputs: np.ndarray) -> np.ndarray:
    """Return the classes (n,) that real ``outputs`` (n, count) say; one output is the probability of class 1."""
    return outputs.argmax(axis=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5).astype(np.int64)


def read_labels(y: np.ndarray, samples: int, outputs: Outputs, *, classes: bool = False) -> Labels:
    """Return what ``y`` (n, ...) means at ``outputs``; ``classes``: the caller knows that they are classes.

    Raises :class:`ZoError` for another number than ``samples``, or another shape, type or range than any kind has.
    """
    y = np.asarray(y)
    if y.ndim == 0 or len(y) != samples:
        raise ZoError(f"y has shape {y.shape}, but x has {samples} samples: give one label a sample")
    note = ""
    if y.dtype.kind in "US":
        y, note = _named(y, outputs)
    if y.dtype.kind not in "buif":
        raise ZoError(f"y has dtype {y.dtype}: give class indices, or float values like the model's output")
    if outputs.cells > 1:
        return _map(y, outputs, note)
    column = y.reshape(samples) if y.size == samples else None
    if column is not None:
        return _column(column, outputs, classes, note)
    rows = y.reshape(samples, -1)
    binary = bool(np.all((rows == 0) | (rows == 1)))
    one_hot = binary and bool(np.all(rows.sum(axis=1) == 1))
    if outputs.count == 1 and rows.shape[1] == 2 and one_hot and (classes or outputs.ending == SIGMOID):
        return Labels(None, rows.argmax(axis=1).astype(np.int32))
    if rows.shape[1] != outputs.count:
        raise ZoError(
            f"y has {rows.shape[1]} values a sample, the model's output {outputs.count}: give class indices of shape "
            f"({samples},), or values like the output"
        )
    if one_hot:
        return Labels(rows.astype(np.float64), rows.argmax(axis=1).astype(np.int32))
    if binary and outputs.ending == SIGMOID:
        return Labels(rows.astype(np.float64), flags=rows == 1)
    return Labels(_values(rows, outputs))


def _map(y: np.ndarray, outputs: Outputs, note: str) -> Labels:
    """A class for each cell, or values like the output."""
    rows = y.reshape(len(y), -1)
    whole = rows.shape[1] == outputs.count
    if whole and not is_map_of_classes(y, outputs.cells, outputs.units):
        return Labels(_values(rows, outputs))
    classes = map_classes(y, outputs.cells, outputs.units)
    return Labels(rows.astype(np.float64) if whole else None, classes, note=note)


def _column(y: np.ndarray, outputs: Outputs, classes: bool, note: str) -> Labels:
    """One number a sample."""
    binary = bool(np.all((y == 0) | (y == 1)))
    if outputs.count > 1 or classes:
        return Labels(None, class_indices(y, outputs.classes), note=note)
    values = y.astype(np.float64)[:, None]
    if outputs.ending == SIGMOID and (binary or y.dtype.kind == "b"):
        return Labels(values, y.astype(np.int32), note=note)
    if outputs.ending == SIGMOID and y.dtype.kind in "iu" and y.dtype != np.int8:
        class_indices(y, outputs.classes)  # raises: one sigmoid has two classes
    return Labels(_values(y[:, None], outputs))


def _values(rows: np.ndarray, outputs: Outputs) -> np.ndarray:
    """Targets as real values: floats as they are, codes of the output's own type by its scale, other integers as
    numbers."""
    if rows.dtype.kind == "f":
        wrong = ~np.isfinite(rows).all(axis=1)
        if np.any(wrong):
            raise ZoError(f"y[{int(np.argmax(wrong))}] has a value that is not finite (NaN or infinity)")
        return rows.astype(np.float64)
    quantization = outputs.quantization
    if quantization is None:
        return rows.astype(np.float64)
    if rows.dtype == np.uint8 and outputs.end.outer.type == "UINT8":
        rows = as_int8(rows)
    return quantization.reals(rows) if rows.dtype == np.int8 else rows.astype(np.float64)


def _named(y: np.ndarray, outputs: Outputs) -> tuple[np.ndarray, str]:
    """Class indices of names, those that the model carries or in the order of the alphabet, and what to tell of it."""
    names, indices = np.unique(y.astype(str), return_inverse=True)
    if outputs.names:
        unknown = [name for name in names if name not in outputs.names]
        if unknown:
            raise ZoError(f"y has the name '{unknown[0]}', but the model's classes are: {', '.join(outputs.names)}")
        numbers = np.array([outputs.names.index(name) for name in names])
        return numbers[indices].reshape(y.shape), ""
    shown = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
    if len(names) != outputs.classes:
        raise ZoError(
            f"y has {len(names)} names ({shown}), but the model has {outputs.classes} classes: give class indices"
        )
    return indices.reshape(y.shape), f"y has names: {shown} are taken for classes 0 to {len(names) - 1}, as sorted"


def loss_for(loss: str, y: np.ndarray, samples: int, outputs: Outputs) -> str:
    """Return which loss "auto" is for labels ``y``, where they are known before the model is patched: of bare outputs
    they decide between cross-entropy and mse, so that what :func:`~tflm_zo.patch` would guess does not matter.

    Other losses, and "auto" where the model itself decides, are returned as they are.
    """
    if loss != "auto":
        return loss
    found = read_labels(y, samples, outputs)
    if found.classes is None:
        return "mse"
    return "cross-entropy" if outputs.ending == PLAIN else "auto"


def clipped_note(x: np.ndarray, quantization: Quantization | None, name: str, what: str, most: float) -> str:
    """Return what to tell if more than a part ``most`` of the float values ``x`` lies beyond what the codes of
    ``quantization`` can express, '' if not; ``what`` is theirs."""
    if quantization is None or x.dtype.kind != "f" or x.size == 0:
        return ""
    low, high = (float(v) for v in quantization.reals(np.array([-128, 127])))
    beyond = float(np.mean((x < low - quantization.scale) | (x > high + quantization.scale)))
    if beyond <= most:
        return ""
    part = f"{100 * beyond:.0f} %" if beyond >= 0.01 else f"{round(beyond * x.size)}"
    return f"{part} of the values of {name} lie beyond {what}, {low:.4g} to {high:.4g}, and are clipped"


def sample_notes(x: np.ndarray, end: End, name: str = "x") -> list[str]:
    """Return what to tell of samples ``x`` (n, ...) for the input ``end``: clipped, constant, or read as codes."""
    x = np.asarray(x)
    notes = []
    clipped = clipped_note(x, end.quantization, name, "the input's range", _MANY_CLIPPED)
    if clipped:
        notes.append(f"{clipped}: are they in the units that the model was trained in?")
    notes += constant_notes(x, name)
    quantization = end.quantization
    if x.dtype == np.uint8 and end.outer.type != "UINT8" and quantization is not None:
        pixels = np.array([0, 255])
        if not np.array_equal(quantize(pixels, quantization), pixels - 128):
            low, high = quantization.reals(np.array([-128, 127]))
            notes.append(f"{name} is uint8: 0 to 255 are taken for the input's codes, {low:.4g} to {high:.4g}")
    return notes


def constant_notes(x: np.ndarray, name: str) -> list[str]:
    """Return what to tell of samples ``x`` (n, ...) that do not differ."""
    return [f"all {len(x)} samples of {name} are the same"] if len(x) > 1 and x.size and np.all(x == x[:1]) else []


def target_notes(labels: Labels, quantization: Quantization | None) -> list[str]:
    """Return what to tell of ``labels`` that a squared error compares with codes of ``quantization``."""
    notes = [labels.note] if labels.note else []
    if labels.values is not None and labels.flags is None and labels.classes is None:
        clipped = clipped_note(labels.values, quantization, "y", "the output's range", 0.0)
        if clipped:
            notes.append(f"{clipped} in training; losses that are measured are of y as it is")
    return notes
