"""Who owns each page frame, and allocated frames that nobody accounts for."""

from __future__ import annotations
