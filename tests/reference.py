# SPDX-License-Identifier: Apache-2.0
"""Plain NumPy versions of the training ops: what the kernels compute, in single precision and to the bit.

Written from the contracts in the kernels' headers; they keep a clean copy of the weights, which the kernels
do without. The node op's is in node_reference.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

F = np.float32

INITIALISE, UPDATE, FORWARD, CLEAR, LOSS, ACCUMULATE, HEAD, NODE_UPDATE, NODE_APPLY, NODE_BEGIN, MEASURE = (
    1 << i for i in range(11)
)
STEP, DIRECTION, UPDATE_ROUNDING, HEAD_ROUNDING, NODE_DIRECTION, NODE_ROUNDING, MASK = range(1, 8)
MAX_QUERIES, MAX_GROUPS = 64, 63
MAGIC = 0x5A4F434D

# -- random numbers ----------------------------------------------------------------------------------------

_GOLDEN = 0x9E3779B9


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def stream_key(seed: int, stream: int, a: int, b: int) -> int:
    key = mix((seed + stream * _GOLDEN) & 0xFFFFFFFF)
    key = mix(key ^ (a * _GOLDEN + 0x7F4A7C15) & 0xFFFFFFFF)
    return mix(key ^ (b * _GOLDEN + 0x85EBCA6B) & 0xFFFFFFFF)


def random_word(key: int, counter: int) -> int:
    return mix((key + counter * _GOLDEN) & 0xFFFFFFFF)


def signs(key: int, count: int) -> np.ndarray:
    """Rademacher signs int64 (count,): bit i % 32 of word i / 32."""
    words = [random_word(key, block) for block in range(-(-count // 32))]
    return np.array([1 if words[i // 32] >> i % 32 & 1 else -1 for i in range(count)])


# -- real arithmetic ---------------------------------------------------------------------------------------


def exp_non_positive(x: F) -> F:
    x = max(F(x), F(-87))
    n = np.floor(x * F(1.44269504) + F(0.5))
    r = (x - n * F(0.693359375)) - n * F(-2.12194440e-4)
    p = F(1) / F(720)
    for coefficient in (F(1) / F(120), F(1) / F(24), F(1) / F(6), F(0.5), F(1), F(1)):
        p = p * r + coefficient
    return p * np.ldexp(F(1), int(n))


def log_positive(x: F) -> F:
    mantissa, exponent = np.frexp(F(x))
    mantissa, exponent = mantissa * F(2), int(exponent) - 1
    if mantissa > F(1.41421356):
        mantissa, exponent = mantissa * F(0.5), exponent + 1
    s = (mantissa - F(1)) / (mantissa + F(1))
    z = s * s
    p = F(1) / F(9)
    for divisor in (7, 5, 3, 1):
        p = p * z + F(1) / F(divisor)
    return F(exponent) * F(0.693147182) + F(2) * s * p


def stochastic_round(x: F, word: int) -> int:
    limit = 1 << 30
    if x >= limit:
        return limit
    if x <= -limit:
        return -limit
    floor = np.floor(x)
    return int(floor) + int(F(word >> 8) * F(2.0**-24) < x - floor)


# -- weight perturbation -----------------------------------------------------------------------------------


@dataclass
class Parameter:
    """A trainable tensor: clean values, flat; limit 127 or 2^31 - 1; factors 1 / scale^2 per channel."""

    initial: np.ndarray
    limit: int
    headroom: int
    channels: int
    channel_stride: int
    factors: np.ndarray
    layer: int = 0
    sigma: int = 0
    rate: float = 0.0
    keep: float = 1.0
    values: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.initial = self.initial.astype(np.int64)
        self.values = self.initial.copy()

    @property
    def moves(self) -> np.ndarray:
        return np.abs(self.initial) <= self.limit - self.headroom

    def part(self, seed: int) -> np.ndarray:
        """Which elements take part in the step of this seed."""
        if self.keep == 1:
            return self.moves
        channel = np.arange(self.initial.size) // self.channel_stride % self.channels
        key = stream_key(seed, MASK, self.layer, 0)
        words = np.array([random_word(key, c) >> 8 for c in range(self.channels)])
        return self.moves & (words.astype(F) * F(2.0**-24) < F(self.keep))[channel]

    def direction(self, seed: int, query: int, index: int) -> np.ndarray:
        return signs(stream_key(seed, DIRECTION, query, index), self.initial.size)

    def update(self, slopes: np.ndarray, rate_factor: F, seed: int, index: int) -> None:
        """slopes: float32 (queries,), loss differences scaled to a mean over queries and samples."""
        gradient = np.zeros(self.initial.size, dtype=F)
        for query, slope in enumerate(slopes):
            gradient = gradient + np.where(self.direction(seed, query, index) > 0, slope, -slope)
        channel = np.arange(self.initial.size) // self.channel_stride % self.channels
        rate = F(self.rate) * F(rate_factor)
        step = rate / F(self.sigma) * np.broadcast_to(self.factors, self.channels)[channel] * gradient
        key = stream_key(seed, UPDATE_ROUNDING, index, 0)
        change = [stochastic_round(s, random_word(key, i)) for i, s in enumerate(step)]
        bound = self.limit - self.headroom
        moved = np.clip(self.values - np.array(change), -bound, bound)
        self.values = np.where(self.part(seed), moved, self.values)


class ParameterOp:
    """The parameter op's part of a pass, and the loss table that the loss op fills."""

    def __init__(self, parameters: list[Parameter]) -> None:
        self.parameters = parameters
        self.losses = np.zeros(MAX_QUERIES, dtype=F)
        self.base_loss = F(0)
        self.perturbation: tuple[int, int, int, int, int] | None = None

    def invoke(self, command: Any) -> None:
        if command["actions"] & INITIALISE:
            for parameter in self.parameters:
                parameter.values = parameter.initial.copy()
        if command["actions"] & (UPDATE | NODE_UPDATE):
            self._losses_to_slopes(command)
        if command["actions"] & UPDATE:
            self._update(command)
        if command["actions"] & CLEAR:
            self.losses[:], self.base_loss = 0, F(0)
        sign, seed, query, first, last = (int(command[n]) for n in ("sign", "seed", "query", "first", "last"))
        self.perturbation = (sign, seed, query, first, last) if sign else None

    def accumulate(self, command: Any, loss: F) -> None:
        if command["sign"] == 0:
            self.base_loss += loss
        else:
            self.losses[command["query"]] += loss if command["sign"] > 0 else -loss

    def _losses_to_slopes(self, command: Any) -> None:
        used = slice(0, int(command["update_queries"]))
        base = self.base_loss if command["actions"] & FORWARD else F(0)
        self.losses[used] = (self.losses[used] - base) * command["update_scale"]

    def _update(self, command: Any) -> None:
        used = slice(0, int(command["update_queries"]))
        for index in range(int(command["update_first"]), int(command["update_last"])):
            parameter = self.parameters[index]
            if parameter.sigma and parameter.rate:
                parameter.update(self.losses[used], command["update_rate"], int(command["update_seed"]), index)

    def tensors(self) -> list[np.ndarray]:
        """What lies in the arena: clean values, or these plus the perturbation."""
        result = [p.values.copy() for p in self.parameters]
        if self.perturbation is not None:
            sign, seed, query, first, last = self.perturbation
            for index in range(first, last):
                p = self.parameters[index]
                result[index] += sign * p.sigma * p.direction(seed, query, index) * p.part(seed)
        return result


