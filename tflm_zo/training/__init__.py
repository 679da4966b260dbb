# SPDX-License-Identifier: Apache-2.0
"""Training a patched model: hyperparameters, learning rates, the fit and its guard, checkpoints."""
