# SPDX-License-Identifier: Apache-2.0
"""What a user gets by `pip install`."""

from __future__ import annotations

from importlib import metadata, resources

import tflm_zo


def test_type_checkers_may_read_the_package() -> None:
    """PEP 561: a marker in the package that is installed, not only in the sources."""
    assert resources.files(tflm_zo).joinpath("py.typed").is_file()
    assert "Typing :: Typed" in metadata.metadata("tflm-zo").get_all("Classifier", [])
