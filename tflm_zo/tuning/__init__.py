# SPDX-License-Identifier: Apache-2.0
"""Searches in the simulator, judged by held-out samples: for hyperparameters, and for the layers to train."""
