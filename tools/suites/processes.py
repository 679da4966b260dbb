# SPDX-License-Identifier: Apache-2.0
"""Processes of the benchmarks: each uses one thread, so that as many run side by side as are asked for."""

from __future__ import annotations

import os


def one_thread() -> None:
    """Tell the libraries of this process, and of those it starts, before they are loaded."""
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = "1"
