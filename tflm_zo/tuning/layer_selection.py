# SPDX-License-Identifier: Apache-2.0
"""Which layers to train: what each brings on held-out samples, for the RAM and the forward passes it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflm_zo.board.boards import find_board
from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model
from tflm_zo.ops.counter_random import permutation
from tflm_zo.ops.names import is_patched
from tflm_zo.patching.adapter import NAME as ADAPTER
from tflm_zo.patching.bake import bake
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.progress_bar import ProgressBar
from tflm_zo.simulator.model import SimModel
from tflm_zo.training.folds import Samples, Score, into_folds, join, score_fold, score_untrained
from tflm_zo.training.samples import loss_and_labels
from tflm_zo.tuning.gradients import RelativeGradient, measure_gradient
from tflm_zo.tuning.layer_sets import LayerSets, Names
from tflm_zo.tuning.workers import Workers

PASSES, FOLDS = 5_000, 3

# Number of samples that gradients are measured on.
_GRADIENT_SAMPLES = 128
# Number of layers without a closed form that are tried: those of the largest relative gradient.
_TRIED = 12

# What the selection does with a layer.
CHOSEN = "train"
NO_GAIN = "freeze: no gain"
NOT_NEEDED = "freeze: no gain beside the others"
TOO_LARGE = "freeze: does not fit"
NOT_TRIED = "freeze: small gradient, not tried"


@dataclass(frozen=True)
class LayerValue:
    """What training a layer (or the input adapter) brings and costs.

    ``gain``: how much lower the held-out loss is than without it (the head is trained in both cases, if that
    helps), ``gain_error`` its standard error, ``accuracy_gain`` likewise (None without classes), ``passes`` of that
    training; all None if the layer was not tried. ``ram``, ``flash``: bytes that it adds. ``gradient``: of its
    weights (None: adapter). ``verdict``: ``train``, or why not.
    """

    name: str
    kind: str
    method: str
    ram: int
    flash: int
    gradient: RelativeGradient | None
    gain: float | None = None
    gain_error: float | None = None
    accuracy_gain: float | None = None
    passes: int | None = None
    verdict: str = NOT_TRIED

    @property
    def gain_per_kilobyte(self) -> float | None:
        """Loss that each KB of RAM takes away."""
        return None if self.gain is None else 1024 * self.gain / max(self.ram, 1)

    @property
    def gain_per_1000_passes(self) -> float | None:
        """Loss that 1000 forward passes take away."""
        return None if self.gain is None else 1000 * self.gain / max(self.passes or 0, 1)


@dataclass(frozen=True)
class Selection:
    """The layers, those that bring most per byte first, and the best set found within the memory.

    ``trainable``, ``adapter`` and ``loss`` are arguments of :func:`~tflm_zo.patch`; ``trainable`` is "" if nothing
    is gained by training. ``untrained``, ``default`` (what ``patch`` trains by default; None without closed forms,
    or if it does not fit) and ``chosen`` are held-out scores. ``ram`` and ``flash``: bytes on the board (0 if
    nothing is trained), of ``ram_limit`` and ``flash_limit``. ``sets``: how many sets were trained.
    """

    layers: tuple[LayerValue, ...]
    trainable: str
    adapter: bool
    loss: str
    untrained: Score
    default: Score | None
    chosen: Score
    ram: int
    flash: int
    ram_limit: int
    flash_limit: int
    sets: int


def select_layers(
    model: bytes,
    x: np.ndarray,
    y: np.ndarray,
    *,
    board: str = "nano33ble",
    ram: int | None = None,
    flash: int | None = None,
    passes: int = PASSES,
    folds: int = FOLDS,
    seed: int = 0,
    jobs: int = 1,
    loss: str = "auto",
    verbose: bool = True,
) -> Selection:
    """Find the layers of the int8 ``model`` that are worth training on samples ``x`` with labels ``y``.

    A layer is judged by its relative gradient norm, and by trainings in the simulator with ``passes`` forward
    passes for each of ``folds`` parts of the samples, on the others. The set then grows by the layers that bring
    most per byte, while that lowers the held-out loss by more than its standard error, and loses those without
    which it is better by as much (sequential floating selection; Pudil et al., 1994). Sets that take more than
    ``ram`` or ``flash`` bytes on ``board`` (default: as much as it has) are left out. A patched model is judged as
    the model that it was made from.

    ``loss`` is one of cross-entropy and mse; auto: what the labels say of outputs without softmax or sigmoid, else what
    :func:`~tflm_zo.patch` takes. ``jobs`` processes train side by side; the result does not depend on them. Raises
    :class:`ZoError` for models that cannot be trained or simulated, unusable samples, and if nothing fits.
    """
    if passes < 1:
        raise ZoError(f"passes is {passes}: it must be 1 or more")
    device = find_board(board)
    model = _plain(model)
    SimModel(model)  # raises if the model cannot be simulated
    loss, y = loss_and_labels(model, loss, x, y)
    sets = LayerSets(model, board, device.ram if ram is None else ram, device.flash if flash is None else flash, loss)
    samples = into_folds(x, y, folds, seed)
    try:
        with Workers(jobs) as workers:
            return _Selector(model, sets, samples, passes=passes, seed=seed, workers=workers, verbose=verbose).run()
    except KeyboardInterrupt:
        raise ZoError("interrupted") from None


def _plain(model: bytes) -> bytes:
    if not is_patched(load_model(model)):
        return model
    if any(parameter.layer == ADAPTER for parameter in read_patched(model).parameters):
        raise ZoError("the model has an input adapter: give the model that it was patched from")
    return bake(model, {})


class _Selector:
    def __init__(
        self,
        model: bytes,
        sets: LayerSets,
        samples: Samples,
        *,
        passes: int,
        seed: int,
        workers: Workers,
        verbose: bool,
    ) -> None:
        self._model, self._sets, self._samples = model, sets, samples
        self._passes, self._seed, self._workers, self._verbose = passes, seed, workers, verbose
        self._scores: dict[Names, Score] = {}

    def run(self) -> Selection:
        """Measure, rank and choose."""
        sets = self._sets
        alone = {name: frozenset({name}) for name in sets.layers}
        possible = [names for names in alone.values() if sets.fits(names)]
        if not possible:
            ram, flash = (min(sizes) for sizes in zip(*(_memory(sets, names) for names in alone.values()), strict=True))
            raise ZoError(
                f"nothing fits: a single layer takes {ram} bytes of RAM and {flash} of flash at least, the limits "
                f"are {sets.ram_limit} and {sets.flash_limit}"
            )
        gradients = self._gradients()
        self._scores[frozenset()] = score_untrained(sets.patched(possible[0]), self._samples)
        base: Names = frozenset()
        if sets.head and sets.fits(alone[sets.head]):
            self._train([alone[sets.head]], "the head")
            if self._improves(alone[sets.head], base):
                base = alone[sets.head]
        tried = self._shortlist(gradients)
        presets = [sets.default]
        if sets.default and ADAPTER in sets.layers:
            presets.append(sets.default | {ADAPTER})
        self._train([base | {name} for name in tried] + presets, "each layer")
        values = [self._value(name, frozenset() if name == sets.head else base, gradients) for name in sets.layers]
        values.sort(key=lambda value: -np.inf if value.gain_per_kilobyte is None else value.gain_per_kilobyte)
        values.reverse()
        chosen = self._best(self._shrink(self._grow(base, values)))
        ram, flash = _memory(sets, chosen) if chosen else (0, 0)
        return Selection(
            layers=tuple(replace(value, verdict=self._verdict(value, base, chosen)) for value in values),
            trainable=sets.trainable(chosen) if chosen else "",
            adapter=ADAPTER in chosen,
            loss=sets.loss,
            untrained=self._scores[frozenset()],
            default=self._scores.get(sets.default) if sets.default else None,
            chosen=self._scores[chosen],
            ram=ram,
            flash=flash,
            ram_limit=sets.ram_limit,
            flash_limit=sets.flash_limit,
            sets=len(self._scores) - 1,
        )

    # -- measuring -------------------------------------------------------------------------------------------

    def _gradients(self) -> dict[str, RelativeGradient]:
        rows = permutation(self._seed, 1, len(self._samples.x))[:_GRADIENT_SAMPLES]
        x, y = self._samples.x[rows], self._samples.y[rows]
        names, loss = [name for name in self._sets.layers if name != ADAPTER], self._sets.loss
        calls = {name: (measure_gradient, self._model, x, y, loss, name, self._seed) for name in names}
        with ProgressBar(len(calls), self._verbose, "gradient") as bar:
            return self._workers.run(calls, bar)

    def _shortlist(self, gradients: dict[str, RelativeGradient]) -> list[str]:
        """Layers to try: those with a closed form, the adapter, and others by their gradients."""
        sets = self._sets
        cheap = [name for name in sets.layers if name in sets.closed or name == ADAPTER]
        others = [name for name in sets.layers if name not in cheap and name != sets.head]
        others.sort(key=lambda name: -gradients[name].value)
        return cheap + others[:_TRIED]

    def _train(self, wanted: Iterable[Names], title: str) -> None:
        """Score the sets that fit and are not known yet."""
        new = [names for names in dict.fromkeys(wanted) if names and names not in self._scores]
        new = [names for names in new if self._sets.fits(names)]
        folds = range(len(self._samples.folds))
        calls: dict[tuple[Names, int], tuple[Any, ...]] = {
            (names, fold): (score_fold, self._sets.patched(names), self._samples, fold, self._seed, self._passes, {})
            for names in new
            for fold in folds
        }
        with ProgressBar(len(calls), self._verbose and bool(calls), f"training of {title}") as bar:
            results = self._workers.run(calls, bar)
        for names in new:
            self._scores[names] = join([results[names, fold] for fold in folds])

    def _value(self, name: str, base: Names, gradients: dict[str, RelativeGradient]) -> LayerValue:
        sets = self._sets
        ram, flash = sets.added(name, base)
        value = LayerValue(name, sets.layers[name], sets.method(name), ram, flash, gradients.get(name))
        score, before = self._scores.get(base | {name}), self._scores[base]
        if score is None:
            return value
        gain, error = score.gain_over(before)
        accuracy = None if score.accuracy is None or before.accuracy is None else score.accuracy - before.accuracy
        return replace(value, gain=gain, gain_error=error, accuracy_gain=accuracy, passes=score.passes)

    def _improves(self, names: Names, other: Names) -> bool:
        gain, error = self._scores[names].gain_over(self._scores[other])
        return gain > error

    # -- choosing --------------------------------------------------------------------------------------------

    def _grow(self, base: Names, values: Sequence[LayerValue]) -> Names:
        """Add what brings a gain, what brings most per byte first."""
        chosen = base
        for value in values:
            wanted = chosen | {value.name}
            if value.gain is None or value.gain_error is None or value.gain <= value.gain_error or wanted == chosen:
                continue
            self._train([wanted], "the set")
            if wanted in self._scores and self._improves(wanted, chosen):
                chosen = wanted
        return chosen

    def _shrink(self, chosen: Names) -> Names:
        """Take out layers as long as that makes the set better."""
        while len(chosen) > 1:
            smaller = [chosen - {name} for name in self._sets.layers if name in chosen]
            self._train(smaller, "smaller sets")
            best = min(smaller, key=lambda names: self._scores[names].loss)
            if not self._improves(best, chosen):
                break
            chosen = best
        return chosen

    def _best(self, chosen: Names) -> Names:
        """Another set that was trained on the way, if that is clearly better."""
        best = min(self._scores, key=lambda names: self._scores[names].loss)
        return best if self._improves(best, chosen) else chosen

    def _verdict(self, value: LayerValue, base: Names, chosen: Names) -> str:
        if value.name in chosen:
            return CHOSEN
        if not self._sets.fits(base | {value.name}):
            return TOO_LARGE
        if value.gain is None or value.gain_error is None:
            return NOT_TRIED
        if value.gain <= value.gain_error:
            return NO_GAIN
        return NOT_NEEDED if self._sets.fits(chosen | {value.name}) else TOO_LARGE


def _memory(sets: LayerSets, names: Names) -> tuple[int, int]:
    plan = sets.plan(names)
    return plan.ram_used, plan.flash_used
