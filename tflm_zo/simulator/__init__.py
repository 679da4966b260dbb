# SPDX-License-Identifier: Apache-2.0
"""Fast host simulator: batched int8 inference, the same to the bit as TFLite Micro."""
