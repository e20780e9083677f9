# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Symbols for volatility3's own plugins."""

from __future__ import annotations
