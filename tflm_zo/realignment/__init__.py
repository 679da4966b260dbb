# SPDX-License-Identifier: Apache-2.0
"""What prepares a model for drifted samples by statistics, without labels."""
