#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whether training with all options at their defaults ever makes a model worse.

    python tools/bench_never_worse.py --data ../shared/data -o never_worse.md

Every model with samples (tools/suites/tasks.py), without a drift and with drifts of families drawn at random
(tools/suites/drifts.py), 20 to 400 samples, even and with nine of ten samples from half of the classes, three seeds:
the score on test samples before and after (tools/suites/never_worse.py says what counts as worse). Results are kept in
a folder training by training: run the same command again to go on after an interruption. What the tool needs beside the
package: pip install tflm-zo[bench].
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

from suites import never_worse, tasks
from suites.command_line import command, parser_of
from suites.drifts import TABLE_SEEDS, TUNING_SEEDS
from suites.never_worse import Result, Training
from suites.output import emit
from suites.processes import one_thread

from tflm_zo.errors import ZoError


def measure(options: argparse.Namespace) -> dict[Training, Result]:
    """Run all trainings, ``options.jobs`` at a time."""
    sizes, seeds = ((50, 200), 1) if options.quick else (tuple(options.sizes), 3)
    drift_seeds = TUNING_SEEDS if options.tuning else TABLE_SEEDS
    wanted: list[Training] = []
    results: dict[Training, Result] = {}
    for name in options.tasks or tasks.names(options.data, options.slow):
        try:
            task = tasks.load(name, options.data, options.results / "prepared")
        except ZoError as error:
            results[Training(name, "", 0, 0, False, 0, options.method)] = Result(refused=str(error))
            continue
        wanted += never_worse.trainings(name, task.kind, task.loss == "mse", drift_seeds, sizes, seeds, options.method)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        running: dict[Training, Future[Result]] = {
            training: pool.submit(never_worse.run, training, options.data, options.results) for training in wanted
        }
        for training, future in running.items():
            result = results[training] = future.result()
            said = result.refused or f"{result.before:.3f} -> {result.after:.3f}{' WORSE' if result.worse else ''}"
            drift = training.family or "no drift"
            uneven = ", 9:1" if training.uneven else ""
            print(
                f"{training.task}, {drift}, {training.size} samples{uneven}, seed {training.seed}: {said}",
                file=sys.stderr,
                flush=True,
            )
    return results


def main() -> None:
    """Entry point."""
    parser = parser_of(__doc__, kept="finished trainings", parallel=True)
    parser.add_argument("--tasks", nargs="+", help="names of tasks (default: all)")
    parser.add_argument("--method", choices=("fit", "adapt"), default="fit", help="the default fit, or the whole chain")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=never_worse.SIZES, help="numbers of samples (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="two sizes and one seed only")
    parser.add_argument("--slow", action="store_true", help="with MCUNet")
    parser.add_argument("--tuning", action="store_true", help="drifts to choose constants with, not those of the table")
    options = parser.parse_args()
    one_thread()
    results = measure(options)
    emit(never_worse.markdown(results, command()), options.output)


if __name__ == "__main__":
    main()
