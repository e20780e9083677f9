"""The report as one self-contained HTML file."""

from __future__ import annotations

from vmaforensics.report.formats.html.render import render_html

__all__ = ["render_html"]
