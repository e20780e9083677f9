"""Page tables, the pages they lead to, and what the kernel counts of them."""

from __future__ import annotations
