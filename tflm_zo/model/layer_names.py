# SPDX-License-Identifier: Apache-2.0
"""What layers are called: names out of a file's tensors, the operator's number, and "the third of its kind".

A ``.tflite`` has no names of layers, only of tensors, which a converter makes of the nodes of a TensorFlow graph. A
layer's name is the scope of the node that multiplies its weights; where no such node is left, it is called by its kind.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tflm_zo.model.graph import Graph, Operator

_KINDS = {"CONV_2D": "conv2d", "DEPTHWISE_CONV_2D": "depthwise_conv2d", "FULLY_CONNECTED": "dense"}
# Other spellings that people use for a kind, without underscores.
_ALIASES = {"fullyconnected": "dense", "depthwise": "depthwiseconv2d", "conv": "conv2d"}

# Nodes that multiply weights, and what may follow them in a path; converters number what would be there twice.
_NODE = re.compile(r"(Conv1D|Conv2D|convolution|depthwise|separable_conv2d|MatMul|Tensordot)(_?\d+)?")
_TAIL = re.compile(
    r"(ReadVariableOp|resource|[tT]ranspose|BiasAdd|Squeeze|ExpandDims|Relu6?|kernel|weights?|bias|Add(V2)?)(_?\d+)?"
)
# What converters call a tensor for which they have no name, and numbers, which are those of operators.
_NO_NAME = re.compile(
    r"tfl\.\w+|(arith|std)\.constant\d*|unknown(_\d+)?|Identity\w*|(Stateful)?PartitionedCall.*|Const(_\d+)?|\d+|"
)
# What this package puts in front of a model or between its operators is not counted, so that a number means the same
# operator in the original, the patched and the baked model.
_IN_FRONT = ("adapter/", "filter/", "normalize/")
_TRAINING = "CUSTOM TFLM_ZO_"


@dataclass(frozen=True)
class LayerLabel:
    """What a layer can be called by.

    ``name`` is the one that is shown; ``number`` the operator's in the original model (-1: a layer in front of it);
    ``handle`` counts its kind from 1 (``conv2d:3``); ``in_file`` is the scope as the file has it, ``tensor`` the name
    of the weights' tensor.
    """

    name: str
    number: int
    handle: str
    in_file: str
    tensor: str

    def __str__(self) -> str:
        return self.name if self.number < 0 else f"{self.name} ({self.number})"

    def with_kind(self, kind: str) -> str:
        """Return how errors name the layer, an operator of the schema's name ``kind``."""
        return f"layer {self.name} ({kind if self.number < 0 else f'operator {self.number}, {kind}'})"


def label_layers(graph: Graph) -> dict[int, LayerLabel]:
    """Return the labels of all convolutions and fully connected layers of a model, patched or not, by operator index.

    Names are not yet unique: see :func:`unique`.
    """
    numbers = operator_numbers(graph)
    originals = _original_names(graph)
    counts: Counter[str] = Counter()
    labels = {}
    for operator in graph.operators:
        if operator.name not in _KINDS or len(operator.inputs) < 2 or not operator.outputs:
            continue
        tensor = graph.tensors[operator.inputs[1]].name
        path = _path_of(graph, operator)
        in_file = path[-1] if path else ""
        name = originals.get(path, in_file)
        number = numbers.get(operator.index, -1)
        handle = name
        if number >= 0:
            kind = _KINDS[operator.name]
            counts[kind] += 1
            handle = f"{kind}:{counts[kind]}"
        labels[operator.index] = LayerLabel(name or handle, number, handle, in_file, tensor)
    return labels


def operator_numbers(graph: Graph) -> dict[int, int]:
    """Return the numbers of a model's own operators, by their index among all."""
    numbers: dict[int, int] = {}
    layers = 0
    for operator in graph.operators:
        made = [graph.tensors[i].name for i in operator.outputs]
        in_front = not layers and bool(made) and all(name.startswith(_IN_FRONT) for name in made)
        if not operator.name.startswith(_TRAINING) and not in_front:
            numbers[operator.index] = len(numbers)
            layers += operator.name in _KINDS
    return numbers


def unique(label: LayerLabel, taken: Iterable[str]) -> LayerLabel:
    """Return the label with a name that is not among those ``taken``."""
    taken = set(taken)
    candidate, number = label.name, 2
    while candidate in taken:
        candidate, number = f"{candidate}#{number}", number + 1
    return replace(label, name=candidate)


