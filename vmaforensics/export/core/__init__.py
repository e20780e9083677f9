"""ELF core files of processes."""

from __future__ import annotations
