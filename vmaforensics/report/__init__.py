"""How does a person or a program read that?"""

from __future__ import annotations
