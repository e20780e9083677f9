"""One verb per file."""

from __future__ import annotations
