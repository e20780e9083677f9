"""vmaforensics cross-checks every record a Linux kernel keeps of a process's memory map."""

from __future__ import annotations

__version__ = "0.1.0"
