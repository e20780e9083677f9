"""Clocks that lie in memory: what each says of the moment at which its page was read."""

from __future__ import annotations
