"""Rules on the trees that lead from files and anonymous pages back to VMAs."""

from __future__ import annotations
