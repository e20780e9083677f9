"""Sphinx configuration: `make docs` builds the pages into build/docs."""

from __future__ import annotations

from vmaforensics.version import __version__

project = "vmaforensics"
copyright = "the vmaforensics authors"  # noqa: A001 - Sphinx asks for this name
release = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["man"]
html_theme = "furo"
html_title = f"vmaforensics {release}"
html_show_copyright = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
# Commands and their output are not a language; nor are transcripts with "…" in them.
highlight_language = "none"
