"""Labelled edits of clean images: what hiding memory does to the records, and what must be said of it."""

from __future__ import annotations

import sys
from pathlib import Path

# Modules of the tests are found from tests/, as pytest does it; ``python -m tests.tamper.table`` does not.
_TESTS = str(Path(__file__).parents[1])
if _TESTS not in sys.path:
    sys.path.insert(0, _TESTS)
