# SPDX-License-Identifier: Apache-2.0
"""What a fit tells about itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from tflm_zo.training.rates import Rates
from tflm_zo.training.watch import Outcome


@dataclass
class History:
    """What a fit did, one entry an epoch: ``loss``, ``accuracy`` (classes only), with validation data also
    ``val_loss`` and ``val_accuracy``, and ``passes``, the training passes so far. ``interrupted`` tells whether
    Ctrl-C or a callback ended it early.

    ``layer_executions`` counts how often a layer was executed during the fit, validation included;
    ``saved_executions`` how many more it would have been without remembering what the frozen layers in front make of
    a sample. Both are 0 in the simulator, which does not count them.

    ``rates`` are the learning rates that the fit measured or was given, ``guard`` says what kept the model from getting
    worse (:class:`~tflm_zo.training.watch.Outcome`). ``missing_classes`` are those that the model knew and the samples
    left out, in order."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False
    rates: Rates = field(default_factory=Rates)
    guard: Outcome = field(default_factory=Outcome)
    missing_classes: tuple[int, ...] = ()
    layer_executions: int = field(default=0, compare=False)
    saved_executions: int = field(default=0, compare=False)
