"""How did this kernel end, and what was going on then?"""

from __future__ import annotations
