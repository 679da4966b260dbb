# SPDX-License-Identifier: Apache-2.0
"""What carries out the passes of a training: the interface of TFLM's wheel, the simulator and a board."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.labels import SIGMOID, Labels, predicted_classes
from tflm_zo.ops.step import Exact, Group
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.hyperparameters import Hyperparameters
from tflm_zo.training.rates import Rates
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.step_totals import StepTotals
from tflm_zo.training.training_state import Snapshot

# Told of passes when they are done.
Advance = Callable[[int], object]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Samples as an engine takes them: input ``codes`` (n, *input_shape) and ``targets`` (n, *target_shape).

    ``labels``: what the targets were made of, to measure by; engines do not need it.
    """

    codes: np.ndarray
    targets: np.ndarray
    labels: Labels | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, indices: np.ndarray) -> Labelled:
        return Labelled(self.codes[indices], self.targets[indices])


@dataclass(frozen=True)
class StepSettings:
    """What the steps of a fit are made of; see ``kernels/schedule.h``.

    ``batch`` is the largest number of samples of a step, ``run`` names the fit to engines that outlive the trainer.
    """

    seed: int
    antithetic: bool
    exact: Exact
    accumulate: bool
    groups: Sequence[Group]
    batch: int
    passes_a_sample: int
    run: int = 0


@dataclass(frozen=True)
class Scored:
    """Of each sample the ``loss`` (float32 (n,)) and the class that the int8 output says (int (n,), of a map
    (n, cells)), None if the model is not patched for classes."""

    losses: np.ndarray
    classes: np.ndarray | None


def said_classes(model: PatchedModel, outputs: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the classes (n,), of a map (n, cells), that a model's outputs (n, ...), as it stores them, say.

    ``predictions``: those that the loss op reports, from the logits, whose codes may differ where those of the outputs
    are the same. Who has the outputs alone, as the plain model's users have, sees what this returns. A single logit
    without a sigmoid is no probability: there the report counts, and the logit's sign in a map.
    """
    positions = model.loss.positions
    values = model.output.reals(outputs).reshape(len(outputs) * positions, -1)
    if values.shape[1] == 1 and model.outputs.ending != SIGMOID:
        return predictions if positions == 1 else (values > 0).astype(np.int64).reshape(-1, positions)
    found = predicted_classes(values)
    return found if positions == 1 else found.reshape(-1, positions)


@dataclass(frozen=True)
class Executions:
    """How many layers were executed since the engine started, and how many more it would have been if the frozen
    layers in front had run in every pass."""

    done: int = 0
    saved: int = 0


@dataclass(frozen=True)
class Position:
    """Where an engine that outlives its trainer stands: name of the run (0: none), number of the next step, and what it
    says about itself."""

    run: int
    steps: int
    message: str


class EngineRestarted(ZoError):
    """The engine has started anew, from its newest checkpoint, which is at ``position``."""

    def __init__(self, message: str, position: Position) -> None:
        super().__init__(message)
        self.position = position


class Store(ABC):
    """Checkpoints of an engine's own, which outlive the trainer."""

    saves: bool
    """Whether checkpoints are made at all; without, only the run that the engine is in can be gone on with."""

    saved_step: int
    """The step that the newest checkpoint of this trainer was made at, -1 before it."""

    adopted: bool
    """Whether the fit in work was begun by another trainer, with the weights that the model was patched with."""

    @property
    @abstractmethod
    def position(self) -> Position:
        """Where the engine stands."""

    @abstractmethod
    def save(self, step: int) -> None:
        """Save weights and position, before ``step``. Raises :class:`EngineRestarted` if the weights are lost."""

    @abstractmethod
    def restore(self, step: int | None = None) -> Position:
        """Bring back the newest checkpoint, to go on with ``step``: it is then made anew, to be of that step."""


class Engine(ABC):
    """Runs one patched model and holds the values of its parameters. All engines give the same bits.

    ``model``: the patched model; ``store``: the engine's own checkpoints, if it keeps some. Methods raise
    :class:`ZoError` if the engine is gone or refuses.
    """

    store: Store | None = None

    def __init__(self, model: PatchedModel) -> None:
        self.model = model

    # -- passes --------------------------------------------------------------------------------------------

    @abstractmethod
    def predict(self, codes: np.ndarray) -> np.ndarray:
        """Return the outputs for input codes (n, ...) as the model stores them (n, *output_shape[1:])."""

    @abstractmethod
    def evaluate(self, samples: Labelled) -> Scored:
        """Score the present weights on samples, a pass for each."""

    # -- training ------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, settings: StepSettings) -> None:
        """Raise :class:`ZoError` if such steps cannot be run here; changes nothing."""

    @abstractmethod
    def measure(self, recipe: Recipe, hyper: Hyperparameters, samples: Labelled, *, epochs: int, seed: int) -> Rates:
        """Return the rates that ``recipe`` leaves open for a fit of ``epochs`` on ``samples``
        (:func:`~tflm_zo.training.probing.measure_rates`); changes no weight."""

    @abstractmethod
    def configure(self, recipe: Recipe, settings: StepSettings, head_rate: float, step: int) -> None:
        """Set what the next steps are made of, up to another call. ``recipe`` has all its rates; ``head_rate`` is that
        of the exact head, ``step`` the number of the next step."""

    @abstractmethod
    def step(self, samples: Labelled, batch: np.ndarray, step: int, rate_scale: float, advance: Advance) -> StepTotals:
        """Train a step on the samples with the indices ``batch``; ``rate_scale`` multiplies all rates."""

    @abstractmethod
    def finish(self, samples: Labelled) -> int:
        """Apply the update that the last step left pending; returns the passes that took (0 or 1)."""

    def abandon_step(self) -> None:  # noqa: B027 (nothing to do for engines whose steps end by themselves)
        """Leave the weights unperturbed where an exception has broken off a step."""

    # -- weights -------------------------------------------------------------------------------------------

    @abstractmethod
    def read(self) -> Snapshot:
        """Return copies of all parameters' values."""

    @abstractmethod
    def write(self, snapshot: Snapshot) -> None:
        """Set all parameters. Raises :class:`ZoError`, with nothing changed, if a value is out of range."""

    @abstractmethod
    def reset(self) -> None:
        """Bring back the values that the model was patched with."""

    @abstractmethod
    def recalibrate(self, codes: np.ndarray) -> None:
        """Set the input adapter by what ``codes`` (at least 2 samples, int8 (n, *input_shape)) are now."""

    # -- what it costs, whether it is right --------------------------------------------------------------------

    @property
    @abstractmethod
    def arena_bytes(self) -> int:
        """Bytes of the arena that the model takes."""

    def executions(self) -> Executions:
        """Executions of layers, for engines that count them."""
        return Executions()

    def confirm(self, codes: np.ndarray) -> None:  # noqa: B027 (TFLM's own passes need no confirmation)
        """Raise :class:`ZoError` if TFLM does not give this engine's outputs for some of ``codes``."""
