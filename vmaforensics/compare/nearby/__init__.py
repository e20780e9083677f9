"""The nodes of an index around what findings name."""

from __future__ import annotations
