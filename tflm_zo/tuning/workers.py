# SPDX-License-Identifier: Apache-2.0
"""Processes for trainings that do not depend on each other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from types import TracebackType
from typing import Any

from tflm_zo.errors import ZoError
from tflm_zo.progress_bar import ProgressBar

_MOST_ON_WINDOWS = 61  # processes that one call can wait for there


class Workers:
    """Runs calls in ``jobs`` processes; with one job in this process, at once.

    Functions and arguments must be picklable. Ctrl-C is for this process, not for the others; they also end if
    this one is killed. Raises :class:`ZoError` if ``jobs`` is not positive.
    """

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ZoError(f"jobs is {jobs}: it must be 1 or more")
        self.jobs = min(jobs, _MOST_ON_WINDOWS) if sys.platform == "win32" else jobs
        self._pool: ProcessPoolExecutor | None = None
        if self.jobs > 1:
            # Not forked: a fork would copy the threads and loaded libraries of this process.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_start)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start ``function(*arguments)``; the future has its result or exception."""
        if self._pool is not None:
            with _interrupts_held():  # the first calls start the processes
                return self._pool.submit(function, *arguments)
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def run(self, calls: Mapping[Any, tuple[Any, ...]], bar: ProgressBar) -> dict[Any, Any]:
        """Carry out ``calls``, by key a function with its arguments; returns their results by key."""
        waiting = list(calls.items())[::-1]
        running: dict[Future[Any], Any] = {}
        results: dict[Any, Any] = {}
        while waiting or running:
            while waiting and len(running) < self.jobs:
                key, (function, *arguments) = waiting.pop()
                running[self.submit(function, *arguments)] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                results[running.pop(future)] = future.result()
                bar.advance(1)
        return results


def usable_processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the end. Processes started meanwhile never see it: before they can ignore it themselves they
    import for a second, and an interrupt would print where they are."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers, and they would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
