# SPDX-License-Identifier: Apache-2.0
"""Preparing a model for samples after a drift by statistics alone: no labels, no training.

Each step brings something back to what it was on samples from before the drift; together they form one chain, in the
order of the data: each sample's own mean (and spread), mean and spread of each input channel, a filter for images,
mean and spread of the channels of every convolution (realignment). Which of them help depends on the drift, so a
chain is a choice: see :mod:`tflm_zo.adaptation.choice`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.model.file import load_model, save_model, shape_of
from tflm_zo.model.quantization import Quantization, quantization_of
from tflm_zo.model.samples import input_codes, spread_over
from tflm_zo.ops.channel_statistics import channel_statistics
from tflm_zo.ops.names import is_patched
from tflm_zo.patching.adapter import add_adapter, has_adapter
from tflm_zo.patching.front_layer import input_tensor
from tflm_zo.realignment.filters import FILTERS, NO_FILTER, add_filter
from tflm_zo.realignment.realign import Realigner
from tflm_zo.realignment.sample_normalization import (
    ALL,
    CHANNEL,
    SampleNormalization,
    add_sample_normalization,
    normalize_codes,
    take_sample_normalization,
)

AS_IT_IS = "as it is"
MEAN, MEAN_AND_SPREAD, CHANNEL_MEANS = "mean", "mean and spread", "channel means"
# What of each sample may be moved to its usual value.
SAMPLE_STEPS = (MEAN, MEAN_AND_SPREAD, CHANNEL_MEANS)

# Limits of a channel's gain. Only channels that carry noise alone would get a gain beyond them.
_LARGEST_GAIN = 16.0
# Largest number of samples that mean and spread of channels are taken from.
_MOST_SAMPLES = 1000


@dataclass(frozen=True)
class Chain:
    """Steps of a preparation: ``sample`` is one of :data:`SAMPLE_STEPS` or None, ``filter`` one of
    :data:`tflm_zo.realignment.filters.FILTERS` or "none"."""

    sample: str | None = None
    channels: bool = False
    filter: str = NO_FILTER
    realigned: bool = False

    @property
    def steps(self) -> int:
        """How many steps it has."""
        return (self.sample is not None) + self.channels + (self.filter != NO_FILTER) + self.realigned

    @property
    def name(self) -> str:
        """For a reader."""
        steps = [
            f"each sample's {self.sample}" if self.sample else "",
            "channels" if self.channels else "",
            f"filter {self.filter}" if self.filter != NO_FILTER else "",
            "realigned" if self.realigned else "",
        ]
        return ", ".join(step for step in steps if step) or AS_IT_IS


@dataclass(frozen=True)
class Prepared:
    """A prepared model in two parts: ``normalization`` of the samples, in front, and the rest of the ``model``."""

    chain: Chain
    model: bytes
    normalization: SampleNormalization | None

    def codes(self, codes: np.ndarray) -> np.ndarray:
        """Return samples int8 (n, 1, ...) as the rest of the model gets them."""
        return codes if self.normalization is None else normalize_codes(codes, self.normalization)

    def whole(self, rest: bytes | None = None) -> bytes:
        """Return the model as one; ``rest``: what training has made of its second part."""
        model = self.model if rest is None else rest
        if self.normalization is None:
            return model
        tree = load_model(model)
        add_sample_normalization(tree, self.normalization)
        return save_model(tree)


def preparable_input(tree: Any) -> Any:
    """Return the tensor of the input of a model that can be prepared; raises :class:`ZoError` for another."""
    if is_patched(tree):
        raise ZoError("the model is patched already: prepare the original model, then patch it")
    source = input_tensor(tree, "preparation")
    # This changes the tree, which is not used afterwards.
    if has_adapter(tree) or take_sample_normalization(tree) is not None:
        raise ZoError("the model has been prepared already: prepare the original model")
    return source


class Preparer:
    """Makes chains of one model: a ``.tflite`` that is int8 inside, not patched.

    ``reference`` (n, ...): samples from before the drift; ``x`` (m, ...): samples after it; float in the model's units
    or int8 codes, no labels. Raises :class:`ZoError` if the model cannot be prepared at all, or for unusable samples.
    """

    def __init__(self, model: bytes, reference: np.ndarray, x: np.ndarray) -> None:
        source = preparable_input(load_model(model))
        self._shape, quantization = shape_of(source), quantization_of(source)
        assert quantization is not None  # input_tensor has checked it
        self._quantization: Quantization = quantization
        self._model = model
        before = input_codes(reference, self._shape, quantization, "reference")
        after = self.codes(x)
        self._reference = before[spread_over(len(before), _MOST_SAMPLES)]
        self._after = after[spread_over(len(after), _MOST_SAMPLES)]
        self._normalizations: dict[str, SampleNormalization] = {}
        self._normal: dict[tuple[str, bool], np.ndarray] = {}
        self._realigners: dict[str | None, Realigner] = {}

    def codes(self, x: np.ndarray) -> np.ndarray:
        """Return samples as the model's input codes, int8 (n, 1, ...)."""
        return input_codes(x, self._shape, self._quantization)

    def chains(self) -> Iterator[Chain]:
        """The chains without filters that the model takes, the shortest ones first."""
        steps: list[str | None] = [None, *(s for s in SAMPLE_STEPS if self._takes(Chain(sample=s)))]
        realigned = (False, True) if self._takes(Chain(realigned=True)) else (False,)
        found = [Chain(s, c, NO_FILTER, r) for s in steps for c in (False, True) for r in realigned]
        return iter(sorted(found, key=lambda chain: chain.steps))

    def filtered(self, chain: Chain) -> Iterator[Chain]:
        """The same chain with each of the filters that the model takes."""
        sides = self._shape[1:3] if len(self._shape) == 4 else (0,)
        for name, kernel in FILTERS.items():
            if len(kernel) <= min(sides):
                yield replace(chain, filter=name)

    def _takes(self, chain: Chain) -> bool:
        try:
            if chain.realigned:
                self._realigner(chain.sample)
            else:
                self._normalized(chain.sample, after=True)
        except ZoError:
            return False
        return True

    def prepare(self, chain: Chain) -> Prepared:
        """Return the model with the steps of ``chain``. Raises :class:`ZoError` if it does not take one of them."""
        normalization = self._normalization(chain.sample)

        def change(tree: Any) -> None:
            if chain.channels:
                add_adapter(tree, *self._gains_and_offsets(chain.sample))

        if chain.realigned:
            model = self._realigner(chain.sample).run(chain.filter, change)
        else:
            tree = load_model(self._model)
            change(tree)
            if chain.filter != NO_FILTER:
                add_filter(tree, chain.filter, round(float(self._normalized(chain.sample, after=True).mean())))
            model = save_model(tree)
        return Prepared(chain, model, normalization)

    def _normalization(self, sample: str | None) -> SampleNormalization | None:
        if sample is None:
            return None
        if sample not in self._normalizations:
            self._normalizations[sample] = SampleNormalization.usual(
                self._reference[:, 0],
                with_spread=sample == MEAN_AND_SPREAD,
                axes=CHANNEL if sample == CHANNEL_MEANS else ALL,
            )
        return self._normalizations[sample]

    def _normalized(self, sample: str | None, *, after: bool) -> np.ndarray:
        """The samples before or after the drift, int8 (n, ...), as what follows the step ``sample`` gets them."""
        codes = (self._after if after else self._reference)[:, 0]
        normalization = self._normalization(sample)
        if normalization is None or sample is None:
            return codes
        if (sample, after) not in self._normal:
            self._normal[sample, after] = normalize_codes(codes, normalization)
        return self._normal[sample, after]

    def _gains_and_offsets(self, sample: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Gain S / s and offset M - m S / s of each channel, about the input's zero point, in codes."""
        before = channel_statistics(self._normalized(sample, after=False))
        after = channel_statistics(self._normalized(sample, after=True))
        alive = (before.spread > 0) & (after.spread > 0)
        gains = np.ones(len(alive))
        gains[alive] = np.clip(before.spread[alive] / after.spread[alive], 1 / _LARGEST_GAIN, _LARGEST_GAIN)
        zero = self._quantization.zero_point
        return gains, (before.mean - zero) - gains * (after.mean - zero)

    def _realigner(self, sample: str | None) -> Realigner:
        if sample not in self._realigners:
            self._realigners[sample] = Realigner(
                self._model, self._normalized(sample, after=False), self._normalized(sample, after=True)
            )
        return self._realigners[sample]
