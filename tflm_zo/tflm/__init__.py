# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Lite for Microcontrollers: running models in its Python wheel, and planning its arena without."""
