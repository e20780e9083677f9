"""Tests of scans: plans, rules, strings."""

from __future__ import annotations
