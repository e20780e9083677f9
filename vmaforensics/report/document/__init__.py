"""The result document, and how it is made from an analysis."""

from __future__ import annotations
