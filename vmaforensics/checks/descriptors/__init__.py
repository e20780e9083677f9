"""Rules on memory that is kept without being mapped."""

from __future__ import annotations
