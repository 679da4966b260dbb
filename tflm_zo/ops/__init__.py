# SPDX-License-Identifier: Apache-2.0
"""What the training ops in ``kernels/`` and Python agree on: names, options, commands, steps, random numbers."""
