"""Tests of symbol files: those made from images, and those read in place of what an image lacks."""

from __future__ import annotations
