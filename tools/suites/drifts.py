# SPDX-License-Identifier: Apache-2.0
"""Drifts of sensors: families whose parameters are drawn at random, so that nothing can be tuned to one of them.

A family says in which way samples change, a seed how much. The seeds are of two sorts, and no seed is of both:

* ``TUNING_SEEDS``: to choose constants of the package with;
* ``TABLE_SEEDS``: for published tables, and for nothing else.

All parameters are in units of the samples' own spread, so a family means the same to a microphone and to a gyroscope.
Strengths are such that a network that does nothing about it loses some 5 to 60 points of accuracy; the ranges were
set with tuning seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

TUNING_SEEDS = range(1000, 1010)
TABLE_SEEDS = range(3)

# What the samples are, and the shape of one without axes of length one: spectrogram (frames, coefficients), image
# (rows, columns[, colours]), inertial (frames, channels; three for each sensor), vector (values).
KINDS = ("spectrogram", "image", "inertial", "vector")

MIXTURE = "mixture"
# Each of the two drifts of a mixture is weaker than alone, by this factor.
_MIXED = 0.6


class Sensor(NamedTuple):
    """What a drift has to know of the samples as they were: the value of a silent sensor (which a gain leaves as it
    is), their mean, and the standard deviation around it."""

    zero: float
    mean: float
    spread: float

    @classmethod
    def of(cls, x: np.ndarray, zero: float) -> Sensor:
        """Measure mean and spread of samples (n, ...)."""
        values = x.astype(np.float64)
        return cls(float(zero), float(values.mean()), max(float(values.std()), 1e-9))


# Changes samples (n, places..., channels) in units of the spread, from the sensor's zero; the generator is for what
# differs from sample to sample.
_Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


@dataclass(frozen=True, eq=False)
class Drift:
    """A drift with all its parameters drawn. ``name`` tells them to a reader."""

    name: str
    family: str
    kind: str
    sensor: Sensor
    change: _Change

    def apply(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return samples ``x`` (n, ...) after the drift, same shape and type; integers are rounded and clipped.

        ``rng`` draws what differs from sample to sample (noise, drop-outs).
        """
        values = (x.astype(np.float64) - self.sensor.zero) / self.sensor.spread
        seen = self.change(values.reshape(len(x), *_canonical(x.shape[1:], self.kind)), rng)
        seen = seen.reshape(x.shape) * self.sensor.spread + self.sensor.zero
        if x.dtype.kind in "iu":
            limits = np.iinfo(x.dtype)
            seen = np.clip(np.rint(seen), limits.min, limits.max)
        return np.asarray(seen.astype(x.dtype))


