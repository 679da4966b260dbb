# SPDX-License-Identifier: Apache-2.0
"""The one exception that users of the package have to know."""


class ZoError(ValueError):
    """A request that cannot be carried out; the message names the cause and the remedy."""
