"""What the kernel keeps of itself: how it ended, what runs, its modules, its machine."""

from __future__ import annotations
