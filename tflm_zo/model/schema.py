# SPDX-License-Identifier: Apache-2.0
"""The schema of ``.tflite`` files: classes that read and write each of its tables."""

from __future__ import annotations

# Two packages carry what TFLite generates from it. LiteRT's is not asked for where TFLM's wheel is (pyproject.toml).
try:
    from tflite_micro.tensorflow.lite.python import schema_py_generated as schema
except ImportError:
    from ai_edge_litert import schema_py_generated as schema

__all__ = ["schema"]
