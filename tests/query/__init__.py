"""Tests of SQL over images and documents."""

from __future__ import annotations
