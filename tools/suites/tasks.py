# SPDX-License-Identifier: Apache-2.0
"""All tasks by name: the published models with real samples, the Keras networks, and the models of strangers."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from suites import ad01, keras_models, strangers
from suites.predict import input_form
from suites.task import Task, image_codes
from tflm_zo.model.quantization import dequantize


def names(data: Path, slow: bool = False) -> list[str]:
    """Names of the tasks that ``data``, the folder of models and samples, has files for; ``slow``: MCUNet too."""
    published = ["kws", "resnet", *(["mcunet"] if slow else []), "ad01"]
    return [*published, *keras_models.RECIPES, *strangers.names(data)]


@functools.lru_cache(maxsize=2)
def load(name: str, data: Path, folder: Path) -> Task:
    """Return a task; what is trained or made for it is kept in ``folder``."""
    if name in _PUBLISHED:
        return _PUBLISHED[name](data)
    if name in keras_models.RECIPES:
        return keras_models.load(name, folder)
    return strangers.load(name, data, folder)


def _kws(data: Path) -> Task:
    samples = np.load(data / "kws01_dev.npz")
    x, y = samples["x"], samples["y"].astype(np.int32)
    model = (data / "mlperf_tiny" / "kws_ref_model.tflite").read_bytes()
    source, _ = input_form(model)
    return Task("kws", model, "spectrogram", x[:400], y[:400], x[400:], y[400:], float(source.zero_point))


def _resnet(data: Path) -> Task:
    samples = np.load(data / "cifar10_jpeg_dev.npz")
    x, y = image_codes(samples["x"]), samples["y"].astype(np.int32)
    model = (data / "mlperf_tiny" / "pretrainedResnet_quant.tflite").read_bytes()
    return Task("resnet", model, "image", x[:1000], y[:1000], x[1000:], y[1000:], -128)


def _mcunet(data: Path) -> Task:
    samples = np.load(data / "cifar10_jpeg_dev.npz")
    x, y = image_codes(enlarged(samples["x"])), samples["y"].astype(np.int32)
    model = (data / "mcunet" / "mcunet_cifar.tflite").read_bytes()
    return Task("mcunet", model, "image", x[:1000], y[:1000], x[1000:], y[1000:], -128)


def enlarged(images: np.ndarray) -> np.ndarray:
    """Images uint8 (n, 32, 32, 3) as MCUNet is fed them, uint8 (n, 128, 128, 3): bilinear to 147, the centre of it."""
    size, crop = 147, 128
    places = np.clip((np.arange(size) + 0.5) * images.shape[1] / size - 0.5, 0, images.shape[1] - 1)
    low = np.minimum(places.astype(int), images.shape[1] - 2)
    matrix = np.zeros((size, images.shape[1]), dtype=np.float32)
    matrix[np.arange(size), low] = 1 - (places - low)
    matrix[np.arange(size), low + 1] = places - low
    matrix = matrix[(size - crop) // 2 :][:crop]
    # One image after another: all of them in float would take gigabytes.
    result = [np.einsum("ir,rck,jc->ijk", matrix, image.astype(np.float32), matrix, optimize=True) for image in images]
    return np.stack([np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in result])


def _ad01(data: Path) -> Task:
    """Spectra that are to come out as they were before the drift."""
    model = (data / "mlperf_tiny" / "ad01_int8.tflite").read_bytes()
    source, _ = input_form(model)
    x = ad01.to_codes(ad01.spectra(model, ad01.ADAPT + ad01.TEST))
    adapt, test = x[: ad01.ADAPT], x[ad01.ADAPT :]
    targets = dequantize(adapt, source), dequantize(test, source)
    return Task("ad01", model, "vector", adapt, targets[0], test, targets[1], float(source.zero_point), "mse")


_PUBLISHED = {"kws": _kws, "resnet": _resnet, "mcunet": _mcunet, "ad01": _ad01}