def families(kind: str) -> tuple[str, ...]:
    """Names of the families that make sense for a kind of samples, the mixture last."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: it must be one of {', '.join(KINDS)}")
    return (*(name for name, family in _FAMILIES.items() if kind in family.kinds), MIXTURE)


def family_of_turn(name: str, kind: str, turn: int) -> str:
    """Return the family that meets the task ``name`` in its so many-th turn: tasks begin at different ones."""
    known = families(kind)
    return known[(zlib.crc32(name.encode()) + turn) % len(known)]


def draw(family: str, kind: str, seed: int, sensor: Sensor) -> Drift:
    """Return the drift of a family for a seed; the same arguments give the same drift."""
    if family not in families(kind):
        raise ValueError(f"family is {family!r}: for {kind} it must be one of {', '.join(families(kind))}")
    rng = np.random.default_rng([zlib.crc32(f"{family}, {kind}".encode()), seed])
    if family != MIXTURE:
        name, change = _FAMILIES[family].draw(rng, kind, sensor, 1.0)
        return Drift(name, family, kind, sensor, change)
    first, second = rng.choice([name for name in families(kind) if name != MIXTURE], 2, replace=False)
    names, changes = zip(*[_FAMILIES[part].draw(rng, kind, sensor, _MIXED) for part in (first, second)], strict=True)

    def both(x: np.ndarray, samples: np.random.Generator) -> np.ndarray:
        return changes[1](changes[0](x, samples), samples)

    return Drift(", then ".join(names), family, kind, sensor, both)


def _canonical(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """Shape (places..., channels) of a sample of ``shape``."""
    sizes = tuple(n for n in shape if n != 1) or (1,)
    if kind == "vector":
        return (int(np.prod(sizes)),)
    wanted = {"image": (2, 3)}.get(kind, (2,))
    if len(sizes) not in wanted:
        raise ValueError(f"samples of shape {shape} are not of the kind {kind}")
    return (*sizes, 1) if kind == "image" and len(sizes) == 2 else sizes


# -- the families ------------------------------------------------------------------------------------------------


class _Family(NamedTuple):
    """``draw(rng, kind, sensor, strength)`` returns a name with the parameters, and the change."""

    draw: Callable[[np.random.Generator, str, Sensor, float], tuple[str, _Change]]
    kinds: tuple[str, ...] = KINDS


def _signed(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high) * rng.choice((-1, 1)))


def _each(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """One standard normal number a sample."""
    return rng.normal(size=(len(x),) + (1,) * (x.ndim - 1))


def _additive(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    offset = strength * _signed(rng, *_OFFSET[kind])
    return f"offset {offset:+.2f}", lambda x, _: x + offset


def _multiplicative(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    gain = float(np.exp(strength * _signed(rng, *_GAIN[kind])))
    return f"gain {gain:.2f}", lambda x, _: x * gain


def _per_channel(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    spread = strength * rng.uniform(*_CHANNEL[kind])
    numbers = int(rng.integers(1 << 31))

    def change(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
        # The number of channels is known only here. A generator of a fixed seed draws the same numbers in every call.
        own = np.random.default_rng(numbers)
        gains = np.exp(spread * own.normal(size=x.shape[-1]))
        return x * gains + spread * own.normal(size=x.shape[-1])

    return f"gains and offsets of channels {spread:.2f}", change


def _per_sample(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    gain, offset = strength * rng.uniform(*_SAMPLE_GAIN[kind]), strength * rng.uniform(*_SAMPLE_OFFSET[kind])

    def change(x: np.ndarray, samples: np.random.Generator) -> np.ndarray:
        return x * np.exp(gain * _each(samples, x)) + offset * _each(samples, x)

    return f"gain and offset of samples {gain:.2f}, {offset:.2f}", change


def _noise(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    deviation = strength * rng.uniform(*_NOISE[kind])
    return f"noise {deviation:.2f}", lambda x, samples: x + samples.normal(0, deviation, x.shape)


def _smear(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    """In time: each frame keeps a part of what was; images: Gaussian blur; vectors: neighbours leak into each other."""
    part = strength * rng.uniform(*_SMEAR[kind])
    if kind == "vector":

        def leak(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
            return (1 - part) * x + part * np.roll(x, 1, axis=-1)

        return f"leak {part:.2f}", leak
    if kind == "image":

        def blur(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
            for axis in (1, 2):
                # Relative to the size of the image, with a bound: a blur far below a pixel changes nothing.
                x = _blurred(x, axis, max(part * x.shape[axis], _LEAST_BLUR))
            return x

        return f"blur {part:.3f} of the side", blur

    def smear(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
        seen = x.copy()
        for frame in range(1, x.shape[1]):
            seen[:, frame] = (1 - part) * x[:, frame] + part * seen[:, frame - 1]
        return seen

    return f"smear {part:.2f}", smear


def _blurred(x: np.ndarray, axis: int, deviation: float) -> np.ndarray:
    """Gaussian over an axis; the border goes on with its own values."""
    reach = max(1, int(np.ceil(3 * deviation)))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    weights /= weights.sum()
    size = x.shape[axis]
    places = np.clip(np.arange(size)[:, None] + steps, 0, size - 1)
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None].repeat(len(steps), 1), places), weights)
    return np.moveaxis(np.moveaxis(x, axis, -1) @ matrix.T, -1, axis)


def _drop_outs(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    """Stretches of frames, patches of an image, or values that are missing: the silent sensor's value is there."""
    part = strength * rng.uniform(*_DROP[kind])

    def change(x: np.ndarray, samples: np.random.Generator) -> np.ndarray:
        seen = x.copy()
        if kind == "vector":
            seen[samples.random(x.shape) < part] = 0
            return seen
        # A hole covers a fifth of each axis; as many holes as make up the part, on average, overlaps left aside.
        sides = [max(1, size // 5) for size in x.shape[1:-1]]
        holes = part * np.prod(x.shape[1:-1]) / np.prod(sides)
        for sample in seen:
            for _ in range(samples.poisson(holes)):
                corner = [samples.integers(size - side + 1) for size, side in zip(sample.shape, sides, strict=False)]
                sample[tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))] = 0
        return seen

    return f"drop-outs {part:.2f}", change


