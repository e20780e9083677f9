"""Labelled edits of clean images: what hiding memory does to the records, and what must be said of it."""

from __future__ import annotations
