# SPDX-License-Identifier: Apache-2.0
"""The results of a suite as Markdown, and as a picture."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suites.case import Case
from suites.jobs import Run
from suites.memory import arena, backprop_memory, first_affordable_layer
from suites.starts import FILTERED, chosen_filter, model_at
from suites.suite import Method, Suite, Yardstick
from suites.yardsticks import Outcome, with_adapter
from tflm_zo import patch
from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic
from tflm_zo.model.file import load_model
from tflm_zo.model.layers import trainable_layers
from tflm_zo.simulator.model import SimModel

# Styles of the yardsticks' lines.
_STYLES = ("--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Results:
    """All that was measured: ``plain`` scores before and after the drift by case; ``prepared`` those of other models
    that methods start from, untrained, by start and case; ``runs`` by method, case, seed and passes; ``outcomes`` of
    back-propagation by yardstick and case; ``confirmed`` runs in the simulator and in TFLite Micro by case."""

    suite: Suite
    budgets: tuple[int, ...]
    seeds: int
    plain: dict[str, tuple[float, float]]
    prepared: dict[str, dict[str, float]]
    runs: dict[tuple[str, str, int, int], Run]
    outcomes: dict[tuple[str, str], Outcome]
    confirmed: dict[str, tuple[Run, Run]]

    @property
    def yardsticks(self) -> list[Yardstick]:
        """The yardsticks that were measured."""
        return [y for y in self.suite.yardsticks if any(y.name == name for name, _ in self.outcomes)]

    @property
    def cases(self) -> list[str]:
        """Names of the cases."""
        return [case.name for case in self.suite.cases]

    @property
    def higher_is_better(self) -> bool:
        """Accuracy, or else an error."""
        return self.suite.cases[0].higher_is_better

    def of(self, method: str, case: str, passes: int) -> list[float]:
        """Scores, one a seed."""
        return [self.runs[method, case, seed, passes].score for seed in range(self.seeds)]

    def mean(self, method: str, passes: int) -> float:
        """Mean over cases and seeds."""
        return float(np.mean([self.of(method, case, passes) for case in self.cases]))

    def best(self, budgets: tuple[int, ...] = (), *, chains: bool = True) -> tuple[str, int]:
        """Method and passes of the best mean; ``chains``: also methods that are the package's whole chain."""
        methods = [m for m in self.suite.methods if chains or not m.chain]
        pairs = [(m.name, b) for m in methods for b in budgets or self.budgets]
        sign = 1 if self.higher_is_better else -1
        return max(pairs, key=lambda pair: sign * self.mean(*pair))


def markdown(results: Results, command: str) -> str:
    """The results in Markdown."""
    most = max(results.budgets)
    best, best_passes = results.best()
    measured = "Test accuracy" if results.higher_is_better else "Mean squared error on test samples"
    parts = [
        f"    {command}",
        "",
        f"{measured} after {most:,} forward passes, mean and standard deviation over {results.seeds} seeds:",
        "",
        *_scores(results, most),
        "",
        *_verdicts(results, most),
        "",
        *_groups(results, most),
        *_settings(results),
        "Mean over cases after a training of that many passes (the last column: passes that the longest used, and its "
        "seconds in the simulator):",
        "",
        *_curve(results, most),
        "",
        f"{best} (best mean: {results.mean(best, best_passes):.3f} after {best_passes:,} passes), by case:",
        "",
        *_table(
            ["case", *[f"{budget:,} passes" for budget in results.budgets]],
            [[c, *[_spread(results.of(best, c, budget)) for budget in results.budgets]] for c in results.cases],
        ),
        "",
        "Peak RAM of training on a 32-bit board:",
        "",
        *_memory(results),
    ]
    return "\n".join(parts) + "\n"


