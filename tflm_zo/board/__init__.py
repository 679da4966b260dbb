# SPDX-License-Identifier: Apache-2.0
"""From a patched model to a board: sketch, Arduino library, memory plan."""
