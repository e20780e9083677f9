"""Where the memory of the machine went."""

from __future__ import annotations
