"""Which organisms choices are made on, and which only tell what these are worth."""

from __future__ import annotations

from typing import Final, Literal, get_args

Half = Literal["development", "held_out", "held_out_seeds"]
"""``held_out`` families share no trigger, payload or style with those for ``development``. ``held_out_seeds`` are more
members of benign families for development, which nothing is calibrated with."""
HALVES: Final[tuple[Half, ...]] = get_args(Half)
