"""What is noted of each call in ``tool_calls.jsonl`` (A2.02): calls that were refused or cancelled as well.

``tool``, ``arguments`` (bounded), ``status``, ``seconds``, ``bytes`` of the answer, and ``error``, the sentence that
was answered. Secrets are left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio
from anyio import to_thread

from raylens.errors import RaylensError
from raylens_app.mcp.answers import clipped
from raylens_app.mcp.desk import Desk

Status = Literal["ok", "refused", "failed", "cancelled"]

_log = logging.getLogger(__name__)
_TEXT: Final = 2000
_ITEMS: Final = 100


@dataclass(slots=True)
class Noted:
    """A call while it is answered.

    Attributes:
        tool: As it was called, whether or not there is such a tool.
        arguments: As they came.
        status: How it ended.
        n_bytes: Of the answer.
        error: The sentence, where it is one.
        began: Of a clock that only runs forwards, seconds.
    """

    tool: Any
    arguments: Any
    status: Status = "failed"
    n_bytes: int = 0
    error: str | None = None
    began: float = field(default_factory=time.monotonic)

    def row(self) -> dict[str, Any]:
        """The line."""
        return {
            "tool": clipped(str(self.tool), 100),
            "arguments": _bounded(self.arguments),
            "status": self.status,
            "seconds": round(time.monotonic() - self.began, 3),
            "bytes": self.n_bytes,
            "error": self.error,
        }


async def note(desk: Desk, call: Noted, secret: str | None) -> None:
    """Write the line, also while the call is being cancelled.

    Args:
        desk: Whose session.
        call: What to note.
        secret: The server's own token, which is written nowhere.
    """
    row = _without(call.row(), secret) if secret else call.row()
    with anyio.CancelScope(shield=True):
        try:
            await to_thread.run_sync(desk.audits.log_tool_call, desk.session, row)
        except (RaylensError, OSError) as error:
            _log.error("the call of %s could not be noted: %s", row["tool"], error)


def _bounded(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return clipped(value, _TEXT)
    if depth > 4:
        return clipped(repr(value), _TEXT)
    if isinstance(value, Mapping):
        items = list(value.items())
        return {clipped(str(key), 100): _bounded(one, depth + 1) for key, one in items[:_ITEMS]}
    if isinstance(value, Sequence):
        return [_bounded(one, depth + 1) for one in value[:_ITEMS]]
    return value


def _without(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, "***")
    if isinstance(value, Mapping):
        return {_without(key, secret): _without(one, secret) for key, one in value.items()}
    return [_without(one, secret) for one in value] if isinstance(value, list) else value
