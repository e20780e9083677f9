"""Points in time, as the document tells them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(seconds: int) -> str | None:
    """ISO 8601 of ``seconds`` since 1970; None outside of the years 1 to 9999.

    >>> utc(1704067226)
    '2024-01-01T00:00:26Z'
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None
