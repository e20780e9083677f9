"""What does each record say about every process's memory map?"""

from __future__ import annotations
