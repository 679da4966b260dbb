# SPDX-License-Identifier: Apache-2.0
"""The demo: handwritten digits whose camera drifts, learned back inside TFLM."""

from __future__ import annotations

import importlib.util
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tflm_zo.conversion.convert import convert
from tflm_zo.conversion.evaluate import evaluate_plain, predict_codes
from tflm_zo.demo.backprop import backprop
from tflm_zo.demo.digits import drift, load_digits, train_model
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic
from tflm_zo.patching.patch import patch
from tflm_zo.tflm import wheel
from tflm_zo.training.trainer import Trainer

TRAINABLE = "exact"
EPOCHS = 40
_EXTRAS = ("tensorflow", "sklearn", "matplotlib")
_SHOWN = 8  # sample images in the picture


def run_demo(folder: Path, seed: int = 0, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the demo; writes ``digits.tflite``, ``digits_zo.tflite``, ``adapted.tflite`` and ``demo.png``.

    Returns int8_clean, drifted, adapted, bp (accuracies on the same 497 test images), forward_passes, seconds
    (of training) and arena_bytes. Raises :class:`ZoError` if an extra is missing or the folder cannot
    be written.
    """
    _prepare(folder)
    show("1. a Keras CNN learns clean digits, and is converted to int8")
    digits = load_digits(seed)
    keras_model = train_model(digits, seed)
    model = convert(keras_model, digits.x_pretrain)
    x, x_test = drift(digits.x_adapt, seed + 1), drift(digits.x_test, seed + 2)
    clean = evaluate_plain(model, digits.x_test, digits.y_test)["accuracy"]
    drifted = evaluate_plain(model, x_test, digits.y_test)["accuracy"]

    engine, where = _engine()
    show(f"2. patch it (--trainable {TRAINABLE}) and train it inside {where}, forward passes only")
    patched = patch(model, TRAINABLE)
    trainer = Trainer(patched, seed=seed, engine=engine)
    plain_outputs = predict_codes(model, x_test)
    if not np.array_equal(trainer.predict_codes(x_test), plain_outputs):
        raise ZoError("the patched model does not compute what the original computes: please report this")
    curve, seconds = _train(trainer, (x, digits.y_adapt), (x_test, digits.y_test))

    show(f"3. bake the weights into a plain int8 model, and run that in {where}")
    baked = trainer.bake()
    adapted = evaluate_plain(baked, x_test, digits.y_test)["accuracy"]
    predictions = predict_codes(baked, x_test).argmax(axis=1)

    show("4. the yardstick: float back-propagation through all layers on the same 500 samples, tuned")
    yardstick = backprop(keras_model, x, digits.y_adapt, x_test, digits.y_test, seed)

    result = {
        "int8_clean": clean,
        "drifted": drifted,
        "adapted": adapted,
        "bp": yardstick.accuracy,
        "forward_passes": trainer.progress.passes,
        "seconds": round(seconds, 2),
        "arena_bytes": trainer.arena_bytes,
    }
    picture = _picture(
        [(0, drifted), *curve],
        result,
        np.stack([digits.x_test, x_test]),
        digits.y_test,
        plain_outputs.argmax(axis=1),
        predictions,
    )
    for name, data in (
        ("digits.tflite", model),
        ("digits_zo.tflite", patched),
        ("adapted.tflite", baked),
        ("demo.png", picture),
    ):
        write_atomic(folder / name, data)
    show(_table(result, where, yardstick.optimizer, yardstick.learning_rate, yardstick.epochs))
    show(f"written to {folder}: digits.tflite, digits_zo.tflite, adapted.tflite, demo.png")
    return result


def _prepare(folder: Path) -> None:
    """Raise :class:`ZoError` if an extra is missing, or the folder cannot be made."""
    missing = [name for name in _EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        raise ZoError(f"the demo needs {', '.join(missing)}: pip install tflm-zo[demo]")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZoError(f"cannot make the folder {folder}: {error.strerror}") from error


def _engine() -> tuple[str, str]:
    """The engine, and what it is called: TFLM itself, to show that it can. The simulator would give the same
    bits sooner."""
    return ("tflm", "TFLM") if wheel.available() else ("simulator", "the simulator")


def _train(
    trainer: Trainer, samples: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> tuple[list[tuple[int, float]], float]:
    """Train; return passes and test accuracy after each epoch, and the seconds it took without measuring that."""
    curve: list[tuple[int, float]] = []
    measuring = 0.0

    def measure(trained: Trainer, logs: dict[str, float]) -> None:
        nonlocal measuring
        before = time.perf_counter()
        curve.append((trained.progress.passes, trained.evaluate(*test)["accuracy"]))
        measuring += time.perf_counter() - before

    started = time.perf_counter()
    trainer.fit(*samples, epochs=EPOCHS, callbacks=[measure])
    return curve, time.perf_counter() - started - measuring


def _table(result: dict[str, Any], where: str, optimizer: str, rate: float, epochs: int) -> str:
    rows = [
        ("int8 model on clean digits", f"{100 * result['int8_clean']:.1f} %"),
        ("the same on drifted digits", f"{100 * result['drifted']:.1f} %"),
        (f"adapted in {where}, baked, int8", f"{100 * result['adapted']:.1f} %"),
        (f"float back-propagation ({optimizer} {rate:g}, {epochs} epochs)", f"{100 * result['bp']:.1f} %"),
        ("forward passes", f"{result['forward_passes']}"),
        (f"seconds in {where}", f"{result['seconds']:.1f}"),
        ("arena bytes (64-bit host)", f"{result['arena_bytes']}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"   {name:{width}}  {value:>8}" for name, value in rows)


def _picture(
    curve: list[tuple[int, float]],
    result: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
) -> bytes:
    """Return a PNG: learning curve, and test images with the model's answers before and after."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    halves = figure.add_gridspec(1, 2, width_ratios=(1, 1.15))
    left, right = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    axes = left.subplots()
    passes, accuracies = zip(*curve, strict=True)
    axes.plot(passes, accuracies, marker=".", label="trained in TFLM, int8")
    axes.axhline(result["bp"], color="tab:green", linestyle="--", label="back-propagation, float")
    axes.axhline(result["int8_clean"], color="tab:gray", linestyle=":", label="before the drift, int8")
    axes.set(xlabel="forward passes", ylabel="test accuracy", ylim=(0.3, 1.0), title="learning curve")
    axes.legend(loc="lower right")
    grid = right.subplots(2, _SHOWN)
    right.suptitle("test images, clean and drifted, with the answers before \u2192 after training", fontsize=10)
    for column in range(_SHOWN):
        for row in range(2):
            grid[row, column].imshow(images[row, column, :, :, 0], cmap="gray", vmin=0, vmax=1)
            grid[row, column].set(xticks=[], yticks=[])
        grid[0, column].set_title(f"{labels[column]}")
        grid[1, column].set_title(f"{before[column]} \u2192 {after[column]}")
        grid[1, column].title.set_color("tab:green" if after[column] == labels[column] else "tab:red")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()
