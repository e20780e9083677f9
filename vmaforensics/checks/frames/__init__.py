"""Rules on page frames that no address space has."""

from __future__ import annotations
