"""The volatility3 door: the adapter, and the plugins as the real ``vol`` program runs them."""

from __future__ import annotations
