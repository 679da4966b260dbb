# SPDX-License-Identifier: Apache-2.0
"""The keyword-spotting benchmark model adapts to a drift of its features, by its head alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PASSES = 4000


@pytest.mark.slow
def test_exact_head_recovers_from_a_gain_drift(shared_data: Path, tmp_path: Path) -> None:
    """All features +15 codes: from 0.42 to at least 0.76, mean of three seeds, with the defaults."""
    data = np.load(shared_data / "kws01_dev.npz")
    x = np.clip(data["x"].astype(np.int16) + 15, -128, 127).astype(np.int8)
    np.savez(tmp_path / "adapt.npz", x=x[:400], y=data["y"][:400])
    np.savez(tmp_path / "test.npz", x=x[-300:], y=data["y"][-300:])
    model = shared_data / "mlperf_tiny" / "kws_ref_model.tflite"

    def tflm_zo(*words: str) -> dict[str, float]:
        done = subprocess.run(
            [sys.executable, "-m", "tflm_zo.cli", *words, "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    tflm_zo("patch", str(model), "-o", "zo.tflite", "--trainable", "head")
    options = ["--data", "adapt.npz", "--test", "test.npz", "--passes", str(PASSES), "--quiet"]
    runs = [tflm_zo("train", "zo.tflite", *options, "--seed", str(seed), "-o", f"state{seed}") for seed in range(3)]
    assert all(r["before_accuracy"] == pytest.approx(0.42, abs=0.02) for r in runs)
    assert all(0.95 * PASSES < r["forward_passes"] <= PASSES for r in runs)
    assert np.mean([r["after_accuracy"] for r in runs]) >= 0.76, runs
    assert len({r["after_loss"] for r in runs}) == 3
