# SPDX-License-Identifier: Apache-2.0
"""Records what a Trainer does as a training stream (micro_app/src/app/training_stream.h), for other TFLMs to repeat.

python tests/training_stream.py model_zo.tflite --data adapt.npz --test test.npz -o run.zos
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path

import numpy as np
from stream_layouts import (
    STREAM_MAGIC,
    STREAM_VERSION,
    StreamHeader,
    StreamItem,
    StreamSchedule,
    StreamStep,
)

from tflm_zo.model.samples import load_npz
from tflm_zo.ops.layouts import Mask, NodeSetting, ScheduleGroup, Setting
from tflm_zo.patching.patched_model import PatchedModel, read_patched
from tflm_zo.training.engine import Advance, Labelled, StepSettings
from tflm_zo.training.recipe import Recipe
from tflm_zo.training.samples import sample_codes
from tflm_zo.training.step_totals import StepTotals
from tflm_zo.training.tflm_engine import TflmEngine
from tflm_zo.training.trainer import Trainer


def item(kind: StreamItem, *counts: int) -> bytes:
    return struct.pack(f"<{1 + len(counts)}I", kind, *counts)


class RecordingEngine(TflmEngine):
    """TFLM, with what it is told to do in ``items``, and what its steps are made of in ``header`` and by index."""

    def __init__(self, model: PatchedModel) -> None:
        self.items: list[bytes] = []
        self.header = b""
        self.parameter_values: dict[int, Setting] = {}
        self.node_values: dict[int, NodeSetting] = {}
        super().__init__(model)

    def configure(self, recipe: Recipe, settings: StepSettings, head_rate: float, step: int) -> None:
        super().configure(recipe, settings, head_rate, step)
        self.parameter_values = {
            i: Setting(p.sigma, p.rate or 0.0, Mask(*p.mask)) for i, p in recipe.parameters.items()
        }
        self.node_values = {
            i: NodeSetting(n.sigma, n.block, n.rate or 0.0, Mask(*n.mask)) for i, n in recipe.nodes.items()
        }
        sample = int(np.prod(self.model.input_shape)) * self._input_item_bytes()
        head = StreamHeader(STREAM_MAGIC, STREAM_VERSION, sample, self.no_target.nbytes)
        schedule = StreamSchedule(
            largest_step=settings.batch,
            seed=settings.seed,
            antithetic=settings.antithetic,
            exact=settings.exact,
            head_rate=head_rate,
            accumulate=settings.accumulate,
            group_count=len(settings.groups),
        )
        groups = [ScheduleGroup(mode=g.mode, first=g.first, last=g.last, queries=g.queries) for g in settings.groups]
        self.header = b"".join(map(bytes, [head, schedule, *groups]))

    def _input_item_bytes(self) -> int:
        return self.model.input.dtype.itemsize

    def step(self, samples: Labelled, batch: np.ndarray, step: int, rate_scale: float, advance: Advance) -> StepTotals:
        data = b"".join(samples.codes[i].tobytes() + samples.targets[i].tobytes() for i in batch)
        self.items.append(item(StreamItem.STEP) + bytes(StreamStep(step, len(batch), rate_scale)) + data)
        return super().step(samples, batch, step, rate_scale, advance)

    def finish(self, samples: Labelled) -> int:
        passes = super().finish(samples)
        if passes:
            self.items.append(item(StreamItem.FINISH) + samples.codes[0].tobytes() + samples.targets[0].tobytes())
        return passes

    def recalibrate(self, codes: np.ndarray) -> None:
        self.items.append(item(StreamItem.RECALIBRATE, len(codes)) + codes.tobytes())
        super().recalibrate(codes)


class RecordingTrainer(Trainer):
    """A Trainer whose fits and evaluations can be repeated elsewhere: ``stream()``."""

    def __init__(self, model: bytes, seed: int = 0) -> None:
        self.recorder = RecordingEngine(read_patched(model))
        super().__init__(model, seed, engine=self.recorder)

    def evaluate(self, x: np.ndarray, y: np.ndarray | None = None) -> dict[str, float]:
        codes, targets = sample_codes(x, y, self.model)
        samples = (c.tobytes() + t.tobytes() for c, t in zip(codes, targets, strict=True))
        self.recorder.items.append(item(StreamItem.EVALUATE, len(codes)) + b"".join(samples))
        return super().evaluate(x, y)

    def _configuration(self) -> bytes:
        recorder = self.recorder
        settings = recorder.parameter_values
        parameters = [settings[p.index] if p.in_model else Setting() for p in self.model.parameters]
        nodes = [recorder.node_values[node.number] for node in sorted(self.model.nodes, key=lambda n: n.number)]
        return b"".join(struct.pack("<i", len(table)) + b"".join(map(bytes, table)) for table in (parameters, nodes))

    def stream(self) -> bytes:
        """Everything since this trainer was made (one fit)."""
        return self.recorder.header + self._configuration() + b"".join(self.recorder.items) + item(StreamItem.END)

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
