"""What leaves the analysis other than a report: bytes of regions, smaller images, symbol files."""

from __future__ import annotations
