# SPDX-License-Identifier: LicenseRef-VSL-1.0
"""Layers of volatility3 over the engine's readers, and the engine over layers of volatility3."""

from __future__ import annotations
