"""Where a value stands on the horizontal axis of a plot, and which values are written below it.

Places are shares of the plot's width, so that a plot is as wide as its page and its letters keep their size.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Final, Self

from raylens.reports.numbers import figure

LEFT: Final = 3.0
WIDTH: Final = 94.0
"""Of the plot, in percent; the rest is margin."""

_LOG_BEYOND: Final = 30.0
"""Ratio of the largest to the smallest value, all positive, from which the axis is logarithmic."""
_MOST_TICKS: Final = 6
_LARGEST: Final = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis.

    Attributes:
        low: Least value on it.
        high: Largest; above ``low``.
        is_log: Whether equal ways are equal ratios.
    """

    low: float
    high: float
    is_log: bool

    @classmethod
    def over(cls, values: list[float]) -> Self:
        """An axis on which all of ``values`` have a place; at least one, all finite."""
        low, high = min(values), max(values)
        if low > 0 and high / 2 > low / 2 * _LOG_BEYOND:
            return cls(low, high, True)
        while not high / 2 - low / 2 > abs(low / 2) * 1e-9:
            # All alike: they stand in the middle.
            margin = max(abs(low) * 0.1, 0.5)
            low, high = max(low - margin, -_LARGEST), min(high + margin, _LARGEST)
        return cls(low, high, False)

    def place(self, value: float) -> float:
        """Percent of the plot's width."""
        low, high, here = self.low / 2, self.high / 2, value / 2  # halves: the width of the whole may be infinite
        if self.is_log:
            low, high, here = (math.log10(one) for one in (self.low, self.high, value))
        return LEFT + WIDTH * min(1.0, max(0.0, (here - low) / (high - low)))

    def ticks(self) -> list[tuple[float, str]]:
        """Round values on the axis, ascending, and how they are written."""
        found = self._powers() if self.is_log else self._steps()
        return found if len(found) > 1 else [(one, figure(one, 4)) for one in (self.low, self.high)]

    def _powers(self) -> list[tuple[float, str]]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        if last - first > 2:
            every = math.ceil((last - first) / _MOST_TICKS)
            values = [_power(k) for k in range(first, last + 1, every)]
        else:
            values = [digit * _power(k) for k in range(first, last + 1) for digit in (1, 2, 5)]
        return [(one, figure(one)) for one in values if self.low <= one <= self.high]

    def _steps(self) -> list[tuple[float, str]]:
        rough = (self.high / 2 - self.low / 2) / (_MOST_TICKS / 2)
        exponent = math.floor(math.log10(rough))
        step = next((k * _power(exponent) for k in (1, 2, 5) if k * _power(exponent) >= rough), _power(exponent + 1))
        if not math.isfinite(step) or not 0 < step < 1e15 or max(abs(self.low), abs(self.high)) / step > 1e9:
            return []
        values = [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        if decimals > 6:
            return [(one, figure(one)) for one in values]
        return [(one, f"{one + 0.0:.{decimals}f}") for one in values]


def _power(k: int) -> float:
    return float(f"1e{k}")
