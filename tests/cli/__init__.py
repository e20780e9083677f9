"""The command, run as its users run it."""

from __future__ import annotations
