"""What an audit draws at random is drawn alike in every audit, and its report says how."""

from __future__ import annotations

from typing import Final

SEED: Final = 0
"""Of sign flips, of the difference SAE, of ordinary inserts, and of the panel's windows."""

RECORDED: Final = {"decoding": "greedy", "seed": SEED}
"""Beside the settings of a score. They are the same in all audits, so that no calibration differs in them."""
