# SPDX-License-Identifier: Apache-2.0
"""From a Keras model to a full int8 ``.tflite``."""
