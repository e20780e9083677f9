"""Objects of the slab caches, allocated or free."""

from __future__ import annotations
