"""Rules on what the allocator says is allocated."""

from __future__ import annotations
