"""Open files, and files that live in memory only."""

from __future__ import annotations
