"""The records of memory maps beside each other, on views made by hand."""

from __future__ import annotations
