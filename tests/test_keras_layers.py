# SPDX-License-Identifier: Apache-2.0
"""Common Keras layers: each is converted, simulated and trained as TFLite Micro does it, or refused with a remedy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from build_once import BuildOnce

pytest.importorskip("tensorflow")
pytest.importorskip("keras")
sys.path.append(str(Path(__file__).parents[1] / "tools"))

import keras_table
from keras_layers import CASES
from keras_table import Outcome

pytestmark = pytest.mark.slow

REFUSED = {
    "ELU": "hard_swish",
    "LayerNormalization": "BatchNormalization",
    "UpSampling1D": "Conv1DTranspose",
    "UpSampling2D": "bilinear",
    "gelu": "hard_swish",
}


@pytest.fixture(scope="module")
def found(build_once: BuildOnce) -> dict[str, Outcome]:
    """Conversions take most of the time: all in one process of the converter, but for those that end it; and once for
    all processes of tests."""

    def convert(folder: Path) -> None:
        made = {o.case.name: (o.content.hex(), o.refusal, o.weights) for o in keras_table.outcomes()}
        (folder / "outcomes.json").write_text(json.dumps(made))

    made = json.loads((build_once("keras_layers", convert) / "outcomes.json").read_text())
    return {
        case.name: Outcome(case, bytes.fromhex(content), refusal, weights)
        for case in CASES
        for content, refusal, weights in [made[case.name]]
    }


@pytest.mark.parametrize("name", [case.name for case in CASES if case.name not in REFUSED])
def test_a_layer_is_converted_simulated_and_trained(found: dict[str, Outcome], name: str) -> None:
    outcome = found[name]
    assert not outcome.refusal
    assert outcome.is_simulated()
    assert outcome.trains_alike()


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_is_refused_with_a_remedy(found: dict[str, Outcome], name: str) -> None:
    """The message names the layer, which is the model's second, and what to do."""
    refusal = found[name].refusal
    assert "cannot become int8: " in refusal and refusal.startswith("layer '")
    assert REFUSED[name] in refusal.split("; ")[-1]


def test_the_table_in_the_docs_is_up_to_date(found: dict[str, Outcome]) -> None:
    page = keras_table.PAGE.read_text()
    made = keras_table.with_table(page, list(found.values()))
    assert keras_table.facts(page) == keras_table.facts(made), "run python tools/keras_table.py"
