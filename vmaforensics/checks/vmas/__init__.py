"""Rules on single VMAs and on the counters they add up to."""

from __future__ import annotations
