"""Figures as people read them; absent ones are a dash."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from raylens_app.cli.output import duration
from raylens_app.cli.render import number, percent

NONE: Final = "–"


def figure(value: float | None) -> str:
    """Three significant digits."""
    return NONE if value is None else number(value)


def share(value: float | None) -> str:
    """A share as a percentage."""
    return NONE if value is None else percent(value)


def count(value: int | None) -> str:
    """A whole number, its thousands apart."""
    return NONE if value is None else f"{value:,}"


def score(figure_of: Mapping[str, Any] | None) -> str:
    """A value with its 95 % interval: ``0.83 (0.71–0.92)``."""
    if figure_of is None or figure_of["value"] is None:
        return NONE
    low, high = figure_of["ci_low"], figure_of["ci_high"]
    interval = "" if low is None or high is None else f" ({low:.2f}–{high:.2f})"
    return f"{figure_of['value']:.2f}{interval}"


def ago(at: datetime) -> str:
    """How long ago something was: ``3 min ago``."""
    return f"{duration(max(0.0, (datetime.now(UTC) - at).total_seconds()))} ago"
