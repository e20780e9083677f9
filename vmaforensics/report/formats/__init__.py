"""Every way a document is shown."""

from __future__ import annotations
