# SPDX-License-Identifier: Apache-2.0
"""TensorFlow graphs made such that the TFLite converter can quantize them."""

from __future__ import annotations

from typing import Any

import numpy as np

# What Keras calls the cells of its recurrent layers, whatever the layers are called.
_CELLS = ("gru_cell", "lstm_cell")


def without_splits(tf: Any, definition: Any, output: str) -> tuple[Any, str]:
    """Return a graph, and the name of its output, with a slice for every output of a ``Split`` in a GRU or LSTM.

    In their first step, where the state is zero, one part is used by nobody. The converter takes that part's range
    from memory that is in use for something else by then, so it leaves the SPLIT float now and then, or gives all parts
    a scale that is not theirs. Slices that nobody uses vanish.
    """
    splits = [node.name for node in definition.node if node.op == "Split" and any(c in node.name for c in _CELLS)]
    if not splits:
        return definition, output
    with tf.Graph().as_default() as shaped:
        tf.import_graph_def(definition, name="")
    parts: dict[str, str] = {}
    nodes: list[Any] = []
    for node in definition.node:
        if node.name not in splits:
            nodes.append(node)
            continue
        source = shaped.get_operation_by_name(node.name)
        axis = int(tf.get_static_value(source.inputs[0]))
        size = source.outputs[0].shape.as_list()
        for number in range(len(source.outputs)):
            name = f"{node.name}/part{number}"
            parts[f"{node.name}:{number}"] = name
            begin = np.zeros(len(size), np.int32)
            begin[axis] = number * size[axis]
            nodes += _slice(tf, name, node, begin, np.array(size, np.int32))
    edited = tf.compat.v1.GraphDef(versions=definition.versions, library=definition.library)
    for node in nodes:
        names = [parts.get(name if ":" in name else f"{name}:0", name) for name in node.input]
        node.ClearField("input")
        node.input.extend(names)
        edited.node.append(node)
    return edited, f"{parts[output]}:0" if output in parts else output


def _slice(tf: Any, name: str, split: Any, begin: np.ndarray, size: np.ndarray) -> list[Any]:
    """The nodes of a StridedSlice of what ``split`` splits, from ``begin``."""
    nodes = []
    for role, value in (("begin", begin), ("end", begin + size), ("strides", np.ones_like(begin))):
        constant = tf.compat.v1.NodeDef(name=f"{name}/{role}", op="Const")
        constant.attr["dtype"].type = tf.int32.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        nodes.append(constant)
    part = tf.compat.v1.NodeDef(name=name, op="StridedSlice")
    part.input.extend([split.input[1], *(constant.name for constant in nodes)])
    part.attr["T"].type = split.attr["T"].type
    part.attr["Index"].type = tf.int32.as_datatype_enum
    return [*nodes, part]
