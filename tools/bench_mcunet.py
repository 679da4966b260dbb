#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The network of "Poor Man's Training on MCUs" on corrupted images: as it is, realigned, and adapted.

    python tools/bench_mcunet.py --data ../shared/data -o mcunet.md

MCUNet-5fps in int8 (128 x 128 pixels), CIFAR-10-C's strengths at severity 5 (tools/suites/cifar_c.py), 1,000 images to
adapt, 2,000 to test. Needs the files of mcunet/ and cifar10_jpeg_dev.npz, and SciPy.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from suites.cifar_c import CORRUPTIONS, corrupted
from suites.command_line import parser_of
from suites.output import emit

import tflm_zo
from tflm_zo.model.file import load_model, save_model
from tflm_zo.patching.patch import patch
from tflm_zo.realignment.sample_normalization import normalize_codes, take_sample_normalization
from tflm_zo.training.sim_trainer import SimTrainer

_ADAPT, _SIDE, _WIDE = 1000, 128, 147


def to_codes(images: np.ndarray) -> np.ndarray:
    """Return images uint8 (n, 32, 32, 3) as the network takes them: bilinear to 147 x 147, the middle 128, int8."""
    places = (np.arange(_WIDE) + 0.5) * images.shape[1] / _WIDE - 0.5
    first = (_WIDE - _SIDE) // 2
    places = np.clip(places[first : first + _SIDE], 0, images.shape[1] - 1)
    low = np.minimum(np.floor(places).astype(int), images.shape[1] - 2)
    part = (places - low).astype(np.float32)
    codes = np.empty((len(images), _SIDE, _SIDE, 3), dtype=np.int8)
    for i, image in enumerate(images.astype(np.float32)):
        rows = image[low] + part[:, None, None] * (image[low + 1] - image[low])
        whole = rows[:, low] + part[None, :, None] * (rows[:, low + 1] - rows[:, low])
        codes[i] = np.rint(whole) - 128
    return codes


def _accuracy(model: bytes, x: np.ndarray, y: np.ndarray) -> float:
    tree = load_model(model)
    normalization = take_sample_normalization(tree)
    if normalization is not None:  # the simulator has no such operators, but the same bytes of them
        model, x = save_model(tree), normalize_codes(x, normalization)
    return float(SimTrainer(patch(model)).evaluate(x, y)["accuracy"])


def main() -> None:
    """Entry point."""
    parser = parser_of(__doc__)
    parser.add_argument("--corruptions", nargs="+", choices=list(CORRUPTIONS), default=list(CORRUPTIONS))
    parser.add_argument("--passes", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model = (options.data / "mcunet" / "mcunet_cifar.tflite").read_bytes()
    images = np.load(options.data / "cifar10_jpeg_dev.npz")
    y = images["y"]
    reference = to_codes(images["x"][:_ADAPT])
    lines = [
        "| corruption | as it is | realigned | prepared | adapted | preparation | training |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    numbers = []
    for name in options.corruptions:
        started = time.perf_counter()
        x = to_codes(corrupted(images["x"], name))
        train, test = (x[:_ADAPT], y[:_ADAPT]), (x[_ADAPT:], y[_ADAPT:])
        found = tflm_zo.adapt(model, *train, reference, passes=options.passes, seed=options.seed)
        models = (model, tflm_zo.realign(model, reference, train[0]), found.prepared, found.model)
        scores = [_accuracy(m, *test) for m in models]
        numbers.append(scores)
        shown = " | ".join(f"{score:.3f}" for score in scores)
        lines.append(f"| {name.replace('_', ' ')} | {shown} | {found.chain.name} | {found.training} |")
        print(f"{lines[-1]} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    lines.append("| **mean** | " + " | ".join(f"**{score:.3f}**" for score in np.mean(numbers, axis=0)) + " | | |")
    text = "\n".join(lines) + "\n"
    emit(text, options.output)


if __name__ == "__main__":
    main()
