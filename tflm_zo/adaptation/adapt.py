# SPDX-License-Identifier: Apache-2.0
"""Adapting a model to a drift, from preparation through training to an ordinary int8 model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tflm_zo.adaptation.choice import Choice, Row, choose, patch_for_adapting, plain
from tflm_zo.errors import ZoError, no_data_warnings, warn_of_data
from tflm_zo.model.file import load_model
from tflm_zo.model.storage import read_model
from tflm_zo.realignment.preparation import Chain, Prepared, Preparer, preparable_input
from tflm_zo.training.history import History
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.new_classes import missing_notes
from tflm_zo.training.samples import loss_and_labels
from tflm_zo.training.trainer import Trainer
from tflm_zo.training.watch import explain


@dataclass(frozen=True)
class Adaptation:
    """An adapted ``model``, a plain int8 ``.tflite``, and how it came about.

    ``prepared``: the plain model before training; ``chain``: how it was prepared, without a filter if training is not
    seen to help; ``rows``: the preparations that were
    tried (:class:`tflm_zo.adaptation.choice.Row`); ``preparation``: why this one; ``history``: of the training, None
    without labels; ``passes``: forward passes of training.
    """

    model: bytes
    prepared: bytes
    chain: Chain
    rows: tuple[Row, ...]
    preparation: str
    history: History | None
    passes: int

    @property
    def training(self) -> str:
        """What training did, in one line."""
        if self.history is None:
            return "no labels: nothing is trained"
        return explain(self.history.guard)

    @property
    def chosen(self) -> Row | None:
        """The row of the preparation that was chosen, None if nothing was tried."""
        rows = [row for row in self.rows if row.chain == self.chain]
        return rows[-1] if rows else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "chain": self.chain.name,
            "preparations": plain(self.rows),
            "preparation": self.preparation,
            "training": self.training,
            "passes": self.passes,
            "guard": None if self.history is None else vars(self.history.guard),
            "rates": None if self.history is None else vars(self.history.rates),
            "model_bytes": len(self.model),
        }


def adapt(
    model: bytes | str | os.PathLike[str],
    x: np.ndarray,
    y: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    *,
    passes: int | None = None,
    epochs: int = Hyperparameters.epochs,
    loss: str = "auto",
    seed: int = 0,
    verbose: bool = False,
) -> Adaptation:
    """Adapt ``model`` (an int8 ``.tflite``, not patched) to samples ``x`` (n, ...) after a drift.

    ``y``: labels for ``x`` (classes, or vectors for a squared error), None if there are none. ``reference`` (m, ...):
    samples from before the drift, such as the representative data of the conversion; no labels. Samples are float in
    the model's units, int8 codes, or uint8 images.

    First the model is prepared by statistics (:mod:`tflm_zo.realignment.preparation`), by the steps that the samples
    speak for (:mod:`tflm_zo.adaptation.choice`), if there is a reference. Then, with labels, what :func:`tflm_zo.patch`
    trains by default is trained, or all layers if there is nothing of that, for at most ``epochs`` and ``passes``.
    Nothing is kept that samples show to make the model worse. ``loss`` as for patch, ``verbose`` shows progress.

    Raises :class:`ZoError` for unusable arguments; for ``loss`` entropy, too, whose training no label guards.
    """
    if y is None and reference is None:
        raise ZoError("there is nothing to adapt by: give labels y, or samples from before the drift (reference)")
    if loss == "entropy":
        raise ZoError("adapt trains by labels: leave out the loss entropy, or patch with it and train")
    Hyperparameters(epochs=epochs, passes=passes).check()
    x = np.asarray(x)
    data = bytes(model) if isinstance(model, (bytes, bytearray)) else read_model(model)
    if y is not None:
        loss, y = loss_and_labels(data, loss, x, np.asarray(y))
    with no_data_warnings():
        preparer, choice = _prepare(data, x, y, reference, loss, seed)
    prepared = choice.prepared
    codes = x if preparer is None else prepared.codes(preparer.codes(x)[:, 0])
    if y is None:
        whole = prepared.whole()
        return Adaptation(whole, whole, prepared.chain, choice.rows, choice.reason, None, 0)
    trainer = Trainer(patch_for_adapting(prepared.model, loss), seed)
    with no_data_warnings():
        history = trainer.fit(codes, y, epochs=epochs, passes=passes, verbose=verbose)
    if history.interrupted:
        raise ZoError("interrupted: nothing is written")
    warn_of_data(missing_notes(trainer.model, history.missing_classes))
    if history.guard.kept == "start":
        prepared = choice.untrained
    return Adaptation(
        prepared.whole(trainer.bake() if history.guard.kept != "start" else None),
        prepared.whole(),
        prepared.chain,
        choice.rows,
        choice.reason,
        history,
        trainer.progress.passes,
    )


def _prepare(
    data: bytes, x: np.ndarray, y: np.ndarray | None, reference: np.ndarray | None, loss: str, seed: int
) -> tuple[Preparer | None, Choice]:
    as_it_is = Prepared(Chain(), data, None)
    if reference is None:
        why = "no samples from before the drift (reference): nothing is prepared"
        return None, Choice(as_it_is, (), why, as_it_is)
    try:
        preparable_input(load_model(data))
    except ZoError as error:
        if y is None:
            raise
        return None, Choice(as_it_is, (), f"not prepared: {error}", as_it_is)
    preparer = Preparer(data, reference, x)
    return preparer, choose(preparer, x, y, loss, seed)
