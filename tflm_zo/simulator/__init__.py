# SPDX-License-Identifier: Apache-2.0
"""Fast host simulator: batched int8 inference and training, the same to the bit as TFLite Micro."""

from tflm_zo.simulator.layer import Geometry, SimLayer
from tflm_zo.simulator.model import RunResult, SimModel
from tflm_zo.simulator.tflite_graph import Tensor
from tflm_zo.simulator.trainer import SimTrainer

__all__ = ["Geometry", "RunResult", "SimLayer", "SimModel", "SimTrainer", "Tensor"]
