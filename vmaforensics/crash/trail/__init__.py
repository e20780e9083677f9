"""From the complaint of a kernel to the word of its memory that is broken."""

from __future__ import annotations
