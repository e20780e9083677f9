"""What the kernel wrote into its log."""

from __future__ import annotations
