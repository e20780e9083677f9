"""Rules on user addresses that the kernel remembers."""

from __future__ import annotations