def matching(labels: Sequence[LayerLabel], pattern: str) -> set[int]:
    """Return the positions of the labels that ``pattern`` means.

    It is a name or glob of names or of weights' tensors; an operator's number (``6``); the place among the layers of
    one kind (``conv2d:3``, ``dense:1``, ``FULLY_CONNECTED:1``); or else the name of a scope in the file.
    """

    def positions(found: Iterator[bool]) -> set[int]:
        return {position for position, yes in enumerate(found) if yes}

    if not pattern:
        return set()
    if pattern.isdecimal():
        return positions(label.number == int(pattern) for label in labels)
    handle = _plain_handle(pattern)
    return (
        positions(
            fnmatch.fnmatchcase(label.name, pattern) or fnmatch.fnmatchcase(label.tensor, pattern) for label in labels
        )
        or positions(bool(handle) and _plain_handle(label.handle) == handle for label in labels)
        or positions(label.in_file == pattern for label in labels)
    )


def listing(labels: Iterable[LayerLabel]) -> str:
    """Return layers as messages name them, each with its operator's number."""
    return ", ".join(map(str, labels))


def _plain_handle(text: str) -> str:
    kind, colon, number = text.lower().replace("_", "").replace("-", "").rpartition(":")
    return f"{_ALIASES.get(kind, kind)}{colon}{int(number)}" if colon and number.isdecimal() else ""


def _path_of(graph: Graph, operator: Operator) -> tuple[str, ...]:
    """Return the scope of an operator's layer as a path, () if no name tells it."""
    weights, output = graph.tensors[operator.inputs[1]].name, graph.tensors[operator.outputs[0]].name
    parts = [_scope(part) for name in (weights, output) for part in name.split(";")]
    # A fused operator has the names of several nodes: that which multiplies is the layer's own.
    sure = [path for path, multiplies in parts if multiplies and path]
    return next(iter([*sure, *(path for path, _ in parts if path)]), ())


def _scope(name: str) -> tuple[tuple[str, ...], bool]:
    """Return a node's path without the node itself, and whether that multiplies weights."""
    path = [part for part in name.split("/") if not part.startswith("StatefulPartitionedCall")]
    multiplies = False
    stripped: set[str] = set()
    while path:
        node = _NODE.fullmatch(path[-1])
        if node and node[1] not in stripped:  # a layer may have the name of a node
            stripped.add(node[1])
            multiplies = True
        elif not _TAIL.fullmatch(path[-1]):
            break
        path.pop()
    if path and _NO_NAME.fullmatch(path[-1]):
        return (), False
    return tuple(path), multiplies


def _original_names(graph: Graph) -> dict[tuple[str, ...], str]:
    """Return the Keras names of layers whose scopes Keras 3 has numbered anew, by their paths in the file.

    Keras 3 opens each layer's scope twice while it traces a model, and TensorFlow adds "_1" to what it has seen before:
    "functional_1/dense_1" is the layer "dense" of the model "functional", and "dense_1" is called "dense_1_2", as
    "dense_1" is taken by then. Names are those of Keras 2 or a user's own if they cannot all have come about so.
    """
    groups: dict[tuple[str, ...], set[str]] = {}
    older = set()
    for tensor in graph.tensors:
        for part in tensor.name.split(";"):
            path = [step for step in part.split("/") if step != "StatefulPartitionedCall"]
            for depth in range(1, len(path) - 1):  # the last step is the node
                groups.setdefault(tuple(path[:depth]), set()).add(path[depth])
            if any(step.startswith("Conv2D") for step in path):  # Keras 3 calls this node "convolution"
                older.add(path[0])
    names: dict[tuple[str, ...], str] = {}
    for parent, scopes in groups.items():
        parts = {child: re.fullmatch(r"(.+)_(1|2)", child) for child in scopes}
        found = {child: part[1] for child, part in parts.items() if part and (part[2] == "1" or part[1] in scopes)}
        numbered = re.fullmatch(r".+_[12]", parent[-1])
        if parent[0] not in older and numbered and len(set(found.values())) == len(scopes):
            names.update({(*parent, child): name for child, name in found.items()})
    return names
