"""Which windows of a feature to look at: by their peak, or as one of equal shares of them."""

from __future__ import annotations

import math

from raylens.errors import InputError
from raylens.ids import SaeId
from raylens.store.reader import CacheReader


def bounds_of(interval: str) -> tuple[float, float]:
    """``2.5:4`` → ``(2.5, 4.0)``; either side may be left out.

    Raises:
        InputError: It is not of that form, or empty.
    """
    low, colon, high = interval.partition(":")
    try:
        bounds = float(low or 0), float(high or math.inf)
    except ValueError:
        bounds = math.nan, math.nan
    if not colon or not bounds[0] < bounds[1]:
        raise InputError(f"{interval!r} is not an interval.", hint="write LOW:HIGH, for example 2.5:4, or 2.5: or :4.")
    return bounds


def share_of(quantile: str) -> tuple[int, int]:
    """``3/10`` → ``(3, 10)``.

    Raises:
        InputError: It is not of that form.
    """
    number, _, of = quantile.partition("/")
    plain = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in (number, of))
    if not (plain and 1 <= int(number) <= int(of)):
        raise InputError(f"{quantile!r} is not a quantile.", hint="write I/N with I from 1 to N, for example 3/10.")
    return int(number), int(of)


def bounds_of_share(reader: CacheReader, sae: SaeId, index: int, number: int, of: int) -> tuple[float, float]:
    """Peaks between which the ``number``-th of ``of`` equal shares of a feature's windows lie, from the weakest."""
    rising = reader.peaks(sae, index)[::-1]
    n = len(rising)
    low = float(rising[n * (number - 1) // of]) if number > 1 and n else 0.0
    return low, float(rising[n * number // of]) if number < of and n else math.inf
