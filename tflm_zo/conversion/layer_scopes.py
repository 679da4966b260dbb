# SPDX-License-Identifier: Apache-2.0
"""Which Keras layer has made a node of a traced graph.

The names of the nodes do not tell: TensorFlow numbers the name scopes anew, so that "dense_1" in a graph may be the
layer "dense", and a layer that is used twice has two. So each layer says in which scope it is called.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def recorded_scopes(tf: Any, model: Any) -> Iterator[dict[str, str]]:
    """While a Keras model is traced within this, its layers fill the dict: their names by the scopes of their nodes."""
    scopes: dict[str, str] = {}

    def recording(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            scopes[tf.get_current_name_scope()] = name
            return call(*args, **kwargs)

        return recorded

    layers = list(model._flatten_layers(include_self=False)) if hasattr(model, "_flatten_layers") else []
    for layer in layers:
        layer.call = recording(layer.name, layer.call)
    try:
        yield scopes
    finally:
        for layer in layers:
            with contextlib.suppress(AttributeError):  # of layers that share an object, the first has put it back
                del layer.call
