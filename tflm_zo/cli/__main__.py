# SPDX-License-Identifier: Apache-2.0
"""``python -m tflm_zo.cli``: the ``tflm-zo`` command."""

import sys

from tflm_zo.cli.main import main

sys.exit(main())
