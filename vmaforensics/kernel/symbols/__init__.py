"""Where symbols come from: VMCOREINFO, kallsyms, symbol files."""

from __future__ import annotations
