"""The records of an address space beside each other."""

from __future__ import annotations
