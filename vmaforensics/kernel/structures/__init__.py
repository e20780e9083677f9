"""Where types come from, and how structures lie in memory."""

from __future__ import annotations
