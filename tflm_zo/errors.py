# SPDX-License-Identifier: Apache-2.0
"""The exception and the warning that users of the package have to know."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator


class ZoError(ValueError):
    """A request that cannot be carried out; the message names the cause and the remedy."""


class DataWarning(UserWarning):
    """Samples or labels that can be used, but probably are not what they should be."""


def warn_of_data(notes: Iterable[str]) -> None:
    """Warn, in one line, of what ``notes`` say about samples and labels; of nothing if there are none."""
    told = "; ".join(notes)
    if told:
        warnings.warn(told, DataWarning, stacklevel=3)


@contextlib.contextmanager
def no_data_warnings() -> Iterator[None]:
    """Around work on parts of samples of which the whole has been told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        yield
