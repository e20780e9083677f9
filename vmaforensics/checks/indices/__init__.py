"""Rules on the indices of VMAs: the list, the red-black tree, the maple tree."""

from __future__ import annotations
