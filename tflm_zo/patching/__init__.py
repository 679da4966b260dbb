# SPDX-License-Identifier: Apache-2.0
"""From an int8 ``.tflite`` to one that can be trained, and back."""
