# SPDX-License-Identifier: Apache-2.0
"""The package's layout: who may import whom, and how large a module or a function may become."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tflm_zo"

# What stands at the top of the package, from the ground up: a folder or module imports from lower floors only.
# "tflm_zo" is the package's own __init__.py, which hands the public functions on.
FLOORS = (
    {"errors", "progress_bar"},
    {"files"},
    {"model", "ops"},
    {"patching", "simulator", "tflm"},
    {"conversion", "realignment", "training"},
    {"adaptation", "board", "demo"},
    {"serial", "tuning", "tflm_zo"},
    {"cli"},
)
MOST_FLOORS = 8
MOST_ENTRIES = 18
MOST_LINES = 400
MOST_FUNCTION_LINES = 60
MOST_POSITIONAL = 6
MOST_IMPORT_SECONDS = 0.3

# What is known to be too long. Nothing may be added; what has become short enough must be taken out.
LONG_MODULES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()


@cache
def modules() -> dict[str, ast.Module]:
    """The modules of the package by their dotted names, a folder's __init__.py by that of the folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules that a module imports anywhere: at its top, within functions, for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                name = submodule if submodule in modules() else str(node.module)
                if name in modules():
                    yield name


@cache
def imports() -> dict[str, set[str]]:
    """For each module the modules that it imports."""
    return {name: set(imported(tree)) for name, tree in modules().items()}


def top(module: str) -> str:
    """The folder or module at the top of the package that a module is, or lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def folder_imports() -> dict[str, set[str]]:
    """For each folder or module at the top those that it imports."""
    found: dict[str, set[str]] = {top(name): set() for name in modules()}
    for name, others in imports().items():
        found[top(name)] |= {top(other) for other in others} - {top(name)}
    return found


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions, methods and inner functions, by the dotted name of their module and their own name."""
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}.{node.name}", node


def test_every_folder_has_a_floor() -> None:
    named = [name for floor in FLOORS for name in floor]
    assert len(named) == len(set(named))
    assert set(named) == set(folder_imports())


def test_no_import_runs_upwards() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upwards = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if top(name) != top(other) and floor[top(name)] <= floor[top(other)]
    ]
    assert not upwards


@pytest.mark.parametrize("graph", [imports, folder_imports], ids=["modules", "folders"])
def test_no_import_circle(graph: object) -> None:
    assert callable(graph)
    TopologicalSorter(graph()).prepare()  # raises CycleError, which names the circle


def test_few_floors() -> None:
    graph = folder_imports()
    height: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        height[name] = 1 + max((height[other] for other in graph[name]), default=0)
    assert max(height.values()) <= MOST_FLOORS


def test_few_entries_at_the_top() -> None:
    entries = [p for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()]
    assert len(entries) <= MOST_ENTRIES


def test_every_folder_says_in_a_line_what_it_holds() -> None:
    for path in PACKAGE.glob("*/__init__.py"):
        tree = modules()[f"tflm_zo.{path.parent.name}"]
        text = ast.get_docstring(tree)
        assert text and "\n" not in text, path
        assert len(tree.body) == 1, f"{path}: a folder hands nothing on"


def test_no_folder_hides_a_public_function() -> None:
    import tflm_zo

    for name in tflm_zo.__all__:
        assert callable(getattr(tflm_zo, name)), name


def test_no_module_is_long() -> None:
    assert {name for name in modules() if lines(name) > MOST_LINES} == LONG_MODULES


def lines(module: str) -> int:
    path = PACKAGE.parent / Path(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return len(source.read_text().splitlines())


def test_no_function_is_long() -> None:
    long = {name for name, node in functions() if (node.end_lineno or 0) - node.lineno >= MOST_FUNCTION_LINES}
    assert long == LONG_FUNCTIONS


def test_few_positional_parameters() -> None:
    many = []
    for name, node in functions():
        given = [a.arg for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
        if len(given) > MOST_POSITIONAL:
            many.append(f"{name}({', '.join(given)})")
    assert not many


def test_import_is_quick_and_light() -> None:
    program = (
        "import sys, time; start = time.process_time(); import tflm_zo; print(time.process_time() - start);"
        "print([name for name in ('tensorflow', 'matplotlib') if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):  # the least of three: other programs on this machine make it longer
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        taken, heavy = done.stdout.splitlines()
        assert heavy == "[]"
        seconds.append(float(taken))
    assert min(seconds) < MOST_IMPORT_SECONDS
