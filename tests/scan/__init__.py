"""Tests of what is written from an image: extracted contents, excerpts, symbol files."""

from __future__ import annotations
