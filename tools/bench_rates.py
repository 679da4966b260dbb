#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Default learning rates of every method against the best of a sweep over five decades, on ten models.

    python tools/bench_rates.py --data ../shared/data -o rates.md

``--tuning``: ten other models and other drifts, which the formulas were chosen on. What the tool needs beside the
package: pip install tflm-zo[bench].
"""

from __future__ import annotations

import itertools
import sys

from suites import rate_sweep, tasks
from suites.command_line import command, parser_of
from suites.drifts import TABLE_SEEDS, TUNING_SEEDS
from suites.output import emit
from suites.processes import one_thread

TUNING = (
    "kws", "resnet", "gap", "silabs_micro_speech", "r_sigmoid", "conv1d gap", "c_tflm_magic_wand",
    "c_himax_handwriting", "lmanubens_gesture", "tofai_handpose",
)  # fmt: skip
TABLE = (
    "mobilenet", "dense digits", "dense cancer", "conv1d flat", "str_ww_ref_model", "fz_gestes", "hiimshyy_har",
    "c_atomic14_marvin", "c_vahid_magic_wand", "fall",
)  # fmt: skip


def main() -> None:
    """Entry point."""
    parser = parser_of(__doc__, kept="prepared models")
    parser.add_argument("--tasks", nargs="+", help="names of tasks (default: ten of the table)")
    parser.add_argument("--methods", nargs="+", choices=rate_sweep.METHODS, default=rate_sweep.METHODS)
    parser.add_argument("--tuning", action="store_true", help="the models and drifts that formulas were chosen on")
    parser.add_argument("--samples", type=int, default=200, help="samples to train on (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=5000, help="passes of a training (default: %(default)s)")
    options = parser.parse_args()
    one_thread()
    seeds = TUNING_SEEDS[:3] if options.tuning else TABLE_SEEDS
    results = {}
    for name in options.tasks or (TUNING if options.tuning else TABLE):
        task = tasks.load(name, options.data, options.results / "prepared")
        for method, seed in itertools.product(options.methods, seeds):
            result = rate_sweep.sweep(task, method, seed, options.samples, options.passes)
            results[name, method, seed] = result
            print(name, method, seed, result.refused or f"{result.part:.2f}", file=sys.stderr, flush=True)
    emit(rate_sweep.markdown(results, command()), options.output)


if __name__ == "__main__":
    main()
