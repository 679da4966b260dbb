# SPDX-License-Identifier: Apache-2.0
"""Records what a Trainer does as a training stream (micro_app/src/app/training_stream.h), for other TFLMs to repeat.

python tests/training_stream.py model_zo.tflite --data adapt.npz --test test.npz -o run.zos
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

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
from tflm_zo.ops import compiled
from tflm_zo.ops.layouts import Mask, NodeSetting, ScheduleGroup, Setting
from tflm_zo.training.samples import sample_codes
from tflm_zo.training.trainer import Trainer


def item(kind: StreamItem, *counts: int) -> bytes:
    return struct.pack(f"<{1 + len(counts)}I", kind, *counts)


class _Schedule(compiled.Schedule):
    """A schedule that tells its recorder of every step."""

    recorder: RecordingTrainer

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.recorder.write_header(settings)

    def step(self, step: int, batch: int, rate_scale: float) -> Iterator[int]:
        samples: dict[int, bytes] = {}
        for sample in super().step(step, batch, rate_scale):
            self.recorder.expect = lambda data, sample=sample: samples.__setitem__(sample, data)
            yield sample
        self.recorder.items.append(
            item(StreamItem.STEP)
            + bytes(StreamStep(step, batch, rate_scale))
            + b"".join(samples[i] for i in range(batch))
        )

    def flush(self) -> bool:
        pending = super().flush()
        if pending:
            self.recorder.expect = lambda data: self.recorder.items.append(item(StreamItem.FINISH) + data)
        return pending


class RecordingTrainer(Trainer):
    """A Trainer whose fits and evaluations can be repeated elsewhere: ``stream()``."""

    def __init__(self, model: bytes, seed: int = 0) -> None:
        self.expect: Any = None
        self.items: list[bytes] = []
        self.header = b""
        self.parameter_values: dict[int, Setting] = {}
        self.node_values: dict[int, NodeSetting] = {}
        super().__init__(model, seed)

    def _pass(self, x: np.ndarray, target: np.ndarray, command: np.ndarray) -> np.ndarray:
        if self.expect is not None:
            take, self.expect = self.expect, None
            take(x.tobytes() + target.tobytes())
        return super()._pass(x, target, command)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        configure, configure_node = compiled.OpState.configure, compiled.OpState.configure_node

        def parameter(state: compiled.OpState, index: int, sigma: int, rate: float, mask: Any) -> bool:
            self.parameter_values[index] = Setting(sigma, rate, Mask(*mask))
            return configure(state, index, sigma, rate, mask)

        def node(state: compiled.OpState, number: int, sigma: int, block: int, rate: float, mask: Any) -> bool:
            self.node_values[number] = NodeSetting(sigma, block, rate, Mask(*mask))
            return configure_node(state, number, sigma, block, rate, mask)

        schedule = type("Schedule", (_Schedule,), {"recorder": self})
        with (
            mock.patch.object(compiled, "Schedule", schedule),
            mock.patch.object(compiled.OpState, "configure", parameter),
            mock.patch.object(compiled.OpState, "configure_node", node),
        ):
            return super().fit(*args, **kwargs)

    def evaluate(self, x: np.ndarray, y: np.ndarray | None = None) -> dict[str, float]:
        codes, targets = sample_codes(x, y, self.model)
        samples = (c.tobytes() + t.tobytes() for c, t in zip(codes, targets, strict=True))
        self.items.append(item(StreamItem.EVALUATE, len(codes)) + b"".join(samples))
        return super().evaluate(x, y)

    def recalibrate(self, x: np.ndarray) -> None:
        codes = self.recalibration_codes(x)
        self.items.append(item(StreamItem.RECALIBRATE, len(codes)) + codes.tobytes())
        super().recalibrate(x)

    def write_header(self, settings: dict[str, Any]) -> None:
        sample = self._no_input().nbytes
        head = StreamHeader(STREAM_MAGIC, STREAM_VERSION, sample, self._no_target.nbytes)
        groups = settings["groups"]
        schedule = StreamSchedule(
            largest_step=settings["batch"],
            seed=settings["seed"],
            antithetic=settings["antithetic"],
            exact=settings["exact"],
            head_rate=settings["head_rate"],
            accumulate=settings["accumulate"],
            group_count=len(groups),
        )
        members = [ScheduleGroup(mode=g.mode, first=g.first, last=g.last, queries=g.queries) for g in groups]
        self.header = b"".join(map(bytes, [head, schedule, *members]))

    def _configuration(self) -> bytes:
        parameters = [self.parameter_values[p.index] if p.in_model else Setting() for p in self.model.parameters]
        nodes = [self.node_values[node.number] for node in sorted(self.model.nodes, key=lambda n: n.number)]
        return b"".join(struct.pack("<i", len(table)) + b"".join(map(bytes, table)) for table in (parameters, nodes))

    def stream(self) -> bytes:
        """Everything since this trainer was made (one fit)."""
        return self.header + self._configuration() + b"".join(self.items) + item(StreamItem.END)

    def trained_bytes(self) -> bytes:
        """All parameters, residuals included, in the order of the table: what the C++ programs write."""
        return b"".join(self._tensor(p).tobytes() for p in self.model.parameters)


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
