"""Operations of the kernel on memory maps that were under way: what may legally be half done."""

from __future__ import annotations
