# SPDX-License-Identifier: Apache-2.0
"""The yardstick: what float back-propagation through all layers makes of the same samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tflm_zo.conversion.keras_support import import_tensorflow, predict_float
from tflm_zo.demo.float_training import FloatTraining, Optimizer
from tflm_zo.errors import ZoError

# The candidates among which cross-validation chooses; best values lie inside, not at an end.
_CANDIDATES: dict[str, tuple[float, ...]] = {
    "adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "sgd": (1e-2, 3e-2, 1e-1),
}
_MAX_EPOCHS = 80
_FOLDS = 3
_RUNS = 3
_BATCH = 16


@dataclass(frozen=True)
class BackpropResult:
    """Test accuracy of float back-propagation, and the settings cross-validation chose for it.

    ``accuracy`` is the mean over ``run_accuracies``, trainings that differ in the sample order.
    """

    accuracy: float
    run_accuracies: tuple[float, ...]
    optimizer: str
    learning_rate: float
    epochs: int
    validation_accuracy: float
    seconds: float


def backprop(
    keras_model: Any,
    x_adapt: NDArray[np.float32],
    y_adapt: NDArray[np.int32],
    x_test: NDArray[np.float32],
    y_test: NDArray[np.int32],
    seed: int = 0,
) -> BackpropResult:
    """Fine-tune copies of a Keras classifier on the adaptation samples, test the tuned one.

    Optimizer (Adam, SGD with momentum), learning rate and number of epochs are those of the best
    mean validation accuracy in a 3-fold cross-validation over the adaptation samples; then the
    model as given is trained on all of them. The test set is used only for the last measurement.

    Args:
        keras_model: classifier with one output of class scores; it is left unchanged.
        x_adapt, x_test: float arrays ``(n, ...)``, in the units the model is fed.
        y_adapt, y_test: class indices ``(n,)``.
        seed: of the folds and of the sample order.

    Raises:
        ZoError: TensorFlow is missing, or there are fewer adaptation samples than folds.
    """
    if len(x_adapt) < _FOLDS:
        raise ZoError(f"x has {len(x_adapt)} samples: back-propagation needs at least {_FOLDS}")
    started = time.perf_counter()
    tuner = _Tuner(keras_model)
    best, score = _cross_validate(tuner, x_adapt, y_adapt, seed)
    accuracies = []
    for run in range(_RUNS):
        tuner.train(x_adapt, y_adapt, best, seed + 1 + run)
        outputs = predict_float(tuner.model, x_test)
        accuracies.append(float(np.mean(outputs.argmax(axis=1) == y_test)))
    return BackpropResult(
        float(np.mean(accuracies)),
        tuple(accuracies),
        best.optimizer,
        best.rate,
        best.epochs,
        score,
        time.perf_counter() - started,
    )


class _Setting(NamedTuple):
    """How a model is tuned."""

    optimizer: str
    rate: float
    epochs: int


def _cross_validate(tuner: _Tuner, x: NDArray[np.float32], y: NDArray[np.int32], seed: int) -> tuple[_Setting, float]:
    """Return the setting with the best mean accuracy over held-out folds, and that accuracy."""
    folds = np.array_split(np.random.default_rng(seed).permutation(len(x)), _FOLDS)
    found: dict[_Setting, tuple[float, float]] = {}
    for optimizer, rates in _CANDIDATES.items():
        for rate in rates:
            longest = _Setting(optimizer, rate, _MAX_EPOCHS)
            curves = []
            for fold in folds:
                rest = np.concatenate([other for other in folds if other is not fold])
                curves.append(tuner.train(x[rest], y[rest], longest, seed, (x[fold], y[fold])))
            for epoch, (accuracy, loss) in enumerate(np.mean(curves, axis=0), start=1):
                # Equal accuracies are common with few samples: the lower loss decides.
                found[longest._replace(epochs=epoch)] = (float(accuracy), -float(loss))
    best = max(found, key=lambda setting: found[setting])
    return best, found[best][0]


class _Tuner:
    """A copy of the model; compiled once, started anew for every training."""

    def __init__(self, source: Any) -> None:
        tf, keras = import_tensorflow()
        self.model = model = keras.models.clone_model(source)
        self._weights = [np.array(value) for value in source.get_weights()]
        model.set_weights(self._weights)
        last = model.layers[-1]
        softmax = isinstance(last, keras.layers.Softmax) or (
            getattr(last, "activation", None) is keras.activations.softmax
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
        self._optimizer = Optimizer(model.trainable_variables)
        self._training = FloatTraining(
            lambda x: model(x, training=True),
            loss,
            self._optimizer,
            sample=model.input_shape[1:],
            label=tf.TensorSpec([None], tf.int32),
            compiled=True,
        )

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def evaluate(x: Any, y: Any) -> Any:
            outputs = model(x, training=False)
            hits = tf.equal(tf.argmax(outputs, axis=1, output_type=tf.int32), y)
            return tf.reduce_mean(tf.cast(hits, tf.float32)), loss(y, outputs)

        self._evaluate = evaluate

    def train(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        setting: _Setting,
        seed: int,
        validation: tuple[NDArray[Any], NDArray[Any]] | None = None,
    ) -> list[tuple[float, float]]:
        """Train from the given weights; return accuracy and loss on validation samples after each epoch."""
        curve: list[tuple[float, float]] = []

        def validate() -> None:
            if validation is not None:
                accuracy, loss = self._evaluate(*validation)
                curve.append((float(accuracy), float(loss)))

        self.model.set_weights(self._weights)
        self._optimizer.restart(adam=setting.optimizer == "adam")
        self._training.train(
            x,
            y,
            setting.rate,
            falling=False,
            epochs=setting.epochs,
            batch=_BATCH,
            seed=seed,
            after_epoch=validate,
        )
        return curve
