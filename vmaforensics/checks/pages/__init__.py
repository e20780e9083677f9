"""Rules on page tables, their entries and the pages these lead to."""

from __future__ import annotations
