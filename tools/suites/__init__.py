# SPDX-License-Identifier: Apache-2.0
"""The suites of tools/bench_accuracy.py."""
