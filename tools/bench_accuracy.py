#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Accuracy of training with forward passes only, beside back-propagation, on the same samples.

    python tools/bench_accuracy.py kws --data ../shared/data -o kws.md

Suites: kws (keyword spotting), cifar (images), digits (the demo's), ad01 (an autoencoder), and fresh-..., drifts of
families drawn at random, of several models (tools/suites/fresh.py); see tools/suites/. Each method trains from the
int8 model, for each number of passes anew (learning rates decay over the whole training), with each seed. Training
runs in the simulator; --confirm repeats one training for each case, of the method with the best mean, in TFLite Micro
itself, where it must give the same weights.

Back-propagation goes through all layers of the same network (tools/suites/float_network.py), its settings chosen on
held-out parts of the adaptation samples. Results are kept in a folder job by job: run the same command again to go on
after an interruption. What the tool needs beside the package: pip install tflm-zo[bench].
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from suites import jobs
from suites.command_line import command, parser_of
from suites.jobs import SUITES, Place
from suites.output import emit
from suites.processes import one_thread
from suites.report import Results, markdown, picture
from suites.starts import AS_IT_IS


def measure(place: Place, options: argparse.Namespace) -> Results:
    """Run all jobs, ``options.jobs`` at a time."""
    suite = place.load()
    budgets = tuple(sorted(options.passes))
    methods, cases, seeds = range(len(suite.methods)), range(len(suite.cases)), range(options.seeds)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        trainings = {
            (m, c, s, b): pool.submit(jobs.train, place, m, c, s, b)
            for b in budgets
            for m in methods
            for c in cases
            for s in seeds
        }
        backprops = {
            (y, c): pool.submit(jobs.yardstick, place, y, c, options.seeds)
            for y in range(len(suite.yardsticks))
            for c in cases
            if not options.no_backprop
        }
        starts = {
            (start, c): pool.submit(jobs.prepared, place, c, start)
            for start in dict.fromkeys(m.start for m in suite.methods)
            if start != AS_IT_IS
            for c in cases
        }
        results = Results(
            suite=suite,
            budgets=budgets,
            seeds=options.seeds,
            plain={case.name: jobs.untrained(case) for case in suite.cases},
            prepared={start: {} for start, _ in starts},
            runs={},
            outcomes={},
            confirmed={},
        )
        for (m, c, s, b), training in trainings.items():
            name, case, run = suite.methods[m].name, suite.cases[c].name, training.result()
            results.runs[name, case, s, b] = run
            _say(f"{name}, {case}, seed {s}, {run.passes} passes: {run.score:.3f}")
        for (start, c), starting in starts.items():
            results.prepared[start][suite.cases[c].name] = starting.result()
        confirmations = {}
        if options.confirm:
            # Of the whole chain there is one form only.
            best = next(m for m in methods if suite.methods[m].name == results.best(chains=False)[0])
            confirmations = {c: pool.submit(jobs.train, place, best, c, 0, budgets[0], True) for c in cases}
        for (y, c), backprop in backprops.items():
            name, case, outcome = suite.yardsticks[y].name, suite.cases[c].name, backprop.result()
            results.outcomes[name, case] = outcome
            _say(f"{name}, {case}: {outcome}")
        for c, confirmation in confirmations.items():
            case = suite.cases[c].name
            results.confirmed[case] = (
                results.runs[suite.methods[best].name, case, 0, budgets[0]],
                confirmation.result(),
            )
    return results


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point."""
    parser = parser_of(__doc__, kept="finished jobs", parallel=True)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--passes", type=int, nargs="+", default=[5000, 20000, 50000, 200000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-backprop", action="store_true", help="leave the yardsticks out")
    parser.add_argument(
        "--confirm", action="store_true", help="repeat the best method in TFLite Micro, with the fewest passes"
    )
    parser.add_argument("--picture", type=Path, help="PNG file")
    options = parser.parse_args()
    one_thread()
    results = measure(Place(options.suite, options.data, options.results), options)
    text = markdown(results, command())
    if options.picture is not None:
        picture(results, options.picture)
    emit(text, options.output)


if __name__ == "__main__":
    main()
