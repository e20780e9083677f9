"""Files of /proc/PID, byte for byte."""

from __future__ import annotations
