"""What do the contents of memory say? YARA rules, strings and entropy."""

from __future__ import annotations
