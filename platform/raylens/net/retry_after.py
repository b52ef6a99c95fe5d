"""How long a server asks to wait."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def retry_after_s(header: str | None, wall: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3); None where it says nothing usable.

    Args:
        header: Its value: seconds, or an HTTP date.
        wall: Seconds since the epoch, now.
    """
    text = (header or "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        at = parsedate_to_datetime(text)
        if at.tzinfo is None:  # "-0000", which HTTP does not know: read as UTC, not as local time
            at = at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - wall)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
