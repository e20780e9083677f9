"""``python -m vmaforensics``."""

from __future__ import annotations

from vmaforensics.cli.main import run

run()
