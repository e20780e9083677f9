"""How kernel addresses are translated."""

from __future__ import annotations
