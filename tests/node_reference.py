# SPDX-License-Identifier: Apache-2.0
"""Plain NumPy version of the node op: layers trained by their output, in single precision and to the bit.

Maps are (rows, columns, channels); that of a fully connected layer is (rows, 1, channels).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from reference import (
    MASK,
    NODE_DIRECTION,
    NODE_ROUNDING,
    F,
    Parameter,
    random_word,
    signs,
    stochastic_round,
    stream_key,
)


@dataclass(frozen=True)
class Layer:
    """A layer as its model file describes it; weight_scales: (outputs,) or (1,)."""

    kind: str  # "conv", "depthwise" or "dense"
    weights: np.ndarray  # int8 as stored: [o][y][x][c], depthwise [1][y][x][o], dense [o][c]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    same: bool  # padding
    zero_point: int  # of the input
    x_scale: float
    weight_scales: np.ndarray
    y_scale: float

    @property
    def outputs(self) -> int:
        return self.weights.shape[-1 if self.kind == "depthwise" else 0]

    def by_position(self, weights: np.ndarray) -> np.ndarray:
        """Values that are stored like the weights as [y][x][input channel][o], depthwise [y][x][o]."""
        if self.kind == "depthwise":
            return weights.reshape(self.weights.shape[1:])
        filters = self.weights.shape if self.kind == "conv" else (self.outputs, 1, 1, -1)
        return np.moveaxis(weights.reshape(filters), 0, -1)

    def as_stored(self, values: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`by_position`, flat."""
        return (values if self.kind == "depthwise" else np.moveaxis(values, -1, 0)).reshape(-1)

    def windows(self, x: np.ndarray) -> np.ndarray:
        """What the filters are multiplied with: float32 (rows, columns, y, x, channels), 0 in the padding.

        x: int8 codes (1, ...). Depthwise: the channels are the outputs, of which several read one input channel.
        """
        values = (x[0].astype(int) - self.zero_point).astype(F)
        if self.kind == "dense":
            return values.reshape(-1, 1, 1, 1, self.weights.shape[1])
        kernel = self.weights.shape[1:3]
        pads, starts = [], []
        for size, k, stride, dilation in zip(values.shape[:2], kernel, self.stride, self.dilation, strict=True):
            reach = (k - 1) * dilation + 1
            padding = max((-(-size // stride) - 1) * stride + reach - size, 0) if self.same else 0
            pads.append((padding // 2, padding - padding // 2))
            starts.append(range(0, size + padding - reach + 1, stride))
        padded = np.pad(values, [*pads, (0, 0)])
        if self.kind == "depthwise":
            padded = padded.repeat(self.outputs // padded.shape[2], axis=2)
        down, right = (np.arange(k) * d for k, d in zip(kernel, self.dilation, strict=True))
        return np.array([[padded[i + down][:, j + right] for j in starts[1]] for i in starts[0]])

    def gradient(self, x: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dL/dw (see :meth:`by_position`) in units of dy times a code of x, and dL/db, from dL/dy of the map.

        Sums over the positions in their order.
        """
        dw, db = np.zeros_like(self.by_position(self.weights), dtype=F), np.zeros(self.outputs, dtype=F)
        windows = self.windows(x)
        for position in np.ndindex(dy.shape[:2]):
            window = windows[position] if self.kind == "depthwise" else windows[position][..., None]
            dw = dw + dy[position] * window
            db = db + dy[position]
        return dw, db


class Ends(NamedTuple):
    """Whether a sample is the first of its batch, and the last."""

    begin: bool
    apply: bool


@dataclass
class Node:
    """One node op.

    low, high: codes at which its map is saturated; weights: None if only the bias is trained; pool: if the gradient
    comes from the head, the window whose mean is a feature.
    """

    number: int
    layer: Layer
    low: int
    high: int
    weights: Parameter | None
    bias: Parameter | None
    pool: tuple[int, int] | None
    accumulates: bool
    sigma: int = 0
    block: int = 1
    rate: float = 0.0
    keep: float = 1.0
    sums: tuple[np.ndarray, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self._clear_sums()

    def _clear_sums(self) -> None:
        filters = self.layer.by_position(self.layer.weights)
        self.sums = np.zeros(filters.shape, dtype=F), np.zeros(self.layer.outputs, dtype=F)

    @property
    def accumulator(self) -> np.ndarray:
        """The sums as they lie in memory, float32: weights, one output channel after the other, then biases."""
        filters = np.moveaxis(self.sums[0], -1, 0).reshape(-1)
        return np.concatenate([filters if self.weights is not None else filters[:0], self.sums[1]])

    def kept(self, seed: int) -> np.ndarray:
        """Which output channels take part: bool (channels,)."""
        if self.keep == 1:
            return np.ones(self.layer.outputs, dtype=bool)
        key = stream_key(seed, MASK, self.number, 0)
        words = np.array([random_word(key, channel) >> 8 for channel in range(self.layer.outputs)])
        return words.astype(F) * F(2.0**-24) < F(self.keep)

    def saturated(self, y: np.ndarray) -> np.ndarray:
        return (y <= self.low) | (y >= self.high)

    def perturbed(self, y: np.ndarray, sign: int, seed: int, query: int) -> np.ndarray:
        """The map y, int8, with sign * sigma * u added."""
        u = self._direction(y.shape, seed, query)
        moved = np.clip(y + sign * self.sigma * u, self.low, self.high)
        return np.where(self.saturated(y) | ~self.kept(seed), y, moved).astype(np.int8)

    def update_from_losses(
        self, x: np.ndarray, y: np.ndarray, slopes: np.ndarray, rate: float, seed: int, ends: Ends
    ) -> None:
        """x, y: clean codes of input and map; slopes: float32 (queries,), loss differences scaled to a mean.

        A direction's slope is shared out among the positions that have its sign.
        """
        gradient = np.zeros(y.shape, dtype=F)
        for query, slope in enumerate(slopes):
            gradient = gradient + np.where(self._direction(y.shape, seed, query) > 0, slope, -slope)
        blocks = self._blocks(y.shape)
        gradient = gradient / np.bincount(blocks.reshape(-1))[blocks].astype(F)[..., None]
        # Losses are per sigma codes of y, the layer's gradient is per real unit.
        unit = F(1 / self.layer.y_scale) / F(self.sigma)
        self._update(x, y, gradient, F(self.rate) * F(rate) * unit, seed, ends, self.kept(seed))

    def update_from_features(
        self, x: np.ndarray, y: np.ndarray, features: np.ndarray, rate: float, seed: int, ends: Ends
    ) -> None:
        """features: dL/d(real-valued features), float32, flat; a feature is the mean of a window of the map."""
        assert self.pool is not None
        high, wide = self.pool
        pooled = features.reshape(y.shape[0] // high, y.shape[1] // wide, y.shape[2])
        gradient = pooled.repeat(high, axis=0).repeat(wide, axis=1) * (F(1) / F(high * wide))
        every = np.ones(self.layer.outputs, dtype=bool)
        self._update(x, y, gradient, F(self.rate) * F(rate), seed, ends, every)

    def _blocks(self, shape: tuple[int, ...]) -> np.ndarray:
        """Number of the block that a position belongs to, row by row: int (rows, columns)."""
        rows, columns = (np.arange(size) // (self.block or size) for size in shape[:2])
        return rows[:, None] * (columns[-1] + 1) + columns

    def _direction(self, shape: tuple[int, ...], seed: int, query: int) -> np.ndarray:
        """Signs u: int64 (rows, columns, channels), one for each channel of a block."""
        blocks = self._blocks(shape)
        key = stream_key(seed, NODE_DIRECTION, query, self.number)
        return signs(key, (blocks.max() + 1) * shape[2]).reshape(-1, shape[2])[blocks]

    def _update(
        self,
        x: np.ndarray,
        y: np.ndarray,
        gradient: np.ndarray,
        rate: F,
        seed: int,
        ends: Ends,
        kept: np.ndarray,
    ) -> None:
        dw, db = self.layer.gradient(x, np.where(self.saturated(y) | ~kept, F(0), gradient))
        if self.accumulates:
            if ends.begin:
                self._clear_sums()
            self.sums = self.sums[0] + dw, self.sums[1] + db
            if not ends.apply:
                return
            (dw, db), kept = self.sums, np.ones_like(kept)
            self._clear_sums()
        key = stream_key(seed, NODE_ROUNDING, self.number, 0)
        scales = self.layer.weight_scales
        if self.weights is not None:
            # Scales by which a rate for real weights becomes one for codes (Zhao et al., ACM TODAES 30(5), 2025).
            steps = rate * self._per_channel(self.layer.x_scale / scales) * dw
            words = np.array([random_word(key, i) for i in range(steps.size)])
            words = self.layer.by_position(words)
            change = np.clip(_rounded(steps, words), -254, 254)
            self._move(self.weights, self.layer.as_stored(change), self.layer.as_stored((change != 0) & kept))
        if self.bias is not None:
            steps = rate * self._per_channel(1 / (self.layer.x_scale * scales)) * db
            words = np.array([random_word(key, self.layer.weights.size + i) for i in range(steps.size)])
            self._move(self.bias, _rounded(steps, words), kept)

    def _per_channel(self, values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values.astype(F), self.layer.outputs)

    @staticmethod
    def _move(parameter: Parameter, change: np.ndarray, where: np.ndarray) -> None:
        """Elements that weight perturbation may perturb keep their headroom, the others use the whole range."""
        bound = np.where(parameter.moves, parameter.limit - parameter.headroom, parameter.limit)
        moved = np.clip(parameter.values - change, -bound, bound)
        parameter.values = np.where(where, moved, parameter.values)


def _rounded(steps: np.ndarray, words: np.ndarray) -> np.ndarray:
    flat = [stochastic_round(step, int(word)) for step, word in zip(steps.flat, words.flat, strict=True)]
    return np.array(flat, dtype=np.int64).reshape(steps.shape)
