"""Programs and libraries as files again, out of the memory they were loaded into."""

from __future__ import annotations
