# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""The adapter between volatility3 and the engine.

Under the Volatility Software License 1.0, like ``plugins/``: see LICENSE here.
"""

from __future__ import annotations
