# SPDX-License-Identifier: Apache-2.0
"""The whole way from a model and samples of a drift to an adapted model."""
