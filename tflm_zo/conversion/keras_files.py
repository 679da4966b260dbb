# SPDX-License-Identifier: Apache-2.0
"""Keras models from files: of Keras 3, of Keras 2, and SavedModel directories."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tflm_zo.conversion.keras_support import cause, import_tensorflow, quiet
from tflm_zo.errors import ZoError

_OWN_LAYERS = "a model with layers of your own: load it in Python and pass the model object"
_EXPORT = "export it with that Keras as a SavedModel directory, model.export(DIR), and convert the directory"
# Arguments that every layer takes without naming them.
_COMMON = {"input_shape", "batch_input_shape", "batch_shape", "input_dim", "weights", "name", "dtype", "trainable"}
# What only training needs.
_OF_TRAINING = ("_initializer", "_regularizer", "_constraint")


def load_keras(keras_model: Any) -> Any:
    """Return ``keras_model`` itself, or the Keras model in the ``.keras`` or ``.h5`` file or SavedModel
    directory it names.

    Raises:
        ZoError: no such file, not a Keras model, or it needs code that the file does not hold.

    Arguments of layers that Keras 2 wrote and Keras 3 does not know are left out where they say nothing.
    """
    _, keras = import_tensorflow()
    if isinstance(keras_model, keras.Model):
        return keras_model
    if not isinstance(keras_model, (str, os.PathLike)):
        raise ZoError(f"expected a Keras 3 model or the path of one, got {type(keras_model).__name__}")
    path = Path(keras_model)
    return _saved_model(path) if path.is_dir() else _from_file(keras, path)


def _from_file(keras: Any, path: Path) -> Any:
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ZoError(
            f"{path}: not a Keras file; save the model as .keras or .h5, or export it as a SavedModel directory"
        )
    if not path.is_file():
        raise ZoError(f"cannot read {path}: no such file")
    try:
        return _load(keras, path)
    except Exception as error:  # Keras raises nearly every type here, by file and by version.
        failure: Exception = error
    with tempfile.TemporaryDirectory(prefix="tflm_zo_") as folder:
        try:
            copy = _corrected_copy(keras, path, Path(folder))
            if copy is not None:
                return _load(keras, copy)
        except Exception as error:
            failure = error
    reason = cause(failure)
    raise ZoError(f"cannot load {path}: {reason}{_hint(reason)}") from failure


def _load(keras: Any, path: Path) -> Any:
    # Only inference matters here, so an optimizer or loss that does not load is no obstacle.
    with quiet():
        return keras.models.load_model(path, compile=False)


def _hint(reason: str) -> str:
    if "OpLambda" in reason:
        return f" (a function of TensorFlow in a model of Keras 2: {_EXPORT})"
    if re.search(r"Unknown layer|Could not locate|[Ll]ambda|custom", reason):
        return f" ({_OWN_LAYERS})"
    if re.search(r"Unrecognized keyword|deserializ|not a valid|quantization_mode|argument", reason):
        return f" (if it was made with Keras 2: {_EXPORT})"
    return ""


# -- what Keras 2 wrote ---------------------------------------------------------------------------------------


def _corrected_copy(keras: Any, path: Path, folder: Path) -> Path | None:
    """Write the file with a configuration that Keras 3 takes, into ``folder``; None if there is nothing to correct."""
    copy = folder / path.name
    edit = _edit_archive if zipfile.is_zipfile(path) else _edit_hdf5
    return copy if edit(path, copy, lambda config: _corrected(keras, config)) else None


def _edit_archive(path: Path, copy: Path, change: Callable[[Any], Any]) -> bool:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, "w") as target:
        before = json.loads(source.read("config.json"))
        after = change(before)
        for name in source.namelist():
            target.writestr(name, json.dumps(after) if name == "config.json" else source.read(name))
    return bool(after != before)


def _edit_hdf5(path: Path, copy: Path, change: Callable[[Any], Any]) -> bool:
    import h5py

    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as archive:
        before = json.loads(archive.attrs["model_config"])
        after = change(before)
        archive.attrs["model_config"] = json.dumps(after)
    return bool(after != before)


def _corrected(keras: Any, config: Any) -> Any:
    """Return a part of a model's configuration as Keras 3 takes it."""
    if isinstance(config, list):
        return [_corrected(keras, part) for part in config]
    if not isinstance(config, dict):
        return config
    config = {key: _corrected(keras, value) for key, value in config.items()}
    name, values = config.get("class_name"), config.get("config")
    if not isinstance(name, str) or not isinstance(values, dict):
        return config
    if name == "Policy":  # how it computes, in the words of Keras 2
        return values.get("name", "float32")
    if name in ("Functional", "Sequential", "Model") and ".engine." in str(config.get("module")):
        # Model makes functional ones, too; Functional has no public name.
        name = "Sequential" if name == "Sequential" else "Model"
        config |= {"module": "keras", "class_name": name, "registered_name": None}
    layer = getattr(keras.layers, name, None)
    if inspect.isclass(layer) and name != "InputLayer":
        config["config"] = _known_arguments(layer, values)
    return config


def _known_arguments(layer: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return a layer's arguments without those that it does not know and that say nothing, such as ``groups`` 1."""
    known = set(_COMMON)
    for base in layer.__mro__:
        if "__init__" in vars(base):
            known |= set(inspect.signature(base.__init__).parameters)
    kept = {}
    for key, value in values.items():
        says_nothing = value is None or value is False or (value == 1 and value is not True)
        if key in known or not (says_nothing or key.endswith(_OF_TRAINING)):
            kept[key] = value
    if layer.__name__ == "BatchNormalization" and isinstance(kept.get("axis"), list) and len(kept["axis"]) == 1:
        kept["axis"] = kept["axis"][0]
    return kept


# -- SavedModel directories -----------------------------------------------------------------------------------


def _saved_model(path: Path) -> Any:
    """A Keras model that runs the signature of a SavedModel."""
    tf, keras = import_tensorflow()
    if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise ZoError(f"{path} is a folder, but no SavedModel: there is no saved_model.pb in it")
    try:
        with quiet():
            signatures = tf.saved_model.load(str(path)).signatures
    except Exception as error:
        raise ZoError(f"cannot load {path}: {cause(error)}") from error
    names = list(signatures)
    name = "serving_default" if "serving_default" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise ZoError(
            f"{path} has {len(names)} signatures ({', '.join(names)}), none of them serving_default: save the model "
            "with model.export(DIR), or with tf.saved_model.save(model, DIR, signatures=...)"
        )
    inputs = signatures[name].structured_input_signature[1]
    outputs = signatures[name].structured_outputs
    for kind, found in (("inputs", inputs), ("outputs", outputs)):
        if len(found) != 1:
            raise ZoError(
                f"{path} has {len(found)} {kind} ({', '.join(sorted(found))}): only models with one can be converted"
            )
    spec = next(iter(inputs.values()))
    if spec.shape.rank is None:
        raise ZoError(f"the input of {path} has no shape: save the model with an input signature")
    with quiet():
        source = keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name, name=next(iter(inputs)))
        result = keras.layers.TFSMLayer(str(path), call_endpoint=name, name="saved_model")(source)
        result = next(iter(result.values())) if isinstance(result, dict) else result
        return keras.Model(source, result, name=path.resolve().name)
