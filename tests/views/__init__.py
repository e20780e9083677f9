"""What the views say, against what the guest said."""

from __future__ import annotations
