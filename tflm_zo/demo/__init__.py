# SPDX-License-Identifier: Apache-2.0
"""Digits that drift: what `tflm-zo demo` shows."""
