# SPDX-License-Identifier: Apache-2.0
"""What a training starts from: the model of a case as it is, or prepared by the case's samples."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from suites.adaptation import adapted
from suites.case import Case
from tflm_zo import realign
from tflm_zo.model.file import load_model, save_model
from tflm_zo.tflm.evaluate import predict_plain
from tflm_zo.tuning.filter_choice import choose_filter

# What a training starts from: the model as it is, realigned to the drift without labels, or that with the filter in
# front that suits the labelled samples best, if any does.
AS_IT_IS, REALIGNED, FILTERED = "as it is", "realigned", "filtered, realigned"
# Or what the package's own choice of preparations makes of it.
PREPARED = "prepared"
# Passes of the training that the choice was made for.
_PREPARING = 5000


def model_at(case: Case, start: str) -> bytes:
    """Return the model that a training starts from."""
    if start == AS_IT_IS:
        return case.model
    if start == PREPARED:
        return adapted(case, _PREPARING, 0).prepared
    return _filtered(case) if start == FILTERED else _realigned(case)


@functools.cache
def chosen_filter(case: Case) -> str:
    """Return the filter that suits the labelled samples of a case best."""
    return next(iter(choose_filter(case.model, case.reference, case.x, case.y)))


@functools.cache
def _realigned(case: Case) -> bytes:
    return realign(case.model, case.reference, case.x)


@functools.cache
def _filtered(case: Case) -> bytes:
    return realign(case.model, case.reference, case.x, chosen_filter(case))


def behind_front(case: Case, start: str) -> Case:
    """Return the case whose samples went through what a preparation has put in front of the model, and whose model is
    what stands behind that.

    For back-propagation: it trains the layers of the model, not those in front.
    """
    tree = load_model(model_at(case, start))
    graph = tree.subgraphs[0]
    front = len(graph.operators) - len(load_model(case.model).subgraphs[0].operators)
    if front == 0:
        return replace(case, model=model_at(case, start))
    result = int(graph.operators[front - 1].outputs[0])
    behind, ends = graph.operators[front:], graph.outputs
    graph.operators, graph.outputs = graph.operators[:front], np.array([result], dtype=np.int32)
    through = save_model(tree)
    graph.operators, graph.outputs = behind, ends
    graph.inputs = np.array([result], dtype=np.int32)
    codes = [predict_plain(through, x) for x in (case.x, case.x_test)]
    return replace(case, model=save_model(tree), x=codes[0], x_test=codes[1])
