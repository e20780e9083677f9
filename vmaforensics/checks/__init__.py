"""Where do the views disagree, and what does it mean?"""

from __future__ import annotations
