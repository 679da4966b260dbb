# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' drifts: the same for the same seed, of the samples' type and range, and as their names say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "tools"))

from suites.drifts import KINDS, MIXTURE, TABLE_SEEDS, TUNING_SEEDS, Drift, Sensor, draw, families, rotation

SHAPES = {"spectrogram": (20, 8, 1), "image": (12, 10, 3), "inertial": (30, 6), "vector": (24,)}
EACH = [(kind, family) for kind in KINDS for family in families(kind)]


def samples(kind: str, count: int = 16) -> np.ndarray:
    """Codes that leave room on both sides."""
    rng = np.random.default_rng(3)
    smooth = np.cumsum(rng.normal(size=(count, *SHAPES[kind])), axis=1)
    return np.clip(np.rint(12 * smooth / smooth.std()), -100, 100).astype(np.int8)


def drawn(family: str, kind: str, seed: int = 0) -> Drift:
    return draw(family, kind, seed, Sensor.of(samples(kind), 0.0))


def test_seeds_for_tables_are_not_those_to_tune_with() -> None:
    assert len(TABLE_SEEDS) >= 3 and len(TUNING_SEEDS) >= len(TABLE_SEEDS)
    assert not set(TABLE_SEEDS) & set(TUNING_SEEDS)


@pytest.mark.parametrize(("kind", "family"), EACH)
def test_a_drift_is_given_by_its_seed(kind: str, family: str) -> None:
    x = samples(kind)
    first = drawn(family, kind)
    seen = first.apply(x, np.random.default_rng(1))
    assert seen.shape == x.shape and seen.dtype == x.dtype
    assert np.array_equal(x, samples(kind))
    again = drawn(family, kind)
    assert again.name == first.name
    assert np.array_equal(again.apply(x, np.random.default_rng(1)), seen)
    assert not np.array_equal(seen, x)
    names = {drawn(family, kind, seed).name for seed in (*TABLE_SEEDS, *TUNING_SEEDS)}
    # Parameters are rounded in names: a few of thirteen may be alike.
    assert len(names) >= 8


@pytest.mark.parametrize(("kind", "family"), EACH)
def test_floats_drift_as_codes_do(kind: str, family: str) -> None:
    x = samples(kind)
    drift = drawn(family, kind)
    real = drift.apply(x.astype(np.float32), np.random.default_rng(1))
    assert real.dtype == np.float32
    codes = drift.apply(x, np.random.default_rng(1))
    np.testing.assert_allclose(codes, np.clip(real, -128, 127), atol=0.51)


def test_codes_are_clipped_to_their_type() -> None:
    x = np.full((4, *SHAPES["image"]), 250, dtype=np.uint8)
    x[:2] = 5
    seen = draw("additive", "image", 0, Sensor(0.0, 128.0, 60.0)).apply(x, np.random.default_rng(0))
    assert seen.dtype == np.uint8
    # Of the two halves one has no room for the offset.
    assert (seen == 0).any() or (seen == 255).any()
    assert len(np.unique(seen)) == 2


def test_what_differs_between_samples_is_drawn_by_the_caller() -> None:
    for kind, family in EACH:
        x = np.repeat(samples(kind, 1), 8, axis=0)
        seen = drawn(family, kind).apply(x, np.random.default_rng(1))
        differs = not np.array_equal(seen[0], seen[1])
        if family == MIXTURE:
            continue
        assert differs == (family in ("per sample", "noise", "drop-outs")), (kind, family)


def test_a_gain_leaves_a_silent_sensor_as_it_is() -> None:
    x = np.full((2, *SHAPES["inertial"]), 37, dtype=np.int8)
    drift = draw("multiplicative", "inertial", 0, Sensor(37.0, 40.0, 10.0))
    assert np.array_equal(drift.apply(x, np.random.default_rng(0)), x)


def test_turned_axes_keep_the_length_of_both_vectors() -> None:
    x = samples("inertial").astype(np.float64)
    seen = drawn("axes turned", "inertial").apply(x, np.random.default_rng(0))
    for first in (0, 3):
        before, after = (np.linalg.norm(a[..., first : first + 3], axis=-1) for a in (x, seen))
        np.testing.assert_allclose(after, before, atol=1e-9)
    quarter = rotation(np.array([0.0, 0.0, 1.0]), np.pi / 2)
    np.testing.assert_allclose(quarter @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], atol=1e-12)


def test_contrast_and_blur_keep_the_mean_of_even_samples() -> None:
    for family in ("contrast", "smear or blur", "shift"):
        x = np.full((3, *SHAPES["image"]), 11.0)
        np.testing.assert_allclose(drawn(family, "image").apply(x, np.random.default_rng(0)), x, atol=1e-9)


def test_drop_outs_hide_about_the_part_they_name() -> None:
    x = np.full((400, 20, 8), 50.0)
    drift = draw("drop-outs", "spectrogram", 0, Sensor(0.0, 50.0, 10.0))
    hidden = np.mean(drift.apply(x, np.random.default_rng(0)) == 0)
    part = float(drift.name.split()[-1])
    # Holes overlap: of independent ones exp(-part) is left over.
    assert hidden == pytest.approx(1 - np.exp(-part), abs=0.06)


def test_wrong_kinds_and_families_are_refused() -> None:
    with pytest.raises(ValueError, match="kind is 'smell'"):
        families("smell")
    with pytest.raises(ValueError, match="family is 'axes turned'"):
        drawn("axes turned", "image")
    with pytest.raises(ValueError, match="not of the kind image"):
        drawn("noise", "image").apply(np.zeros((2, 3, 4, 5, 6)), np.random.default_rng(0))
