# SPDX-License-Identifier: Apache-2.0
"""Writes the table of hyperparameters into docs/hyperparameters.md, from their declarations in the package.

    python tools/hyperparameter_table.py

after a change of ``tflm_zo/training/hyperparameters.py`` and `pip install`; `tests/test_hyperparameters.py` tells if it
was forgotten.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tflm_zo.training.declaration import Declaration, declarations, default_text, option_name
from tflm_zo.training.hyperparameters import Hyperparameters

PAGE = Path(__file__).resolve().parents[1] / "docs" / "hyperparameters.md"
BEGIN, END = "<!-- made by tools/hyperparameter_table.py -->\n", "<!-- end -->\n"


def table() -> str:
    """Return a Markdown table with a row for each hyperparameter."""
    rows = [_row(*declared) for declared in declarations(Hyperparameters)]
    head = ["| name | option | default | range | `tune` tries | |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def with_table(page: str) -> str:
    """Return the page with the table that is up to date."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def _row(name: str, default: Any, declaration: Declaration) -> str:
    option = option_name(name, declaration).replace("/", "`, `")
    unit = f"{declaration.unit}: " if declaration.unit else ""
    by_layer = "; by layer" if declaration.by_layer else ""
    tried = declaration.search.values if declaration.search else ""
    shown = default_text(default, declaration)
    return f"| `{name}` | `{option}` | {shown} | {unit}{declaration.range}{by_layer} | {tried} | {declaration.text} |"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
