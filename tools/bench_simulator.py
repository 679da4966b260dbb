#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Time per forward pass of the simulator beside TFLite Micro and LiteRT, on one core, in one run.

    python tools/bench_simulator.py ../shared/data/mlperf_tiny/*.tflite

Engines: the tflite-micro wheel, which runs one sample at a time; LiteRT with its reference kernels and with
XNNPACK, one thread, one sample at a time and, where the model can be resized, in a batch; the simulator with
one sample and in a batch, with each instruction set of this processor. Engines take turns, round after round,
and the fastest round counts, so that other load on the machine meets all of them alike. "equal" says whether
an engine's outputs are those of TFLite Micro to the bit.

With --training the second table has training passes per second: each method is trained for the same steps in
TFLite Micro and in the simulator, on random samples and labels, and "equal" compares the weights afterwards.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tflm_zo.patching.patched_model import PatchedModel

Pass = Callable[[np.ndarray], np.ndarray]


def wheel(model: bytes, _batch: int) -> Pass:
    """TFLite Micro, as its Python interface runs it."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model, arena_size=10 * len(model) + (4 << 20))

    def run(x: np.ndarray) -> np.ndarray:
        outputs = []
        for i in range(len(x)):
            interpreter.set_input(x[i : i + 1], 0)
            interpreter.invoke()
            outputs.append(interpreter.get_output(0))
        return np.concatenate(outputs)

    return run


def litert(model: bytes, batch: int, reference: bool) -> Pass:
    """LiteRT on one thread; ``batch`` samples at a time."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    interpreter = Interpreter(model_content=model, num_threads=1, experimental_op_resolver_type=kind)
    source = interpreter.get_input_details()[0]
    if batch > 1:
        interpreter.resize_tensor_input(source["index"], [batch, *source["shape"][1:]], strict=False)
    interpreter.allocate_tensors()
    target = interpreter.get_output_details()[0]["index"]

    def run(x: np.ndarray) -> np.ndarray:
        outputs = []
        for i in range(0, len(x), batch):
            interpreter.set_tensor(source["index"], x[i : i + batch])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(target))
        return np.concatenate(outputs)

    return run


def simulator(model: bytes, batch: int, instruction_set: str) -> Pass:
    """The simulator; ``batch`` samples at a time."""
    from tflm_zo.simulator.model import SimModel

    sim = SimModel(model, instruction_set)
    return lambda x: np.concatenate([sim.run(x[i : i + batch]) for i in range(0, len(x), batch)])


def engines(batch: int) -> dict[str, tuple[Callable[[bytes], Pass], int]]:
    """Makers by name, each with the most samples that one timed call should run."""
    from tflm_zo.simulator.library import INSTRUCTION_SETS

    table: dict[str, tuple[Callable[[bytes], Pass], int]] = {
        "TFLite Micro wheel": (lambda model: wheel(model, 1), 4),
        "LiteRT reference": (lambda model: litert(model, 1, True), 4),
        "LiteRT XNNPACK": (lambda model: litert(model, 1, False), 16),
        f"LiteRT XNNPACK, batch {batch}": (lambda model: litert(model, batch, False), batch),
    }
    for name in INSTRUCTION_SETS:
        if name == "auto":
            table["simulator, batch 1"] = (lambda model: simulator(model, 1, "auto"), 16)
            continue
        table[f"simulator {name}, batch {batch}"] = (partial(simulator, batch=batch, instruction_set=name), batch)
    return table


def check(runs: dict[str, tuple[Pass, int]], x: np.ndarray) -> dict[str, bool]:
    """Whether each engine's outputs equal those of the first; engines that fail are removed."""
    reference: np.ndarray | None = None
    equal = {}
    for name, (run, _) in list(runs.items()):
        try:
            output = run(x)
        except Exception as error:
            print(f"  {name}: left out, {error}")
            del runs[name]
            continue
        if reference is None:
            reference = output
        equal[name] = bool(np.array_equal(output, reference))
    return equal


def measure(runs: dict[str, tuple[Pass, int]], x: np.ndarray, seconds: float) -> dict[str, float]:
    """Best seconds per sample of each engine."""
    best = dict.fromkeys(runs, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, (run, count) in runs.items():
            start = time.perf_counter()
            run(x[:count])
            best[name] = min(best[name], (time.perf_counter() - start) / count)
    return best


def bench(path: Path, batch: int, seconds: float) -> None:
    """Print the table of one model."""
    from tflm_zo.errors import ZoError
    from tflm_zo.simulator.model import SimModel

    model = path.read_bytes()
    sim = SimModel(model)
    shape = sim.tensors[sim.inputs[0]].sample_shape
    x = np.random.default_rng(0).integers(-128, 128, (batch, *shape), dtype=np.int8)
    print(f"\n{path.name}: batch {batch}, {len(sim.layers)} layers")
    runs: dict[str, tuple[Pass, int]] = {}
    for name, (make, count) in engines(batch).items():
        try:
            runs[name] = (make(model), min(count, batch))
        except (ZoError, RuntimeError, ValueError, ImportError) as error:
            print(f"  {name}: left out, {error}")
    equal = check(runs, x)
    best = measure(runs, x, seconds)
    base = next(iter(best.values()))
    print(f"  {'engine':36} {'ms/pass':>9} {'times faster':>13} {'equal':>6}")
    for name, value in best.items():
        print(f"  {name:36} {value * 1e3:9.4f} {base / value:13.1f} {'yes' if equal[name] else 'no':>6}")


# How a model is patched and fitted, by what is trained. Convolutions by their outputs would take minutes in TFLite
# Micro on the large models, so they get few samples.
METHODS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "exact head": ({"trainable": "head"}, {}),
    "closed forms": ({"trainable": "exact"}, {}),
    "closed forms, input adapter": ({"trainable": "exact", "adapter": True}, {}),
    "all layers by nodes": ({"trainable": "all"}, {"method": "nodes", "queries": 1}),
    "all layers by weights": ({"trainable": "all"}, {"method": "weights", "queries": 1}),
}


def random_samples(model: PatchedModel, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Random codes, and labels to train on them: classes in turn, or the codes themselves."""
    x = np.random.default_rng(0).integers(-128, 128, (samples, *model.input_shape[1:]), dtype=np.int8)
    return x, np.arange(samples) % max(model.loss.outputs, 2) if model.loss.kind == 0 else x.reshape(samples, -1)


def bench_training(path: Path, samples: int, repeats: int) -> None:
    """Print training passes per second of one model, TFLite Micro beside the simulator.

    Few samples would hide what the simulator saves by batches and pay for what it sets up, so it is timed on
    ``repeats`` epochs, after one that is compared with TFLite Micro's.
    """
    from tflm_zo import Trainer, patch
    from tflm_zo.errors import ZoError
    from tflm_zo.patching.patched_model import read_patched
    from tflm_zo.training.simulator_engine import SimulatorEngine

    def simulator(patched: bytes) -> SimulatorEngine:
        return SimulatorEngine(read_patched(patched), confirms=False)

    model = path.read_bytes()
    print(f"\n{path.name}: training passes per second, {samples} samples, batches of 8")
    print(f"  {'trained':30} {'TFLite Micro':>13} {'simulator':>13} {'times faster':>13} {'equal':>6}")
    for name, (patching, fitting) in METHODS.items():
        try:
            patched = patch(model, **patching)
            trainers = [Trainer(patched, engine="tflm"), Trainer(patched, engine=simulator(patched))]
        except ZoError as error:
            print(f"  {name:30} left out, {error}")
            continue
        x, y = random_samples(trainers[0].model, samples)
        speeds = []
        for trainer in trainers:
            start = time.perf_counter()
            trainer.fit(x, y, epochs=1, batch_size=8, verbose=False, **fitting)
            speeds.append(trainer.progress.passes / (time.perf_counter() - start))
        tflm, sim = (trainer.weights for trainer in trainers)
        equal = all(np.array_equal(tflm[key], sim[key]) for key in tflm)
        start = time.perf_counter()
        trainers[1].fit(x, y, epochs=repeats, batch_size=8, verbose=False, **fitting)
        speeds[1] = trainers[1].progress.passes / (time.perf_counter() - start)
        print(
            f"  {name:30} {speeds[0]:13.0f} {speeds[1]:13.0f} {speeds[1] / speeds[0]:13.1f} "
            f"{'yes' if equal else 'no':>6}"
        )


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, help="int8 .tflite models")
    parser.add_argument("--batch", type=int, default=96, help="samples in a batch (default: 96)")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each model (default: 5)")
    parser.add_argument("--training", action="store_true", help="measure training too")
    parser.add_argument("--samples", type=int, default=16, help="samples trained on (default: 16)")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for path in arguments.models:
        bench(path, arguments.batch, arguments.seconds)
        if arguments.training:
            bench_training(path, arguments.samples, repeats=10)


if __name__ == "__main__":
    main()
