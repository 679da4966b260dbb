# SPDX-License-Identifier: Apache-2.0
"""The yardstick: what float back-propagation through all layers makes of the same samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tflm_zo.conversion.keras_support import import_tensorflow, predict_float, quiet
from tflm_zo.errors import ZoError

# The candidates among which cross-validation chooses; best values lie inside, not at an end.
_CANDIDATES: dict[str, tuple[float, ...]] = {
    "adam": (3e-4, 1e-3, 3e-3, 1e-2),
    "sgd": (1e-2, 3e-2, 1e-1),  # With Nesterov momentum 0.9.
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
    tf, keras = import_tensorflow()
    if len(x_adapt) < _FOLDS:
        raise ZoError(f"x has {len(x_adapt)} samples: back-propagation needs at least {_FOLDS}")
    started = time.perf_counter()
    tuners = {name: _Tuner(tf, keras, keras_model, name) for name in _CANDIDATES}
    best = _cross_validate(tuners, x_adapt, y_adapt, seed)
    tuner, everything = tuners[best.optimizer], np.arange(len(x_adapt))
    accuracies = []
    for run in range(_RUNS):
        tuner.train(x_adapt, y_adapt, everything, rate=best.rate, epochs=best.epochs, seed=seed + 1 + run)
        outputs = predict_float(tuner.model, x_test)
        accuracies.append(float(np.mean(outputs.argmax(axis=1) == y_test)))
    return BackpropResult(
        float(np.mean(accuracies)),
        tuple(accuracies),
        best.optimizer,
        best.rate,
        best.epochs,
        best.score[0],
        time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Setting:
    """How a model is tuned; ``score``: mean validation accuracy and minus the loss, the larger the better."""

    score: tuple[float, float]
    optimizer: str
    rate: float
    epochs: int


def _cross_validate(tuners: dict[str, _Tuner], x: NDArray[np.float32], y: NDArray[np.int32], seed: int) -> _Setting:
    """Return the setting with the best score over held-out folds."""
    folds = np.array_split(np.random.default_rng(seed).permutation(len(x)), _FOLDS)
    best: _Setting | None = None
    for name, rates in _CANDIDATES.items():
        for rate in rates:
            scores = np.zeros((_FOLDS, _MAX_EPOCHS, 2))
            for index, held_out in enumerate(folds):
                rest = np.concatenate([fold for fold in folds if fold is not held_out])
                curve = _Curve(tuners[name].evaluate, x[held_out], y[held_out])
                tuners[name].train(x, y, rest, rate=rate, epochs=_MAX_EPOCHS, seed=seed, curve=curve)
                scores[index] = curve.points
            for epoch, (accuracy, loss) in enumerate(scores.mean(axis=0), start=1):
                # Equal accuracies are common with few samples: the lower loss decides.
                found = _Setting((float(accuracy), -float(loss)), name, rate, epoch)
                if best is None or found.score > best.score:
                    best = found
    assert best is not None
    return best


class _Curve:
    """Accuracy and loss on a validation set after each epoch."""

    def __init__(self, evaluate: Callable[[Any, Any], Sequence[Any]], x: NDArray[Any], y: NDArray[Any]) -> None:
        self.points: list[tuple[float, float]] = []
        self._evaluate = evaluate
        self._x = x
        self._y = y

    def add(self) -> None:
        accuracy, loss = self._evaluate(self._x, self._y)
        self.points.append((float(accuracy), float(loss)))


class _Tuner:
    """One copy of the model and one optimizer; compiled once, started anew for every training."""

    def __init__(self, tf: Any, keras: Any, source: Any, optimizer: str) -> None:
        self.model = keras.models.clone_model(source)
        self._weights = [np.array(value) for value in source.get_weights()]
        self.model.set_weights(self._weights)
        if optimizer == "adam":
            self._optimizer = keras.optimizers.Adam(1.0)
        else:
            self._optimizer = keras.optimizers.SGD(1.0, momentum=0.9, nesterov=True)
        self._optimizer.build(self.model.trainable_variables)
        self._initial = [np.array(variable) for variable in self._optimizer.variables]
        last = self.model.layers[-1]
        softmax = isinstance(last, keras.layers.Softmax) or (
            getattr(last, "activation", None) is keras.activations.softmax
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
        model, update = self.model, self._optimizer

        def step(x: Any, y: Any) -> None:
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True))
            variables = model.trainable_variables
            update.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

        # A whole epoch in one call: small steps are otherwise mostly the overhead of calling.
        @tf.function(autograph=False, jit_compile=True)  # type: ignore[untyped-decorator]
        def epoch(x: Any, y: Any, batches: Any) -> None:
            def body(index: Any) -> tuple[Any]:
                step(tf.gather(x, batches[index]), tf.gather(y, batches[index]))
                return (index + 1,)

            tf.while_loop(lambda index: index < tf.shape(batches)[0], body, (tf.constant(0),))

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def evaluate(x: Any, y: Any) -> Any:
            outputs = model(x, training=False)
            hits = tf.equal(tf.argmax(outputs, axis=1, output_type=tf.int32), y)
            return tf.reduce_mean(tf.cast(hits, tf.float32)), loss(y, outputs)

        self._epoch = epoch
        self._tf = tf
        self.evaluate = evaluate

    def train(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        chosen: NDArray[np.intp],
        *,
        rate: float,
        epochs: int,
        seed: int,
        curve: _Curve | None = None,
    ) -> None:
        """Train from the given weights on the chosen samples, in shuffled batches of 16."""
        self.model.set_weights(self._weights)
        for variable, value in zip(self._optimizer.variables, self._initial, strict=True):
            variable.assign(value)
        self._optimizer.learning_rate = rate
        rng = np.random.default_rng(seed)
        count = min(_BATCH, len(chosen))
        steps = len(chosen) // count
        inputs = self._tf.constant(x, self._tf.float32)
        labels = self._tf.constant(y, self._tf.int32)
        with quiet():
            for _ in range(epochs):
                order = rng.permutation(chosen)[: steps * count].reshape(steps, count)
                self._epoch(inputs, labels, self._tf.constant(order, self._tf.int32))
                if curve is not None:
                    curve.add()
