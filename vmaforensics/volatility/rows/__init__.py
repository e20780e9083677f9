# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Rows for volatility3's grids."""

from __future__ import annotations
