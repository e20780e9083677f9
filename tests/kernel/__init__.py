"""The kernel's own records of itself, on tables built byte by byte and on real images."""

from __future__ import annotations