def _shift(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    """Later or earlier, or aside; the border goes on with its own values."""
    parts = [strength * _signed(rng, *_SHIFT[kind]) for _ in range(2 if kind == "image" else 1)]

    def change(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
        for axis, part in enumerate(parts, start=1):
            size = x.shape[axis]
            steps = int(np.sign(part)) * max(1, round(abs(part) * size))
            x = np.take(x, np.clip(np.arange(size) - steps, 0, size - 1), axis=axis)
        return x

    return "shift " + ", ".join(f"{part:+.2f}" for part in parts), change


def _saturation(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    """Values beyond limits on both sides of the mean are cut off."""
    mean = (sensor.mean - sensor.zero) / sensor.spread
    low, high = (float(rng.uniform(*_LIMITS[kind])) / strength for _ in range(2))
    return f"limits -{low:.2f}, +{high:.2f}", lambda x, _: np.clip(x, mean - low, mean + high)


def _contrast(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    """Deviations from each sample's own mean shrink or grow."""
    factor = float(np.exp(strength * _signed(rng, *_CONTRAST[kind])))

    def change(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
        mean = x.mean(axis=tuple(range(1, x.ndim)), keepdims=True)
        return mean + factor * (x - mean)

    return f"contrast {factor:.2f}", change


def _tilt(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    """An offset that rises over the channels; of grey images, over the columns."""
    slope = strength * _signed(rng, *_TILT[kind])

    def change(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
        if x.shape[-1] > 1:
            return x + np.linspace(-slope, slope, x.shape[-1])
        return x + np.linspace(-slope, slope, x.shape[-2])[:, None]

    return f"tilt {slope:+.2f}", change


def _turned(rng: np.random.Generator, kind: str, sensor: Sensor, strength: float) -> tuple[str, _Change]:
    """The device is worn otherwise: every sensor's three axes are turned alike."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    degrees = strength * rng.uniform(*_DEGREES)
    matrix = rotation(axis, np.deg2rad(degrees))

    def change(x: np.ndarray, _: np.random.Generator) -> np.ndarray:
        # What is left over beside whole triples (a magnitude, say) does not turn.
        seen = x.copy()
        for first in range(0, x.shape[-1] - 2, 3):
            seen[..., first : first + 3] = x[..., first : first + 3] @ matrix.T
        return seen

    return f"axes turned {degrees:.0f} degrees", change


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation matrix around a unit vector, radians (Rodrigues' formula)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


_FAMILIES = {
    "additive": _Family(_additive),
    "multiplicative": _Family(_multiplicative),
    "per channel": _Family(_per_channel),
    "per sample": _Family(_per_sample),
    "noise": _Family(_noise),
    "smear or blur": _Family(_smear),
    "drop-outs": _Family(_drop_outs),
    "shift": _Family(_shift, ("spectrogram", "image", "inertial")),
    "saturation": _Family(_saturation),
    "contrast": _Family(_contrast),
    "tilt": _Family(_tilt),
    "axes turned": _Family(_turned, ("inertial",)),
}

# Ranges of the parameters. Offsets, slopes, limits and noise are in standard deviations of the samples; gains and
# contrasts are logarithms of factors; parts are of the whole.
_OFFSET = {"spectrogram": (0.4, 1.0), "image": (0.6, 1.4), "inertial": (0.15, 0.5), "vector": (0.5, 1.2)}
_GAIN = {"spectrogram": (0.5, 1.2), "image": (0.6, 1.3), "inertial": (0.7, 1.5), "vector": (0.5, 1.2)}
_CHANNEL = {"spectrogram": (0.2, 0.5), "image": (0.3, 0.7), "inertial": (0.15, 0.5), "vector": (0.5, 1.2)}
_SAMPLE_GAIN = {"spectrogram": (0.2, 0.4), "image": (0.3, 0.6), "inertial": (0.3, 0.7), "vector": (0.4, 0.8)}
_SAMPLE_OFFSET = {"spectrogram": (0.3, 0.7), "image": (0.4, 0.9), "inertial": (0.2, 0.5), "vector": (0.4, 0.8)}
_NOISE = {"spectrogram": (0.15, 0.4), "image": (0.06, 0.2), "inertial": (0.6, 1.4), "vector": (0.5, 1.2)}
_SMEAR = {"spectrogram": (0.4, 0.8), "image": (0.02, 0.045), "inertial": (0.85, 0.97), "vector": (0.3, 0.7)}
_DROP = {"spectrogram": (0.1, 0.4), "image": (0.05, 0.3), "inertial": (0.3, 0.7), "vector": (0.1, 0.4)}
_SHIFT = {"spectrogram": (0.08, 0.25), "image": (0.06, 0.18), "inertial": (0.1, 0.4)}
_LIMITS = {"spectrogram": (0.2, 0.8), "image": (0.1, 0.6), "inertial": (0.1, 0.6), "vector": (0.1, 0.6)}
_CONTRAST = {"spectrogram": (0.4, 0.9), "image": (0.6, 1.4), "inertial": (0.5, 1.1), "vector": (0.5, 1.2)}
_TILT = {"spectrogram": (0.4, 1.0), "image": (0.6, 1.4), "inertial": (0.2, 0.6), "vector": (0.6, 1.4)}
_DEGREES = (15.0, 60.0)
_LEAST_BLUR = 0.5  # pixels
