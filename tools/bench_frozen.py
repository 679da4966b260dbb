#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What it saves to run frozen layers once a sample (tflm_zo/patching/frozen_prefix.py), and what it costs.

    TFLM_ROOT=... python tools/bench_frozen.py --data ../shared/data

Keyword spotting and ResNet-8 are patched in several ways, and each is trained for the same steps on random samples and
labels twice: as two models, frozen layers apart, and whole. "same" says whether the trained weights are the same bytes.

The first table is of this machine, in the tflite-micro wheel: layers executed for a pass, CPU seconds of the fit (the
two take turns, the fastest round counts), bytes of the arena, and bytes that the two models' tables add to the
file. The second is of a Cortex-M4F in QEMU: bytes of the arena, and instructions for a pass, from the difference of
two trainings, one on twice the samples. It is left out without TFLM_ROOT (micro_app/tflm/README.md), an Arm compiler
or QEMU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from bench_simulator import random_samples

from tflm_zo import Trainer, patch
from tflm_zo.board import arduino
from tflm_zo.errors import ZoError
from tflm_zo.patching.frozen_prefix import SplitModel, layer_count, split
from tflm_zo.patching.patched_model import read_patched
from tflm_zo.training import tflm_passes

KEYWORDS = ("keyword spotting", "kws_ref_model")
IMAGES = ("ResNet-8", "pretrainedResnet_quant")
REFERENCE, CMSIS_NN = "cortex-m4f", "cortex-m4f-cmsis-nn"


@dataclass(frozen=True)
class Form:
    """A patched model and how it is trained; the kernels that it is run with on a Cortex-M4F."""

    model: tuple[str, str]
    trained: str
    patching: dict[str, Any]
    fitting: dict[str, Any] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()


def forms(queries: int) -> list[Form]:
    """What is measured."""
    nodes, weights = ({"method": method, "queries": queries} for method in ("nodes", "weights"))
    last_conv = {"method": {"conv2d_4": "nodes"}, "queries": queries}
    return [
        Form(KEYWORDS, "head, exact", {"trainable": "head"}),
        Form(KEYWORDS, "`exact`", {"trainable": "exact"}, kernels=(CMSIS_NN,)),
        Form(KEYWORDS, "`exact` and input adapter", {"trainable": "exact", "adapter": True}),
        Form(
            KEYWORDS,
            f"head exact, last conv by nodes, N = {queries}",
            {"trainable": "exact"},
            last_conv,
            (CMSIS_NN, REFERENCE),
        ),
        Form(KEYWORDS, f"`last:3` by nodes, N = {queries}", {"trainable": "last:3"}, nodes),
        Form(KEYWORDS, f"`last:3` by weights, N = {queries}", {"trainable": "last:3"}, weights),
        Form(IMAGES, "head, exact", {"trainable": "head"}),
        Form(IMAGES, "`exact`", {"trainable": "exact"}, kernels=(CMSIS_NN,)),
        Form(IMAGES, "`exact` and input adapter", {"trainable": "exact", "adapter": True}),
        Form(IMAGES, f"`last:4` by nodes, N = {queries}", {"trainable": "last:4"}, nodes, (CMSIS_NN,)),
        Form(IMAGES, f"`last:4` by weights, N = {queries}", {"trainable": "last:4"}, weights),
    ]


@contextmanager
def whole_models() -> Iterator[None]:
    """Within it all layers run in every pass, here and in what is exported."""
    with ExitStack() as stack:
        for module in (tflm_passes, arduino):
            stack.enter_context(mock.patch.object(module, "split", lambda _: None))
        yield


@dataclass(frozen=True)
class Fit:
    """What a fit took and gave."""

    seconds: float
    executions: int
    arena: int
    weights: bytes


def fit(model: bytes, samples: int, settings: dict[str, Any]) -> Fit:
    """Train a patched model anew."""
    trainer = Trainer(model, engine="tflm")
    before = trainer.bake()
    x, y = random_samples(trainer.model, samples)
    start = time.process_time()
    history = trainer.fit(x, y, batch_size=4, verbose=False, **settings)
    seconds = time.process_time() - start
    if trainer.bake() == before:
        raise ZoError("the training changed no weight, so equal weights would say nothing: raise --samples or --epochs")
    return Fit(seconds, history.layer_executions, trainer.arena_bytes, trainer.bake())