def _scores(results: Results, most: int) -> list[str]:
    names = [m.name for m in results.suite.methods]
    columns = ["case", "before", "drifted", *_starts(results), *names]
    columns += [yardstick.name for yardstick in results.yardsticks]
    if results.confirmed:
        columns.append("same in TFLite Micro")
    rows = []
    for case in results.cases:
        before, drifted = results.plain[case]
        row = [case, f"{before:.3f}", f"{drifted:.3f}"]
        row += [f"{scores[case]:.3f}{_filter(results, start, case)}" for start, scores in results.prepared.items()]
        row += [_spread(results.of(name, case, most)) for name in names]
        row += [_spread(results.outcomes[yardstick.name, case].scores) for yardstick in results.yardsticks]
        if results.confirmed:
            row.append(_confirmation(*results.confirmed[case]))
        rows.append(row)
    before, drifted = np.mean(list(results.plain.values()), axis=0)
    row = ["**mean**", f"{before:.3f}", f"{drifted:.3f}"]
    row += [f"{np.mean(list(scores.values())):.3f}" for scores in results.prepared.values()]
    row += [f"**{results.mean(name, most):.3f}**" for name in names]
    row += [f"**{_yardstick_mean(results, yardstick):.3f}**" for yardstick in results.yardsticks]
    rows.append(row + [""] * (len(columns) - len(row)))
    return _table(columns, rows)


def _groups(results: Results, most: int) -> list[str]:
    """Means over the cases of each group, if there are any."""
    groups: dict[str, list[str]] = {}
    for case in results.suite.cases:
        groups.setdefault(case.group, []).append(case.name)
    if list(groups) == [""]:
        return []
    names = [m.name for m in results.suite.methods]
    rows = []
    for group, cases in groups.items():
        row = [group, *(f"{value:.3f}" for value in np.mean([results.plain[case] for case in cases], axis=0))]
        row += [f"{np.mean([scores[case] for case in cases]):.3f}" for scores in results.prepared.values()]
        row += [f"{np.mean([results.of(name, case, most) for case in cases]):.3f}" for name in names]
        row += [f"{np.mean([results.outcomes[y.name, case].scores for case in cases]):.3f}" for y in results.yardsticks]
        rows.append(row)
    columns = ["family", "before", "drifted", *_starts(results), *names, *[y.name for y in results.yardsticks]]
    drifts = [[case.name, case.about] for case in results.suite.cases]
    return ["By family:", "", *_table(columns, rows), "", "The drifts:", "", *_table(["case", "drift"], drifts), ""]


def _starts(results: Results) -> list[str]:
    return [f"{start}, untrained" for start in results.prepared]


def _filter(results: Results, start: str, name: str) -> str:
    case = next(case for case in results.suite.cases if case.name == name)
    return f" ({chosen_filter(case)})" if start == FILTERED else ""


def _yardstick_mean(results: Results, yardstick: Yardstick) -> float:
    return float(np.mean([results.outcomes[yardstick.name, case].scores for case in results.cases]))


def _verdicts(results: Results, most: int) -> list[str]:
    """How far the best method of the table is from each yardstick."""
    method, _ = results.best((most,))
    lines = []
    for yardstick in results.yardsticks:
        ours = np.array([np.mean(results.of(method, case, most)) for case in results.cases])
        theirs = np.array([np.mean(results.outcomes[yardstick.name, case].scores) for case in results.cases])
        if results.higher_is_better:
            points = 100 * (ours - theirs)
            worst = int(np.argmin(points))
            text = f"{points.mean():+.1f} points in the mean, {points[worst]:+.1f} in the worst case"
        else:
            drifted = np.array([results.plain[case][1] for case in results.cases])
            parts = (drifted - ours) / (drifted - theirs)
            worst = int(np.argmin(parts))
            whole = (drifted - ours).mean() / (drifted - theirs).mean()
            text = f"its error falls {whole:.0%} as far in the mean, {parts[worst]:.0%} in the worst case"
        lines.append(f"* {method} against {yardstick.name}: {text} ({results.cases[worst]}).")
    return lines


def _settings(results: Results) -> list[str]:
    """What back-propagation was trained with."""
    names = [yardstick.name for yardstick in results.yardsticks]
    if not names:
        return []
    rows = [[case, *[results.outcomes[name, case].setting for name in names]] for case in results.cases]
    return ["Settings of back-propagation, chosen on held-out samples:", "", *_table(["case", *names], rows), ""]


def _curve(results: Results, most: int) -> list[str]:
    rows = []
    for method in results.suite.methods:
        longest = [run for key, run in results.runs.items() if key[0] == method.name and key[3] == most]
        used, seconds = max(run.passes for run in longest), np.mean([run.seconds for run in longest])
        means = [f"{results.mean(method.name, budget):.3f}" for budget in results.budgets]
        rows.append([method.name, *means, f"{used:,}, {seconds:.0f} s"])
    return _table(["method", *[f"{budget:,} passes" for budget in results.budgets], "longest"], rows)


