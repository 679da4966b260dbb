# SPDX-License-Identifier: Apache-2.0
"""TensorFlow graphs made such that the TFLite converter quantizes them rightly, and the same each time."""

from __future__ import annotations

from typing import Any

import numpy as np

# What Keras calls the cells of its recurrent layers, whatever the layers are called.
_CELLS = ("gru_cell", "lstm_cell")


def quantizable(tf: Any, definition: Any, output: str) -> tuple[Any, str]:
    """Return a graph, and the name of its output, with slices in the place of what the converter quantizes wrongly.

    A ``Split`` in a GRU or LSTM: in their first step, where the state is zero, one part is used by nobody. The
    converter takes that part's range from memory that is in use for something else by then, so it leaves the SPLIT
    float now and then, or gives all parts a scale that is not theirs. Slices that nobody uses vanish.

    ``ReverseV2``, as in a Bidirectional layer that returns sequences: the converter may give its output another scale
    than its input, but the operator copies codes.
    """
    edited = [node for node in definition.node if node.op == "ReverseV2" or _splits_a_state(node)]
    if not edited:
        return definition, output
    with tf.Graph().as_default() as shaped:
        tf.import_graph_def(definition, name="")
    nodes, parts = [], {}
    for node in definition.node:
        operation = shaped.get_operation_by_name(node.name)
        if node in edited:
            for number, added in enumerate(_slices(tf, node, operation)):
                nodes += added
                parts[f"{node.name}:{number}"] = added[-1].name
        else:
            nodes.append(node)
    result = tf.compat.v1.GraphDef(versions=definition.versions, library=definition.library)
    for node in nodes:
        names = [parts.get(name if ":" in name else f"{name}:0", name) for name in node.input]
        node.ClearField("input")
        node.input.extend(names)
        result.node.append(node)
    return result, f"{parts[output]}:0" if output in parts else output


def _splits_a_state(node: Any) -> bool:
    return node.op == "Split" and any(cell in node.name for cell in _CELLS)


def _slices(tf: Any, node: Any, operation: Any) -> list[list[Any]]:
    """The nodes that stand in the place of each output of a ``Split`` or ``ReverseV2``, the slice last."""
    size = np.array(operation.outputs[0].shape.as_list(), np.int32)
    zeros, ones = np.zeros_like(size), np.ones_like(size)
    if node.op == "ReverseV2":
        strides = ones.copy()
        strides[tf.get_static_value(operation.inputs[1])] = -1
        # All from the last to the first cannot be said by a begin and an end, only by leaving them out.
        return [_slice(tf, node, f"{node.name}/reversed", node.input[0], (zeros, zeros, strides), whole=True)]
    axis = int(tf.get_static_value(operation.inputs[0]))
    found = []
    for number in range(len(operation.outputs)):
        begin = zeros.copy()
        begin[axis] = number * size[axis]
        name = f"{node.name}/part{number}"
        found.append(_slice(tf, node, name, node.input[1], (begin, begin + size, ones), whole=False))
    return found


def _slice(
    tf: Any, node: Any, name: str, source: str, bounds: tuple[np.ndarray, np.ndarray, np.ndarray], *, whole: bool
) -> list[Any]:
    """The nodes of a StridedSlice of ``source`` with begin, end and strides; ``whole``: begin and end do not count."""
    nodes = []
    for role, value in zip(("begin", "end", "strides"), bounds, strict=True):
        constant = tf.compat.v1.NodeDef(name=f"{name}/{role}", op="Const")
        constant.attr["dtype"].type = tf.int32.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        nodes.append(constant)
    part = tf.compat.v1.NodeDef(name=name, op="StridedSlice")
    part.input.extend([source, *(constant.name for constant in nodes)])
    part.attr["T"].type = node.attr["T"].type
    part.attr["Index"].type = tf.int32.as_datatype_enum
    if whole:
        part.attr["begin_mask"].i = part.attr["end_mask"].i = (1 << len(bounds[0])) - 1
    return [*nodes, part]
