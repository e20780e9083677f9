"""Data structures of the kernel that several chapters walk."""

from __future__ import annotations
