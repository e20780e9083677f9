"""User addresses the kernel remembers outside of any VMA."""

from __future__ import annotations