# -- losses and head ---------------------------------------------------------------------------------------


def _largest_and_sum(logits: np.ndarray) -> tuple[F, F]:
    pair = [F(0), logits[0]] if len(logits) == 1 else list(logits)
    largest = max(pair)
    total = F(0)
    for z in pair:
        total = total + exp_non_positive(z - largest)
    return largest, total


def cross_entropy(logits: np.ndarray, target: int) -> F:
    largest, total = _largest_and_sum(logits)
    chosen = logits[target] if len(logits) > 1 else (logits[0] if target else F(0))
    return log_positive(total) + (largest - chosen)


def cross_entropy_gradient(logits: np.ndarray, target: int) -> np.ndarray:
    largest, total = _largest_and_sum(logits)
    p = np.array([exp_non_positive(z - largest) / total for z in logits], dtype=F)
    hit = np.arange(len(logits)) == target if len(logits) > 1 else np.array([target == 1])
    return np.where(hit, p - F(1), p)


def _log_ratios(logits: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and log p - log m of each class; a sigmoid unit's z is the second of the pair (0, z)."""
    largest, total = _largest_and_sum(logits)
    log_total = log_positive(total)
    if len(logits) == 1:
        logits, mean = np.array([F(0), logits[0]]), np.array([-mean[0], mean[0]])
    uniform = F(1) / F(len(logits))
    p = np.array([exp_non_positive(z - largest) / total for z in logits], dtype=F)
    log_m = [log_positive(max(uniform + m, F(1e-6))) for m in mean]
    return p, np.array([((z - largest) - log_total) - m for z, m in zip(logits, log_m, strict=True)], dtype=F)


def entropy(logits: np.ndarray, mean: np.ndarray) -> F:
    """mean: the mean prediction's difference to the uniform one, float32 (outputs,)."""
    total = F(0)
    for p, ratio in zip(*_log_ratios(logits, mean), strict=True):
        total = total + p * ratio
    return -total


def entropy_gradient(logits: np.ndarray, mean: np.ndarray) -> np.ndarray:
    p, ratios = _log_ratios(logits, mean)
    return (-p * (ratios + entropy(logits, mean)))[-len(logits) :]


def mean_prediction(logits: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The mean after one more prediction."""
    p, _ = _log_ratios(logits, mean)
    return mean + F(0.01) * ((p[-len(logits) :] - F(1) / F(len(p))) - mean)


def mean_squared_error(y: np.ndarray, t: np.ndarray) -> F:
    total = F(0)
    for error in y - t:
        total = total + error * error
    return total / F(len(y))


def mean_squared_error_gradient(y: np.ndarray, t: np.ndarray) -> np.ndarray:
    return (y - t) * (F(2) / F(len(y)))


def dequantize(codes: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    return (codes.astype(np.int32) - zero_point).astype(F) * F(scale)


@dataclass
class Head:
    """The last fully connected layer: weights and residual (outputs, features), bias (outputs,) or None.

    trains_weights: False if updates change the bias only.
    """

    weights: np.ndarray
    bias: np.ndarray | None
    zero_point: int
    accumulator_scales: np.ndarray
    weight_factors: np.ndarray
    trains_weights: bool = True
    residual: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.weights = self.weights.astype(np.int64)
        self.residual = np.zeros_like(self.weights)
        self.bias = None if self.bias is None else self.bias.astype(np.int64)

    def logits(self, codes: np.ndarray) -> np.ndarray:
        accumulators = self.weights @ (codes.astype(np.int64) - self.zero_point)
        if self.bias is not None:
            accumulators = accumulators + self.bias
        return accumulators.astype(F) * self.accumulator_scales

    def feature_gradient(self, gradient: np.ndarray, feature_scale: float) -> np.ndarray:
        """dL/d(real-valued input), float32 (features,), from dL/dlogits."""
        total = np.zeros(self.weights.shape[1], dtype=F)
        for slope, scale, row in zip(gradient, self.accumulator_scales, self.weights, strict=True):
            total = total + slope * (scale / F(feature_scale)) * row.astype(F)
        return total

    def update(self, codes: np.ndarray, gradient: np.ndarray, rate: float, seed: int, position: int = 0) -> None:
        """A step from one sample, or from one position of its map."""
        key = stream_key(seed, HEAD_ROUNDING, position, 0)
        x = (codes.astype(np.int64) - self.zero_point).astype(F)
        features = len(x)
        for j, slope in enumerate(gradient):
            step = F(rate) * slope
            unit = step * self.weight_factors[j]
            for k in range(features if self.trains_weights else 0):
                change = stochastic_round(unit * x[k] * F(256), random_word(key, j * features + k))
                self._move(j, k, -max(-254 * 256, min(254 * 256, change)))
            if self.bias is not None:
                word = random_word(key, len(gradient) * features + j)
                change = stochastic_round(step / self.accumulator_scales[j], word)
                self.bias[j] = np.clip(self.bias[j] - change, -(2**31 - 1), 2**31 - 1)

    def _move(self, j: int, k: int, change: int) -> None:
        """Moves a weight by 1/256 codes; the residual is what is left of the nearest code."""
        total = self.residual[j, k] + change
        carry = (total + 128) // 256
        self.residual[j, k] = total - 256 * carry
        if carry:
            wanted = self.weights[j, k] + carry
            self.weights[j, k] = np.clip(wanted, -127, 127)
            if abs(wanted) > 127:
                self.residual[j, k] = 0


# -- the order of passes -----------------------------------------------------------------------------------


class Schedule:
    """Commands of steps of weight perturbation and exact head, as dicts of the fields that matter to the pass."""

    def __init__(self, *, seed: int, queries: int, antithetic: bool, head: bool, head_rate: float, groups: Any) -> None:
        self.seed, self.queries, self.antithetic = seed, queries, antithetic
        self.head, self.head_rate, self.groups = head, head_rate, groups
        self.pending: dict[str, Any] = {}

    def step(self, step: int, batch: int, rate_scale: float) -> Iterator[tuple[dict[str, Any], int]]:
        for number, (first, last) in enumerate(self.groups if self.queries else []):
            seed = stream_key(self.seed, STEP, step, number)
            sides = [(q, s) for q in range(self.queries) for s in ((1, -1) if self.antithetic else (1,))]
            if not self.antithetic:
                sides.insert(0, (0, 0))
            for turn, (query, sign) in enumerate(sides):
                for sample in range(batch):
                    command = self._take(LOSS | ACCUMULATE | (0 if turn or sample else CLEAR))
                    command |= {"sign": sign, "seed": seed, "query": query, "first": first, "last": last}
                    yield command, sample
            self.pending = {
                "actions": UPDATE | (0 if self.antithetic else FORWARD),
                "update_seed": seed,
                "update_queries": self.queries,
                "update_first": first,
                "update_last": last,
                "update_scale": F(1) / F(self.queries * batch * (1 + self.antithetic)),
                "update_rate": F(rate_scale),
            }
        for sample in range(batch if self.head else 0):
            command = self._take(LOSS | HEAD)
            command["head_rate"] = F(self.head_rate) * F(rate_scale)
            command["head_seed"] = stream_key(self.seed, STEP, step, (MAX_GROUPS + 1) * (sample + 1) + MAX_GROUPS)
            yield command, sample

    def flush(self) -> dict[str, Any] | None:
        return self._take(0) if self.pending else None

    def _take(self, actions: int) -> dict[str, Any]:
        command = {"magic": MAGIC} | self.pending
        command["actions"] = actions | self.pending.get("actions", 0)
        self.pending = {}
        return command
