# SPDX-License-Identifier: Apache-2.0
"""Float back-propagation, which training by forward passes is compared with: in the demo, and in tools/suites/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tflm_zo.conversion.keras_support import import_tensorflow, quiet


class Optimizer:
    """Adam (Kingma & Ba, 2015, beta 0.9 and 0.999), or SGD with momentum 0.9, for given TensorFlow variables.

    One class for both, told apart by a variable, so that what is compiled for the one serves the other, too.
    ``speeds``: for each variable what its steps are multiplied by (default: 1).
    """

    def __init__(self, variables: Sequence[Any], speeds: Sequence[float] | None = None) -> None:
        self.tf, _ = import_tensorflow()
        self.variables = list(variables)
        self.speeds = [1.0] * len(self.variables) if speeds is None else list(speeds)
        self._first = [self.tf.Variable(self.tf.zeros_like(v)) for v in self.variables]
        self._second = [self.tf.Variable(self.tf.zeros_like(v)) for v in self.variables]
        self._count = self.tf.Variable(0.0)
        self._adam = self.tf.Variable(False)

    def restart(self, adam: bool) -> None:
        """Forget all gradients; from now on be Adam, or SGD with momentum."""
        for moment in (*self._first, *self._second, self._count):
            moment.assign(self.tf.zeros_like(moment))
        self._adam.assign(adam)

    def step(self, gradients: Sequence[Any], rate: Any) -> None:
        """Move the variables down their gradients, given in the same order."""
        tf = self.tf
        self._count.assign_add(1.0)
        adam = tf.cast(self._adam, tf.float32)
        size = rate * tf.sqrt(1 - 0.999**self._count) / (1 - 0.9**self._count)
        for i, gradient in enumerate(gradients):
            self.move(i, gradient, rate, adam, size)

    def move(self, i: int, gradient: Any, rate: Any, adam: Any, size: Any) -> None:
        """Move variable ``i``. adam: 1.0, or 0.0 for momentum; size: the rate, corrected as Adam's first steps are."""
        first, second = self._first[i], self._second[i]
        first.assign(0.9 * first + (1.0 - 0.9 * adam) * gradient)
        second.assign(0.999 * second + 0.001 * gradient * gradient)
        step = adam * size * first / (self.tf.sqrt(second) + 1e-7) + (1.0 - adam) * rate * first
        self.variables[i].assign_sub(self.speeds[i] * step)


class FloatTraining:
    """Training of a network that is a TensorFlow function, in shuffled batches.

    Args:
        outputs: of inputs float32 ``(n, *sample)`` the network's outputs ``(n, units)``.
        loss: of labels and outputs the mean loss, a scalar.
        optimizer: of the variables that are trained. :meth:`train` goes on from the state that it is in.
        sample: shape of an input without the batch.
        label: ``tf.TensorSpec`` of the labels of any number of samples.
        compiled: by XLA, which takes a while but makes the steps of a small network twice as fast; other last bits.
    """

    def __init__(
        self,
        outputs: Callable[[Any], Any],
        loss: Callable[[Any, Any], Any],
        optimizer: Optimizer,
        *,
        sample: Sequence[int],
        label: Any,
        compiled: bool = False,
    ) -> None:
        self._tf = tf = optimizer.tf
        self._label = label
        signature = [
            tf.TensorSpec([None, *sample], tf.float32),
            label,
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([], tf.float32),
        ]

        # A whole epoch in one call: small steps are otherwise mostly the overhead of calling.
        @tf.function(autograph=False, input_signature=signature, jit_compile=compiled)  # type: ignore[untyped-decorator]
        def epoch(x: Any, y: Any, batches: Any, rates: Any, clip: Any) -> None:
            def body(index: Any) -> tuple[Any]:
                rows = batches[index]
                with tf.GradientTape() as tape:
                    value = loss(tf.gather(y, rows), outputs(tf.gather(x, rows)))
                gradients = tape.gradient(value, optimizer.variables)
                norm = tf.linalg.global_norm(gradients)
                scale = tf.minimum(1.0, clip / tf.maximum(norm, 1e-12))
                optimizer.step([g * scale for g in gradients], rates[index])
                return (index + 1,)

            tf.while_loop(lambda index: index < tf.shape(batches)[0], body, (tf.constant(0),))

        self._epoch = epoch

    def train(
        self,
        x: np.ndarray,
        y: np.ndarray,
        rate: float,
        *,
        falling: bool,
        epochs: int,
        batch: int,
        seed: int,
        clip: float = np.inf,
        after_epoch: Callable[[], None] = lambda: None,
    ) -> None:
        """Train the variables as they are on all samples, ``epochs`` times, in an order drawn from ``seed``.

        falling: the rate falls to zero in equal steps. batch: samples of a step; what is left of an epoch is not
        trained on. clip: gradients that are longer, all variables taken together, are cut to this length.
        """
        tf, rng = self._tf, np.random.default_rng(seed)
        batch = min(batch, len(x))
        steps = len(x) // batch
        rates = rate * (1 - falling * np.arange(epochs * steps) / (epochs * steps))
        inputs, labels = tf.constant(x, tf.float32), tf.constant(y, self._label.dtype)
        with quiet():
            for part in np.split(rates.astype(np.float32), epochs):
                order = rng.permutation(len(x))[: steps * batch].reshape(steps, batch)
                batches = tf.constant(order.astype(np.int32))
                self._epoch(inputs, labels, batches, tf.constant(part), tf.constant(np.float32(clip)))
                after_epoch()
