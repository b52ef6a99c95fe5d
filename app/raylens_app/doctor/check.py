"""One finding of ``raylens doctor``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "missing", "warning", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        part: What it belongs to: ``python``, ``packages``, ``machine``, ``workspace``, ``access``, ``bundle``.
        name: What was looked at.
        state: ``missing`` is optional and absent, ``warning`` works with a catch, ``broken`` is essential
            and does not work.
        detail: What was found: a version, a size, a reason. Never a secret.
        unlocks: What having it (or repairing it) makes possible; empty where all is well.
        command: The command that gets it; empty where no command does.
    """

    part: str
    name: str
    state: State
    detail: str
    unlocks: str = ""
    command: str = ""

    def row(self) -> dict[str, str]:
        """A JSON-able form."""
        return asdict(self)
