# SPDX-License-Identifier: Apache-2.0
"""Models that other people published, as tasks: with their samples where there are any, else with samples made here.

Made samples are random smooth inputs, and what the model itself makes of them before any drift are their labels: the
class it is confident of, or its outputs. So the model is right about all of them until the drift, and whether training
makes anything worse can be told.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from suites.cache import digest
from suites.predict import input_form, predict
from suites.task import Task, image_codes, per_class
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic
from tflm_zo.model.file import load_model, shape_of
from tflm_zo.model.quantization import dequantize, quantize

_ADAPT, _TEST = 500, 400
# Samples drawn at once, fewer of large ones; and how often variants of them are.
_DRAWN, _MOST_VALUES, _ROUNDS = 2000, 30_000_000, 8
# Number of samples of each class; distance of their variants from them, in spreads.
_PARENTS, _STEP = 50, 0.4
# Number of points of a grid along an axis.
_COARSENESS = (2, 3, 5, 8)
# Classes with fewer samples than this are left out.
_FEW = 30
# A sample is kept if its best class is ahead of the second best by this part of the output's range of codes.
_MARGIN = 0.1
# Spread of the codes of samples that are made.
_SPREAD = 45.0


class _Stranger(NamedTuple):
    """``classes``: whether outputs are scores of classes whose best counts; else they are values."""

    path: str
    kind: str
    classes: bool = True


# tflm_mnist_lstm is not among them: its state goes over from sample to sample. Others of the folder have no single
# int8 output to take a loss of.
_TEACHERS = (
    _Stranger("mlperf_tiny/str_ww_ref_model.tflite", "spectrogram"),
    _Stranger("mlperf_tiny/vww_96_int8.tflite", "image"),
    _Stranger("strangers/fz_gestes.tflite", "vector"),
    _Stranger("strangers/silabs_micro_speech.tflite", "spectrogram"),
    _Stranger("strangers/tofai_handpose.tflite", "image"),
    _Stranger("strangers/c_tflm_magic_wand.tflite", "image"),
    _Stranger("strangers/hiimshyy_har.tflite", "inertial"),
    _Stranger("strangers/c_atomic14_marvin.tflite", "spectrogram"),
    _Stranger("strangers/c_himax_handwriting.tflite", "image"),
    _Stranger("strangers/c_vahid_magic_wand.tflite", "image"),
    _Stranger("strangers/cookekieran_tinyml.tflite", "image", False),
    _Stranger("strangers/lmanubens_gesture.tflite", "inertial", False),
    _Stranger("strangers/tflm_hello_world.tflite", "vector", False),
    _Stranger("strangers/openmv_force_int.tflite", "vector", False),
    _Stranger("strangers/jomjol_ana_cont.tflite", "image", False),
    _Stranger("strangers/silabs_fingerprint.tflite", "image", False),
    _Stranger("strangers/made/r_sigmoid.tflite", "vector"),
    _Stranger("strangers/made/sine.tflite", "vector", False),
)


def names(data: Path) -> list[str]:
    """Names of the tasks that there are files for."""
    return [name for name, (files, _) in _tasks(data, data).items() if all(path.exists() for path in files)]


def load(name: str, data: Path, folder: Path) -> Task:
    """Return a task by its name; samples that are made are kept in ``folder``.

    Raises :class:`ZoError` if no samples can be made for its model.
    """
    return _tasks(data, folder)[name][1]()


def _tasks(data: Path, folder: Path) -> dict[str, tuple[list[Path], Callable[[], Task]]]:
    """Name, needed files and maker of each task."""
    tasks: dict[str, tuple[list[Path], Callable[[], Task]]] = {}
    for stranger in _TEACHERS:
        path = data / stranger.path
        tasks[path.stem] = ([path], functools.partial(_taught, path, stranger, folder))
    made = data / "strangers" / "made"
    for name, samples in (("mixn", "mixn"), ("pc", "mixn"), ("fall", "fall_t"), ("ml", "ml_arg")):
        files = [made / f"{name}.tflite", made / f"{samples}.npz"]
        tasks[name] = (files, functools.partial(_labelled, name, *files))
    model, before = made / "keras_gap.tflite", made / "keras_gap_rep.npz"
    tasks["keras_gap"] = ([model, before], functools.partial(_keras_gap, model, before))
    after = [made / "keras_gap_adapt.npz", made / "keras_gap_test.npz"]
    tasks["keras_gap, other light"] = ([model, *after], functools.partial(_keras_gap, model, *after))
    return tasks


# -- with samples of their own -----------------------------------------------------------------------------------


def _labelled(name: str, path: Path, data: Path) -> Task:
    model, samples = path.read_bytes(), np.load(data)
    source, _ = input_form(model)
    order = np.random.default_rng(0).permutation(len(samples["x"]))
    x, y = quantize(samples["x"][order], source), samples["y"][order].astype(np.int32)
    adapt = min(_ADAPT, len(x) // 2)
    rest = slice(adapt, adapt + 2 * _TEST)
    return Task(name, model, "vector", x[:adapt], y[:adapt], x[rest], y[rest], float(source.zero_point))


def _keras_gap(path: Path, adapt: Path, test: Path | None = None) -> Task:
    """Rescaling is part of the model; its input is pixels. Without ``test`` half of ``adapt`` are test samples."""
    model, samples = path.read_bytes(), np.load(adapt)
    x, y = image_codes(samples["x"]), samples["y"].astype(np.int32)
    if test is None:
        order = np.random.default_rng(0).permutation(len(x))
        half = order[: len(x) // 2], order[len(x) // 2 :]
        return Task("keras_gap", model, "image", x[half[0]], y[half[0]], x[half[1]], y[half[1]], -128)
    others = np.load(test)
    x_test, y_test = image_codes(others["x"]), others["y"].astype(np.int32)
    return Task("keras_gap, other light", model, "image", x, y, x_test, y_test, -128)


# -- taught by the model -----------------------------------------------------------------------------------------


def _taught(path: Path, stranger: _Stranger, folder: Path) -> Task:
    model = path.read_bytes()
    kept = folder / f"{path.stem}-{digest(model, Path(__file__).read_bytes())}.npz"
    if kept.exists():
        arrays = np.load(kept)
        x, y = arrays["x"], arrays["y"]
    else:
        x, y = _made(path.stem, model, stranger)
        stream = io.BytesIO()
        np.savez_compressed(stream, x=x, y=y)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, stream.getvalue())
    source, is_float = input_form(model)
    adapt = len(x) * _ADAPT // (_ADAPT + _TEST)
    return Task(
        name=path.stem,
        model=model,
        kind=stranger.kind,
        x=x[:adapt],
        y=y[:adapt],
        x_test=x[adapt:],
        y_test=y[adapt:],
        zero=0.0 if is_float else -128.0 if stranger.kind == "image" else float(source.zero_point),
        loss="cross-entropy" if stranger.classes else "mse",
    )


def _made(name: str, model: bytes, stranger: _Stranger) -> tuple[np.ndarray, np.ndarray]:
    """Samples, and the classes or outputs that the model gives them."""
    source, is_float = input_form(model)
    rng = np.random.default_rng(0)

    def real(codes: np.ndarray) -> np.ndarray:
        return dequantize(codes, source) if is_float else codes

    def outputs_of(codes: np.ndarray) -> np.ndarray:
        outputs = predict(model, real(codes))
        return outputs.reshape(len(codes), -1) if stranger.classes else outputs

    graph = load_model(model).subgraphs[0]
    shape = shape_of(graph.tensors[int(graph.inputs[0])])[1:]
    wanted = _ADAPT + _TEST
    drawn = int(np.clip(_MOST_VALUES // np.prod(shape), wanted, _DRAWN))
    middle = 0 if stranger.kind == "image" else source.zero_point
    codes = _codes(middle + _SPREAD * _smooth(rng, drawn, shape, stranger.kind))
    outputs = outputs_of(codes)
    if not stranger.classes:
        return real(codes[:wanted]), outputs[:wanted]
    for _ in range(_ROUNDS):
        if _enough(outputs, wanted):
            break
        # Random inputs seldom look like a rare class to a network. Their variants that do so most are a way there.
        parents = np.concatenate([np.argsort(-scores)[:_PARENTS] for scores in _scores(outputs).T])
        children = codes[rng.choice(parents, drawn)] + _STEP * _SPREAD * _smooth(rng, drawn, shape, stranger.kind)
        codes = np.concatenate([codes, _codes(children)])
        outputs = np.concatenate([outputs, outputs_of(codes[-drawn:])])
    good = _confident(outputs)
    codes, y = codes[good], _scores(outputs[good]).argmax(axis=1).astype(np.int32)
    share = _shares(np.bincount(y), wanted)
    if np.count_nonzero(share) < 2 or share.sum() < wanted // 2:
        raise ZoError(f"{name}: made samples are of the classes {share.tolist()} only")
    chosen = per_class(y, share, rng)
    return real(codes[chosen]), y[chosen]


def _codes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values), -128, 127).astype(np.int8))


def _smooth(rng: np.random.Generator, count: int, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Random samples (count, *shape) around 0, of a spread around 1: coarse grids of normal numbers, interpolated, of
    several coarsenesses, heights and offsets."""
    if kind == "vector":
        values = rng.normal(size=(count, *shape))
    else:
        parts = np.diff(np.linspace(0, count, len(_COARSENESS) + 1).astype(int))
        values = np.concatenate([_fields(rng, n, shape, grid) for n, grid in zip(parts, _COARSENESS, strict=True)])
        rng.shuffle(values)
    each = (count,) + (1,) * len(shape)
    return np.asarray(rng.uniform(0.3, 1.7, each) * values + 0.7 * rng.normal(size=each))


