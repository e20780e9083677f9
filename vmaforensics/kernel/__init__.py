"""Which kernel is this, and how are its structures read?"""

from __future__ import annotations
