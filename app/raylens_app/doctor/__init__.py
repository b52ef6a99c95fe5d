"""What an installation has, what it lacks, and what each missing piece would unlock."""

from __future__ import annotations

from raylens_app.doctor.check import Check, State
from raylens_app.doctor.examine import examine

__all__ = ["Check", "State", "examine"]
