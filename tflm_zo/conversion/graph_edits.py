# SPDX-License-Identifier: Apache-2.0
"""TensorFlow graphs made such that the TFLite converter can quantize them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tflm_zo.conversion.converter_process import FrozenGraph


def without_splits(tf: Any, graph: FrozenGraph) -> FrozenGraph:
    """Return ``graph`` with a slice for every output of a ``Split``.

    The converter leaves a SPLIT float if nobody uses one of its outputs, as in the first step of a GRU, whose state is
    zero. Raises nothing: splits of unknown shape stay.
    """
    definition = tf.compat.v1.GraphDef.FromString(graph.content)
    with tf.Graph().as_default() as shaped:
        tf.import_graph_def(definition, name="")
    parts: dict[str, str] = {}
    nodes: list[Any] = []
    for node in definition.node:
        source = shaped.get_operation_by_name(node.name)
        if node.op != "Split" or not source.outputs[0].shape.is_fully_defined():
            nodes.append(node)
            continue
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
    output = parts.get(graph.output, "")
    return replace(graph, content=edited.SerializeToString(), output=f"{output}:0" if output else graph.output)


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
