"""Intermediate symbol files: the kernel's own types and symbols in the form volatility3 reads."""

from __future__ import annotations
