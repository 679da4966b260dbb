# SPDX-License-Identifier: Apache-2.0
"""Records what a Trainer does as a training stream (micro_app/src/app/training_stream.h), for other TFLMs to repeat.

python tests/training_stream.py model_zo.tflite --data adapt.npz --test test.npz -o run.zos
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np

from tflm_zo.model.samples import load_npz
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.training.engine import Advance, Labelled, StepSettings
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.samples import sample_codes
from tflm_zo.training.step_totals import StepTotals
from tflm_zo.training.tflm_engine import TflmEngine
from tflm_zo.training.trainer import Trainer

MAGIC, VERSION = b"ZOST", 3
END, STEP, FINISH, EVALUATE, RECALIBRATE = range(5)


class RecordingEngine(TflmEngine):
    """TFLM, with what it is told to do in ``items``, and what its steps are made of in ``header`` and by index."""

    def __init__(self, model: PatchedModel) -> None:
        self.items: list[bytes] = []
        self.header = b""
        self.parameter_values: dict[int, tuple[int, float, int, int]] = {}
        self.node_values: dict[int, tuple[int, int, float, int, int]] = {}
        super().__init__(model)

    def configure(self, recipe: Recipe, settings: StepSettings, head_rate: float, step: int) -> None:
        super().configure(recipe, settings, head_rate, step)
        self.parameter_values = {i: (p.sigma, p.rate or 0.0, *p.mask) for i, p in recipe.parameters.items()}
        self.node_values = {i: (n.sigma, n.block, n.rate or 0.0, *n.mask) for i, n in recipe.nodes.items()}
        numbers = (settings.batch, settings.seed, settings.antithetic, settings.exact, head_rate, settings.accumulate)
        sizes = int(np.prod(self.model.input_shape)), self.no_target.nbytes
        self.header = struct.pack("<4sIII", MAGIC, VERSION, sizes[0] * self._input_item_bytes(), sizes[1])
        self.header += struct.pack("<iIiifii", *numbers, len(settings.groups))
        self.header += b"".join(struct.pack("<iiii", g.mode, g.first, g.last, g.queries) for g in settings.groups)

    def _input_item_bytes(self) -> int:
        return 1 if self.model.input_quantization is not None else 4

    def step(self, samples: Labelled, batch: np.ndarray, step: int, rate_scale: float, advance: Advance) -> StepTotals:
        data = b"".join(samples.codes[i].tobytes() + samples.targets[i].tobytes() for i in batch)
        self.items.append(struct.pack("<IIif", STEP, step, len(batch), rate_scale) + data)
        return super().step(samples, batch, step, rate_scale, advance)

    def finish(self, samples: Labelled) -> int:
        passes = super().finish(samples)
        if passes:
            self.items.append(struct.pack("<I", FINISH) + samples.codes[0].tobytes() + samples.targets[0].tobytes())
        return passes

    def recalibrate(self, codes: np.ndarray) -> None:
        self.items.append(struct.pack("<II", RECALIBRATE, len(codes)) + codes.tobytes())
        super().recalibrate(codes)


class RecordingTrainer(Trainer):
    """A Trainer whose fits and evaluations can be repeated elsewhere: ``stream()``."""

    def __init__(self, model: bytes, seed: int = 0) -> None:
        self.recorder = RecordingEngine(read_patched(model))
        super().__init__(model, seed, engine=self.recorder)

    def evaluate(self, x: np.ndarray, y: np.ndarray | None = None) -> dict[str, float]:
        codes, targets = sample_codes(x, y, self.model)
        samples = (c.tobytes() + t.tobytes() for c, t in zip(codes, targets, strict=True))
        self.recorder.items.append(struct.pack("<II", EVALUATE, len(codes)) + b"".join(samples))
        return super().evaluate(x, y)

    def _configuration(self) -> bytes:
        recorder = self.recorder
        settings = recorder.parameter_values
        parameters = [settings[p.index] if p.in_model else (0, 0.0, 0, 0) for p in self.model.parameters]
        nodes = [recorder.node_values[node.number] for node in sorted(self.model.nodes, key=lambda n: n.number)]
        return (
            struct.pack("<i", len(parameters))
            + b"".join(struct.pack("<ifHH", *values) for values in parameters)
            + struct.pack("<i", len(nodes))
            + b"".join(struct.pack("<iifHH", *values) for values in nodes)
        )

    def stream(self) -> bytes:
        """Everything since this trainer was made (one fit)."""
        return self.recorder.header + self._configuration() + b"".join(self.recorder.items) + struct.pack("<I", END)

    def trained_bytes(self) -> bytes:
        """All parameters, residuals included, in the order of the table: what the C++ programs write."""
        return b"".join(values.tobytes() for values in self.engine.read().values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--test")
    parser.add_argument("-o", "--output", required=True)
    for name, default in (("epochs", 5), ("batch_size", 8), ("queries", 4), ("seed", 0)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    options = parser.parse_args()
    trainer = RecordingTrainer(Path(options.model).read_bytes(), options.seed)
    test = load_npz(options.test) if options.test else None
    if test is not None:
        print("before:", trainer.evaluate(*test))
    trainer.fit(
        *load_npz(options.data),
        epochs=options.epochs,
        batch_size=options.batch_size,
        queries=options.queries,
    )
    if test is not None:
        print("after:", trainer.evaluate(*test))
    Path(options.output).write_bytes(trainer.stream())


if __name__ == "__main__":
    main()
