"""Numbers as both reports write them: the same characters for the same number, on every machine.

Python's own formatting rounds correctly and takes no locale, so it is all that is used.
"""

from __future__ import annotations

NO_VALUE = "–"


def figure(value: float | int | None, digits: int = 3) -> str:
    """``value`` to so many significant digits; whole numbers as they are, and a dash for None.

    >>> figure(0.0123456), figure(-0.0), figure(120), figure(12345.6), figure(None)
    ('0.0123', '0', '120', '12346', '–')
    """
    if value is None:
        return NO_VALUE
    if isinstance(value, int):
        return str(value)
    # Adding 0 takes the sign off a zero. What has more digits before the point than are asked for keeps them.
    if digits <= len(f"{abs(value):.0f}") <= 6:
        return f"{value + 0.0:.0f}"
    return f"{value + 0.0:.{digits}g}"


def signed(value: float | None) -> str:
    """:func:`figure` with a plus before what is above 0."""
    return f"+{figure(value)}" if value is not None and value > 0 else figure(value)


def percent(share: float | None) -> str:
    """A share of 1 as ``12.5 %``."""
    return NO_VALUE if share is None else f"{figure(100 * share)} %"


def count(n: int, one: str, many: str | None = None) -> str:
    """``1 prompt``, ``2 prompts``."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def behind(reference: int, candidate: int) -> str:
    """What figures of both models are from: ``16``, or ``16 and 14`` where that differs."""
    return str(reference) if reference == candidate else f"{reference} and {candidate}"