def _memory(results: Results) -> list[str]:
    rows = []
    models = dict.fromkeys(case.model for case in results.suite.cases)
    for number, model in enumerate(models):
        cases = [case for case in results.suite.cases if case.model == model]
        # The cases of one model are named alike up to the drift.
        of = f" ({cases[0].name.split(',')[0]})" if len(models) > 1 and cases[0].group else ""
        if number and not of:
            break
        rows += [[f"{name}{of}", *rest] for name, *rest in _memory_of(results, cases)]
    return _table(["training", "RAM", "of which"], rows)


def _memory_of(results: Results, cases: list[Case]) -> list[list[str]]:
    """Rows for one model."""
    case = cases[0]
    rows = [["inference alone", _kilobytes(arena(case.model)), "TFLite Micro's arena"]]
    for method in results.suite.methods:
        if not method.chain:
            rows.append([method.name, _kilobytes(_arena(case, method)), "TFLite Micro's arena"])
    for yardstick in results.yardsticks:
        model = with_adapter(case.model) if yardstick.adapter else case.model
        first = first_affordable_layer(model) if yardstick.limited else 0
        chosen = {results.outcomes[yardstick.name, c.name].setting.split()[0] for c in cases}
        if yardstick.limited:
            layers = [layer.name for layer in trainable_layers(load_model(model))]
            names = ", ".join(layers[-sum(layer.weights is not None for layer in SimModel(model).layers[first:]) :])
            rows.append([yardstick.name, _kilobytes(_arena(case, results.suite.methods[0])), f"by definition: {names}"])
            continue
        for optimizer in sorted(chosen):
            need = backprop_memory(model, yardstick.int8, optimizer)
            what = {
                "weights": need.weights,
                "their gradient": need.gradients,
                "optimizer": need.optimizer,
                "activations and their gradients": need.activations,
            }
            text = ", ".join(f"{name} {_kilobytes(size)}" for name, size in what.items() if size)
            rows.append([f"{yardstick.name}, {optimizer}", _kilobytes(need.total), text])
    return rows


def _arena(case: Case, method: Method) -> int:
    return arena(patch(model_at(case, method.start), **method.patching))


def _kilobytes(size: int) -> str:
    return f"{size / 1024:.1f} KB"


def _spread(values: Iterable[float]) -> str:
    array = np.array(list(values))
    return f"{array.mean():.3f} ± {array.std():.3f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _confirmation(sim: Run, tflm: Run) -> str:
    same = "yes" if (sim.weights, sim.score) == (tflm.weights, tflm.score) else "NO"
    return f"{same}: {tflm.score:.3f} after {tflm.passes:,}"


def picture(results: Results, path: Path) -> None:
    """Write a PNG: score against passes, mean over cases; bands are the deviation of that mean over seeds.

    Raises :class:`ZoError` if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise ZoError("the picture needs matplotlib: pip install 'tflm-zo[bench]'") from error
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, method in enumerate(results.suite.methods):
        scores = np.array(
            [
                [
                    np.mean([results.runs[method.name, case, seed, budget].score for case in results.cases])
                    for seed in range(results.seeds)
                ]
                for budget in results.budgets
            ]
        )
        mean, spread = scores.mean(axis=1), scores.std(axis=1)
        axes.plot(results.budgets, mean, marker="o", color=f"C{number}", label=method.name)
        axes.fill_between(results.budgets, mean - spread, mean + spread, color=f"C{number}", alpha=0.2)
    for number, yardstick in enumerate(results.yardsticks):
        style = _STYLES[number % len(_STYLES)]
        axes.axhline(_yardstick_mean(results, yardstick), color="black", linestyle=style, label=yardstick.name)
    before, drifted = np.mean(list(results.plain.values()), axis=0)
    axes.axhline(before, color="tab:gray", linewidth=1, label="before the drift")
    axes.axhline(drifted, color="tab:gray", linewidth=1, linestyle=(0, (1, 4)), label="drifted, untrained")
    axes.set_xscale("log")
    axes.set_xticks(results.budgets, minor=False)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("forward passes of the training")
    axes.set_ylabel("test accuracy" if results.higher_is_better else "mean squared error")
    axes.set_title(f"{results.suite.name}: mean over {len(results.cases)} cases")
    axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, stream.getvalue())
