# SPDX-License-Identifier: Apache-2.0
"""Hyperparameters are declared once: the check, the command line, the search and the docs say the same."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from tflm_zo import ZoError
from tflm_zo.cli.config_file import read_config
from tflm_zo.cli.main import main
from tflm_zo.training.declaration import (
    Choice,
    Codes,
    Declaration,
    OneOf,
    Part,
    Rate,
    Switch,
    Whole,
    declarations,
    default_text,
)
from tflm_zo.training.hyperparameters import REMOVED, Hyperparameters, check_names

DECLARED = {name: (default, declaration) for name, default, declaration in declarations(Hyperparameters)}
TOOL = Path(__file__).resolve().parents[1] / "tools" / "hyperparameter_table.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hyperparameter_table", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_in_the_docs_is_up_to_date(tool: ModuleType) -> None:
    page = tool.PAGE.read_text()
    assert page == tool.with_table(page), "run python tools/hyperparameter_table.py"
    assert all(f"| `{name}` |" in page for name in DECLARED)


def test_defaults_are_in_range_and_in_what_is_searched() -> None:
    Hyperparameters().check()
    for name, (default, declaration) in DECLARED.items():
        assert (default is None) == bool(declaration.none), name
        if declaration.search is not None:
            values = declaration.search.values
            assert default in values.values if isinstance(values, Choice) else values.low <= default <= values.high
            ends = values.values if isinstance(values, Choice) else (values.low, values.high)
            for value in ends:
                Hyperparameters(**{name: value}).check()
            assert set(declaration.search.unless) < set(DECLARED)


def beyond(declaration: Declaration) -> list[Any]:
    """Values out of a range, next to its ends."""
    allowed = declaration.range
    if isinstance(allowed, Whole):
        return [allowed.low - 1, allowed.high + 1, allowed.low + 0.5, float("nan"), "many"]
    if isinstance(allowed, Part):
        return [np.nextafter(allowed.low, -1), np.nextafter(allowed.high, 2), float("nan"), "much"]
    if isinstance(allowed, Rate):
        return [-1e-9, 1e30, float("inf"), float("nan"), "fast"]
    if isinstance(allowed, (OneOf, Switch)):
        return ["other", 2, ""]
    assert isinstance(allowed, Codes)
    return []


@pytest.mark.parametrize("name", DECLARED)
def test_the_check_names_what_is_out_of_range(name: str) -> None:
    _, declaration = DECLARED[name]
    values = beyond(declaration) + ([] if declaration.none or isinstance(declaration.range, Codes) else [None])
    for value in values:
        with pytest.raises(ZoError, match=rf"^{name} .*: (it must be|choose from) ") as error:
            Hyperparameters(**{name: value}).check()
        assert str(declaration.range) in str(error.value)
        by_layer = {"conv": value}
        with pytest.raises(ZoError, match=f"^{name} "):
            Hyperparameters(**{name: by_layer}).check()


@pytest.mark.parametrize("command", ["train", "monitor", "tune"])
def test_every_hyperparameter_is_an_option_with_its_default(command: str) -> None:
    options = {str(option.name): option for option in main.commands[command].params}
    for name, (default, declaration) in DECLARED.items():
        option = options[name]
        assert isinstance(option, click.Option) and option.help is not None
        assert option.multiple or option.default == default, name
        shown = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
        assert declaration.text.rstrip(".") in shown and declaration.unit in option.help
        if isinstance(declaration.range, Switch):
            assert f"--{declaration.range.on} / --{declaration.range.off}" in shown
            continue
        assert default_text(default, declaration) in shown
        if isinstance(declaration.range, OneOf):
            assert all(value in shown for value in declaration.range.names)
        else:
            assert str(declaration.range) in option.help


def test_python_users_are_told_the_same() -> None:
    for name, (default, declaration) in DECLARED.items():
        lines = [line for line in (Hyperparameters.__doc__ or "").splitlines() if line.startswith(f"{name}: ")]
        assert len(lines) == 1 and default_text(default, declaration) in lines[0]
        assert str(declaration.range) in lines[0] and declaration.text.rstrip(".") in lines[0]


@pytest.mark.parametrize("name", REMOVED)
def test_what_has_gone_is_refused_with_what_to_do_instead(name: str, tmp_path: Path) -> None:
    message = f"{name} has gone: {REMOVED[name]}"
    with pytest.raises(ZoError, match=message):
        check_names([name])
    path = tmp_path / "old.json"
    path.write_text(json.dumps({name: "random"}))
    with pytest.raises(ZoError, match=rf"old\.json: {message}"):
        read_config(path)
    for command in ("train", "tune", "monitor"):
        done = CliRunner().invoke(main, [command, f"--{name}", "random"])
        assert done.exit_code == 1 and done.output == f"tflm-zo: error: {message}\n"


def test_unknown_names_are_told_from_known_ones() -> None:
    check_names(DECLARED)
    check_names(["seed", "epochs"], besides=["seed"])
    with pytest.raises(ZoError, match="no hyperparameter is called 'epoch'; there are adapter_bias_sigma, "):
        check_names(["epochs", "epoch"])