def host_row(form: Form, model: bytes, parts: SplitModel, options: argparse.Namespace) -> tuple[list[str], bool]:
    """A form's row of the first table, and whether both trainings gave the same weights."""
    settings = {"epochs": options.epochs, **form.fitting}
    alone, apart = [], []
    for _ in range(options.rounds):
        with whole_models():
            alone.append(fit(model, options.samples, settings))
        apart.append(fit(model, options.samples, settings))
    before, after = alone[0], apart[0]
    seconds, fewer = (min(run.seconds for run in runs) for runs in (alone, apart))
    layers = layer_count(model)
    same = len({run.weights for run in (*alone, *apart)}) == 1
    return [
        f"{parts.prefix_layers} of {layers}",
        f"{layers} -> {layers * after.executions / before.executions:.1f}",
        f"{seconds:.2f} -> {fewer:.2f}",
        f"{seconds / fewer:.1f}",
        f"{before.arena:,} -> {after.arena:,}",
        f"{parts.model_offset:,}",
        "yes" if same else "no",
    ], same


def host_table(data: Path, options: argparse.Namespace) -> bool:
    """Print the table of this machine; returns whether all weights were the same."""
    print(f"Training on this machine: {options.samples} samples, {options.epochs} epochs, batches of 4\n")
    heading(
        "training", "layers in front", "layers a pass", "CPU seconds", "times faster", "arena", "tables, bytes", "same"
    )
    all_same = True
    for form in forms(options.queries):
        model = patched(data, form)
        parts = split(model)
        if parts is None:
            row(form, f"0 of {layer_count(model)}", "runs whole: trained from its input on", *[""] * 5)
            continue
        cells, same = host_row(form, model, parts, options)
        row(form, *cells)
        all_same &= same
    return all_same


def board_row(model: bytes, settings: dict[str, Any], kernels: str) -> tuple[list[str], bool]:
    """A form's row of the second table, and whether both programs gave the host's weights."""
    import tflm_program
    from training_stream import RecordingTrainer

    x, y = random_samples(read_patched(model), 4)
    streams = []
    for count in (2, 4):
        trainer = RecordingTrainer(model)
        trainer.fit(x[:count], y[:count], epochs=1, batch_size=2, verbose=False, **settings)
        streams.append((trainer.stream(), trainer.trained_bytes()))
    arena, instructions, same = [], [], True
    for whole in (True, False):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            if whole:
                stack.enter_context(whole_models())
            program = tflm_program.build(kernels, True, model, Path(folder))
            runs = [tflm_program.train(program, True, stream, count_instructions=True) for stream, _ in streams]
        same &= [run.weights for run in runs] == [weights for _, weights in streams]
        once, twice = (run.instructions or 0 for run in runs)
        arena.append(runs[0].arena_used)
        instructions.append((twice - once) / (runs[1].passes - runs[0].passes))
    before, after = instructions
    return [
        "CMSIS-NN" if kernels == CMSIS_NN else "reference",
        f"{arena[0]:,} -> {arena[1]:,}",
        f"{before / 1e6:.2f} M -> {after / 1e6:.2f} M",
        f"{before / after:.1f}",
        "yes" if same else "no",
    ], same


def board_table(data: Path, queries: int) -> bool:
    """Print the table of the Cortex-M4F; returns whether all weights were the same."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    import tflm_program

    reasons = {kernels: tflm_program.missing(kernels, True) for kernels in (CMSIS_NN, REFERENCE)}
    if all(reasons.values()):
        print(f"\nTraining on a Cortex-M4F is left out: {reasons[CMSIS_NN]}")
        return True
    print("\nTraining on a Cortex-M4F in QEMU, batches of 2\n")
    heading("training", "kernels", "arena", "instructions a pass", "times fewer", "same")
    all_same = True
    for form in forms(queries):
        for kernels in form.kernels:
            if reasons[kernels] is not None:
                row(form, kernels, f"left out: {reasons[kernels]}", *[""] * 3)
                continue
            cells, same = board_row(patched(data, form), form.fitting, kernels)
            row(form, *cells)
            all_same &= same
    return all_same


def patched(data: Path, form: Form) -> bytes:
    """The model of a form."""
    return patch((data / "mlperf_tiny" / f"{form.model[1]}.tflite").read_bytes(), **form.patching)


def heading(*names: str) -> None:
    """Print a table's first two lines."""
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")


def row(form: Form, *cells: str) -> None:
    """Print a line of a table."""
    print(f"| {' | '.join((f'{form.model[0]}, {form.trained}', *cells))} |", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mlperf_tiny/ and its models")
    parser.add_argument("--samples", type=int, default=8, help="samples trained on here (default: 8)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of training here (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each training is timed (default: 3)")
    parser.add_argument("--queries", type=int, default=4, help="N, directions of nodes and weights (default: 4)")
    options = parser.parse_args()
    try:
        same = host_table(options.data, options) & board_table(options.data, options.queries)
    except (ZoError, OSError) as error:
        sys.exit(f"error: {error}")
    if not same:
        sys.exit("error: the frozen layers apart changed what was trained")


if __name__ == "__main__":
    main()
