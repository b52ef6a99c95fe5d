"""RayLens: what a language model's internal features mean, and whether a fine-tune changed them."""

from __future__ import annotations

__version__ = "0.1.0"
