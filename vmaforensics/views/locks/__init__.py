"""Locks: what tasks wait for, and who holds it."""

from __future__ import annotations
