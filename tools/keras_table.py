# SPDX-License-Identifier: Apache-2.0
"""Writes the table of Keras layers into docs/keras.md: each converted, simulated and trained, or refused.

    python tools/keras_table.py

with TensorFlow and `pip install`; a few minutes. `tests/test_keras_layers.py` makes the same table and tells if it
differs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parent))
from keras_layers import CASES, CLASSES, SHAPES, Case, keras_model, samples

from tflm_zo import Trainer, ZoError, convert, patch
from tflm_zo.conversion.converter_process import convert_graphs, freeze
from tflm_zo.conversion.diagnosis import find_unquantized
from tflm_zo.conversion.keras_support import import_tensorflow
from tflm_zo.model.file import load_model
from tflm_zo.model.graph import main_graph
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.simulator.model import SimModel
from tflm_zo.tflm.evaluate import predict_plain

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keras.md"
BEGIN, END = "<!-- made by tools/keras_table.py -->\n", "<!-- end -->\n"
_OF_SHAPES = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")
# One pass of every sample: enough to change weights in both engines.
_FIT: dict[str, Any] = {"epochs": 1, "batch_size": 8, "queries": 1, "holdout": 0.0, "verbose": False}


@dataclass(frozen=True)
class Outcome:
    """What conversion makes of a case: int8 ``content``, or the ``refusal``; ``weights``: how many the layer has."""

    case: Case
    content: bytes
    refusal: str
    weights: int

    @cached_property
    def patched(self) -> bytes:
        """The model made trainable, in all layers."""
        return patch(self.content, "all")

    def is_simulated(self) -> bool:
        """Whether the simulator's outputs are TFLM's, to the bit."""
        model, x = SimModel(self.content), samples(self.case)
        tensor = model.tensors[model.inputs[0]]
        codes = np.clip(np.rint(x / tensor.scale) + tensor.zero_point, -128, 127).astype(np.int8)
        ours, expected = model.run(codes), predict_plain(self.content, codes)
        return np.array_equal(ours, expected.reshape(ours.shape)) and bool(np.unique(ours).size > 3)

    def trains_alike(self) -> bool:
        """Whether a training in the simulator and one in TFLM end in the same model, another than before."""
        x = samples(self.case)
        y = np.arange(len(x)) % CLASSES
        baked = []
        for engine in ("simulator", "tflm"):
            trainer = Trainer(self.patched, engine=engine)
            trainer.fit(x, y, **_FIT)
            baked.append(trainer.bake())
        return baked[0] == baked[1] != Trainer(self.patched).bake()

    def trains_the_layer(self) -> bool:
        """Whether the layer's own weights are among those trained: there are more than the head's."""
        return len({parameter.layer for parameter in read_patched(self.patched).parameters if parameter.in_model}) > 1


def outcomes(cases: Sequence[Case] = CASES) -> list[Outcome]:
    """Convert all cases, in as few processes as possible."""
    tf, keras = import_tensorflow()
    models = {case.name: keras_model(keras, case) for case in cases}
    contents: dict[str, bytes] = {}
    jobs = [(case, freeze(tf, models[case.name], [SHAPES[case.on]], case.name)) for case in cases]
    while jobs:  # the converter's process ends at the first that fails
        results = convert_graphs([(graph, [samples(case)]) for case, graph in jobs])
        for (case, _), (content, failure) in zip(jobs, results, strict=False):
            if failure is None and find_unquantized(content) is None:
                contents[case.name] = content
        jobs = jobs[len(results) :]
    return [_outcome(case, models[case.name], contents.get(case.name, b"")) for case in cases]


def _outcome(case: Case, model: Any, content: bytes) -> Outcome:
    weights = model.count_params() - model.layers[-1].count_params()
    refusal = ""
    if not content:  # at the first attempt
        try:
            content = convert(model, samples(case))
        except ZoError as error:
            refusal = str(error)
    return Outcome(case, content, refusal, weights)


def table(found: Sequence[Outcome]) -> str:
    """Return a Markdown table with a row for each case."""
    head = ["| layer | operators | simulated | its own weights |", "|---|---|---|---|"]
    return "\n".join([*head, *map(_row, found)]) + "\n"


def _row(outcome: Outcome) -> str:
    name = f"`{outcome.case.name}`"
    if outcome.refusal:
        reason = outcome.refusal.split("cannot become int8: ")[-1]
        return f"| {name} | refused: {reason} | | |"
    operators = [op.name for op in main_graph(load_model(outcome.content)).operators[:-2]]
    own = dict.fromkeys(op for op in operators if op not in _OF_SHAPES)
    weights = ("trained" if outcome.trains_the_layer() else "frozen") if outcome.weights else "none"
    return f"| {name} | {', '.join(own) or 'none'} | {'yes' if outcome.is_simulated() else 'no'} | {weights} |"


def with_table(page: str, found: Sequence[Outcome]) -> str:
    """Return the page with the table that is up to date."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table(found) + END + rest.split(END)[1]


def facts(page: str) -> list[list[str]]:
    """The rows of the table in the page without the operators: TensorFlow does not always take the same for a GRU."""
    rows = [line.split(" | ") for line in page.split(BEGIN)[1].split(END)[0].splitlines()[2:]]
    return [row[:1] + (row[1:] if row[1].startswith("refused") else row[2:]) for row in rows]


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(), outcomes()))
