"""kdump-compressed dumps: read and written."""

from __future__ import annotations
