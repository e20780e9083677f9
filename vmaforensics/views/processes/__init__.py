"""Tasks, address spaces, and who knows of them."""

from __future__ import annotations
