# SPDX-License-Identifier: Apache-2.0
"""A ``.tflite`` model: its file, graph, layers, quantization and samples."""