def _fields(rng: np.random.Generator, count: int, shape: tuple[int, ...], grid: int) -> np.ndarray:
    """Smooth along all axes but that of channels, if the last axis is one (no longer than six)."""
    free = len(shape) - 1 if shape[-1] <= 6 else None
    fields = rng.normal(size=(count, *(size if axis == free else min(size, grid) for axis, size in enumerate(shape))))
    for axis, size in enumerate(shape, start=1):
        points = fields.shape[axis]
        if points != size:
            places = np.linspace(0, points - 1, size)
            low = np.minimum(places.astype(int), points - 2)
            part = (places - low).reshape([-1 if a == axis else 1 for a in range(fields.ndim)])
            fields = (1 - part) * fields.take(low, axis) + part * fields.take(low + 1, axis)
    return fields


def _scores(outputs: np.ndarray) -> np.ndarray:
    """Scores of classes (n, classes); one output is the probability of class 1."""
    return outputs if outputs.shape[1] > 1 else np.concatenate([1 - outputs, outputs], axis=1)


def _confident(outputs: np.ndarray) -> np.ndarray:
    """Return which samples have one class clearly before the others."""
    ordered = np.sort(_scores(outputs), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2] > _MARGIN)


def _shares(available: np.ndarray, wanted: int) -> np.ndarray:
    """How many of each class to take: as even as can be, and none of classes with too few to say anything."""
    available = np.where(available < _FEW, 0, available)
    levels = [np.minimum(available, level) for level in range(wanted + 1)]
    return max((share for share in levels if share.sum() <= wanted), key=np.sum)


def _enough(outputs: np.ndarray, wanted: int) -> bool:
    """Whether every class of the model has its even share of confident samples."""
    classes = _scores(outputs).shape[1]
    seen = np.bincount(_scores(outputs[_confident(outputs)]).argmax(axis=1), minlength=classes)
    return bool(seen.min() >= wanted // classes)
