# SPDX-License-Identifier: Apache-2.0
"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path


def parser_of(doc: str, *, kept: str = "", parallel: bool = False) -> argparse.ArgumentParser:
    """Return a parser of what all benchmarks take: the folder of the data, and where the table goes.

    doc: the module's docstring, whose first line describes it. kept: what is kept in a folder of results, if anything.
    parallel: whether trainings can run side by side.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the models and samples")
    if parallel:
        parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: %(default)s)")
    if kept:
        folder, text = Path("build/bench"), f"folder of {kept} (default: %(default)s)"
        parser.add_argument("--results", type=Path, default=folder, help=text)
    parser.add_argument("-o", "--output", type=Path, help="Markdown file (default: standard output)")
    return parser


def command() -> str:
    """Return the command that this program was started by, as a shell takes it in the project's folder."""
    return shlex.join(["python", f"tools/{Path(sys.argv[0]).name}", *sys.argv[1:]])
