# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite for Microcontrollers, as the Python wheel brings it: running and measuring models."""
