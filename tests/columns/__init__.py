"""Tests of tables and of the primitives on their columns."""

from __future__ import annotations
