"""Which physical bytes do we hold?"""

from __future__ import annotations
