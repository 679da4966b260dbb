# SPDX-License-Identifier: Apache-2.0
"""A few earlier samples of each class, kept from training to training so that no class is forgotten.

Rehearsal of a small memory, balanced over the classes, is the simplest remedy against forgetting, and hard to beat
(Chaudhry et al., "On tiny episodic memories in continual learning", arXiv 1902.10486, 2019). Which samples stay is
decided by a hash of each: those with the lowest ones are a uniform draw from all that ever came (bottom-k sampling),
whatever their order, and a sample that comes twice is kept once.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np

from tflm_zo.errors import ZoError
from tflm_zo.files import write_atomic
from tflm_zo.model.samples import load_npz
from tflm_zo.ops.counter_random import mix32
from tflm_zo.patching.patched_model import PatchedModel
from tflm_zo.training.samples import sample_codes

# Samples of a class that are kept.
CAPACITY = 10


class Reservoir:
    """The samples in the file ``path``, which :meth:`save` makes if there is none yet; for training ``model``.

    Raises :class:`ZoError` if the model is not trained on classes by labels, or the file's samples do not fit it.
    """

    def __init__(self, path: str | os.PathLike[str], model: PatchedModel) -> None:
        if not model.loss.classes or not model.loss.needs_labels:
            raise ZoError("a reservoir keeps samples by class: the model must be patched with loss cross-entropy")
        self._path, self._model = path, model
        self.codes = np.zeros((0, *model.input_shape), np.int8)
        self.classes = np.zeros(0, np.int32)
        if Path(path).exists():
            try:
                self.codes, targets = sample_codes(*load_npz(path), model)
            except ZoError as error:
                raise ZoError(f"reservoir {path}: {error}") from error
            self.classes = targets[:, 0]

    def with_samples(self, x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Return new samples as codes, their classes, and behind them what the reservoir has besides."""
        codes, targets = sample_codes(x, y, self._model)
        classes = targets[:, 0]
        others = ~np.isin(_hashes(self.codes, self.classes), _hashes(codes, classes))
        self.codes = np.concatenate([codes, self.codes[others].astype(codes.dtype)])
        self.classes = np.concatenate([classes, self.classes[others]])
        return self.codes, self.classes

    def save(self) -> None:
        """Keep of earlier and new samples up to :data:`CAPACITY` of each class."""
        codes, classes = self.codes, self.classes
        hashes = _hashes(codes, classes)
        kept: list[int] = []
        for number in np.unique(classes):
            those = np.flatnonzero(classes == number)
            _, first = np.unique(hashes[those], return_index=True)  # in increasing order
            kept.extend(those[first[:CAPACITY]].tolist())
        stream = io.BytesIO()
        np.savez_compressed(stream, x=codes[kept], y=classes[kept])
        write_atomic(self._path, stream.getvalue())


def _hashes(codes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """A number (uint64 (n,)) for each sample, the same wherever it comes from."""
    checks = np.array([zlib.crc32(code.tobytes()) for code in codes], dtype=np.uint32)
    adlers = np.array([zlib.adler32(code.tobytes()) for code in codes], dtype=np.uint64)
    mixed = mix32(checks ^ classes.astype(np.uint32)).astype(np.uint64) if len(codes) else checks.astype(np.uint64)
    return (mixed << np.uint64(32)) | adlers
