"""Tests of the report: the document and its formats."""

from __future__ import annotations
