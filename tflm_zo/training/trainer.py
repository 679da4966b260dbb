# SPDX-License-Identifier: Apache-2.0
"""Training a patched model, by whatever engine runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError, warn_of_data
from tflm_zo.model.storage import read_model
from tflm_zo.ops.options import KIND_RESIDUAL, KIND_WEIGHTS
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.tflm.interpreter import check_arena
from tflm_zo.training import checkpoint
from tflm_zo.training.engine import Engine, Labelled
from tflm_zo.training.engines import make_engine
from tflm_zo.training.evaluation import mean_scores, sample_scores
from tflm_zo.training.fit import Fit, Listeners
from tflm_zo.training.history import History
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.keeping import Keeping, StoreKeeping
from tflm_zo.training.new_classes import missing_notes
from tflm_zo.training.samples import labelled
from tflm_zo.training.session import Session
from tflm_zo.training.training_state import Progress, Snapshot

Callback = Callable[["Trainer", dict[str, float]], Any]


class Trainer:
    """A patched model that learns from labelled samples, with forward passes only.

    ``model`` is a patched model's bytes or path; ``seed`` fixes every random choice; ``arena_size`` in bytes
    (default: as much as needed). ``engine`` carries the passes out: "auto", the simulator where it knows all of the
    model's operators, else TFLM; "simulator"; "tflm"; or an :class:`~tflm_zo.training.engine.Engine` of this model,
    such as a board. Raises :class:`ZoError` if the model cannot be trained or does not fit.

    Same model, samples, seed and hyperparameters give the same weights, to the bit, whatever the engine.
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        seed: int = 0,
        arena_size: int | None = None,
        engine: str | Engine = "auto",
    ) -> None:
        data = bytes(model) if isinstance(model, (bytes, bytearray)) else read_model(model)
        self.engine = engine if isinstance(engine, Engine) else make_engine(engine, read_patched(data))
        if self.engine.model.data != data:
            raise ZoError("the engine runs another model: make it from this one")
        if arena_size is not None:
            check_arena(self.engine.arena_bytes, arena_size)
        self._session = Session(seed)
        store = self.engine.store
        self._keeping = Keeping(self.engine) if store is None else StoreKeeping(self.engine, store)

    @property
    def model(self) -> PatchedModel:
        """What is known of the patched model."""
        return self.engine.model

    @property
    def seed(self) -> int:
        """What fixes every random choice."""
        return self._session.seed

    @property
    def progress(self) -> Progress:
        """How far the training has come."""
        return self._session.progress

    # -- learning ------------------------------------------------------------------------------------------

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray | None = None,
        *,
        validation_data: tuple[np.ndarray, np.ndarray | None] | None = None,
        callbacks: Sequence[Callback] = (),
        verbose: bool = True,
        resume: bool = False,
        **hyperparameters: Any,
    ) -> History:
        """Train on samples ``x`` (n, ...) with labels ``y`` (class indices, or vectors for mse).

        A model patched with loss entropy learns from ``x`` alone; labels then only tell the accuracy.

        validation_data: (x, y) to measure after each epoch. callbacks: called after each epoch with the trainer
        and its logs; a true result ends the training. verbose: show a progress bar. resume: go on with a fit that
        Ctrl-C ended, or that a checkpoint was saved in; give the same samples and hyperparameters. A board goes on with
        what it is in, or has in its flash; a fit with a guard goes on in the object that began it, in another one
        only from its start.
        hyperparameters: epochs, batch_size, passes, method, queries, head_lr and the others that
        :class:`~tflm_zo.training.hyperparameters.Hyperparameters` explains.

        Ctrl-C ends the training after the batch in work. A fit in the simulator ends with a look, where TFLM is
        installed, whether it gives the same outputs. Warns (:class:`~tflm_zo.errors.DataWarning`) of classes that the
        model knows and the samples leave out. Raises :class:`ZoError` for unusable arguments.
        """
        unknown = set(hyperparameters) - {f.name for f in fields(Hyperparameters)}
        if unknown:
            raise TypeError(f"fit has no hyperparameter {sorted(unknown)[0]!r}")
        samples = self._labelled(x, y)
        listeners = Listeners(
            None if validation_data is None else self._labelled(*validation_data),
            [partial(callback, self) for callback in callbacks],
            verbose,
        )
        fit = Fit(self.engine, self._session, self._keeping, samples, Hyperparameters(**hyperparameters))
        warn_of_data(missing_notes(self.model, fit.missing_classes))
        return fit.run(listeners, resume)

    def recalibrate(self, x: np.ndarray) -> None:
        """Undo a drift of the sensor by gain and offset of each input channel, without labels and forward passes.

        x: at least 2 samples (n, ...) as they come now. Mean and spread of their channels are brought back to those of
        the samples that the model was patched with as a reference, within the input adapter's range. Whatever the
        adapter has learned is replaced; training may go on from there. A board saves a checkpoint afterwards, if it
        makes any.

        Raises :class:`ZoError` if the model was patched without adapter or reference, or ``x`` is not usable.
        """
        self.engine.recalibrate(self.recalibration_codes(x))
        self._keeping.recalibrated(self._session)

    def recalibration_codes(self, x: np.ndarray) -> np.ndarray:
        """Return samples to recalibrate on as int8 (n, *input_shape); raises as :meth:`recalibrate`."""
        if self.model.reference is None:
            raise ZoError(
                "the model has nothing to recalibrate by: patch it with the adapter and reference samples "
                "(--adapter --reference before.npz)"
            )
        codes = self.model.input.codes(x)
        if len(codes) < 2:
            raise ZoError("x has one sample: recalibration needs at least 2, better some hundred")
        return codes

    # -- using the model -----------------------------------------------------------------------------------

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs for ``x`` (n, ...) as float32 (n, ...)."""
        return self.model.output.reals(self.predict_codes(x))

    def predict_codes(self, x: np.ndarray) -> np.ndarray:
        """Return the model's outputs for ``x`` as it stores them (int8 or uint8 codes, or float32), shape (n, ...)."""
        return self.engine.predict(self.model.input.codes(x))

    def evaluate(self, x: np.ndarray, y: np.ndarray | None = None) -> dict[str, float]:
        """Return ``loss`` and, for classes, ``accuracy`` (of the model's int8 output) on samples and labels.

        ``y`` may be left out for a model patched with loss entropy; there is no accuracy then.
        """
        return mean_scores(self.engine, self._labelled(x, y))

    def sample_scores(self, x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the loss of each sample (float32 (n,)) and, for classes, whether the model's int8 output is right
        (bool (n,), else None)."""
        return sample_scores(self.engine, self._labelled(x, y))

    def _labelled(self, x: np.ndarray, y: np.ndarray | None) -> Labelled:
        return labelled(x, y, self.model)

    # -- weights -------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the trained tensors by name (``layer/weights`` int8, ``layer/bias`` int32)."""
        values = self.engine.read().values
        return {p.name: values[p.index].reshape(p.shape) for p in self.model.parameters if p.in_model}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Set trained tensors by the names, shapes and types that :attr:`weights` has; others keep their values.

        What rounding has left behind for a layer's weights (its residual) becomes 0; momentum states stay. The next fit
        begins from here, and one that was interrupted cannot be resumed. A board saves a checkpoint, if it makes any.

        Raises :class:`ZoError`, with nothing changed, if a tensor is not trained, has another shape or type, or holds a
        value that could not be perturbed: weights that the model was patched with at -123 to 123 stay in that range,
        biases keep the same distance, in steps of theirs, from the ends of int32. Averages of such values are in it.
        """
        values = self.engine.read().values
        trained = {p.name: p for p in self.model.parameters if p.in_model}
        given = {name: np.asarray(value) for name, value in weights.items()}
        for name, value in given.items():
            if name not in trained:
                raise ZoError(f"no {name!r} is trained: the model has {', '.join(trained)}")
            parameter = trained[name]
            if value.dtype != parameter.dtype or value.shape != parameter.shape:
                raise ZoError(
                    f"{name} is {value.dtype} of shape {value.shape}: it must be {parameter.dtype} of shape "
                    f"{parameter.shape}"
                )
            values[parameter.index] = value.reshape(-1)
        set_layers = {trained[name].entry.layer for name in given if trained[name].kind == KIND_WEIGHTS}
        for parameter in self.model.parameters:
            if parameter.kind == KIND_RESIDUAL and parameter.entry.layer in set_layers:
                values[parameter.index] = np.zeros(parameter.count, parameter.dtype)
        self.engine.write(Snapshot(values, {}))
        self._session.begin_anew()
        self._keeping.replaced(self._session)

    def bake(self) -> bytes:
        """Return a plain int8 ``.tflite`` with the trained weights."""
        return bake(self.model.data, dict(enumerate(self.engine.read().values)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint to ``path``, atomically; training can go on from it to the same bits.

        Of a board, too: what it has now. Raises :class:`ZoError` if the weights have a momentum state that the engine
        does not tell.
        """
        current = self.engine.read()
        best, unfinished = current, None
        if self._keeping.kept is not None:
            best, unfinished = self._keeping.kept, self._keeping.suspended or current
        session = self._session
        guard = session.watch_state
        state = checkpoint.Checkpoint(session.seed, session.progress, best, unfinished, guard, session.samples)
        checkpoint.save(path, self.model, state)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from the checkpoint ``path``: its weights, seed and progress.

        Of a fit that was not finished these are the best weights so far; ``fit(..., resume=True)`` goes on from the
        last ones. Raises :class:`ZoError`, with nothing changed, if it is damaged or of another model.
        """
        saved = checkpoint.load(path, self.model)
        before = self.engine.read()
        try:
            for snapshot in (saved.unfinished, saved.best):
                if snapshot is not None:
                    self.engine.write(snapshot)
        except ZoError as error:
            self.engine.write(before)
            raise ZoError(f"{path}: {error}: the file is damaged") from error
        self._keeping.forget()
        self._session = Session(saved.seed, saved.progress, stored_watch=saved.guard, samples=saved.samples)
        if saved.unfinished is not None:
            self._keeping.kept, self._keeping.suspended = saved.best, saved.unfinished

    def reset(self) -> None:
        """Bring back the weights that the model was patched with, and start the steps anew. A board forgets its
        checkpoints."""
        self.engine.reset()
        self._session = Session(self.seed)
        self._keeping.forget_run()

    @property
    def arena_bytes(self) -> int:
        """Bytes of the arena that the model takes, as its engine counts them."""
        return self.engine.arena_bytes
