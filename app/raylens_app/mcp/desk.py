"""What the tools of one server work on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from raylens.catalog import Catalog
from raylens.catalog.user import find_user_file
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_app.mcp.answers import LIMIT_BYTES

Progress = Callable[[float, float | None, str], Awaitable[None]]
"""Done, in all (where known), and what is going on."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the tools of one server work on; clients name things in it and nothing beside it.

    Attributes:
        workspace: Where runs, caches and labels are.
        audits: Its audits.
        session: Where calls are noted, and the runs that they make.
        base: Paths that a client names lie inside of it (A2.16), links followed.
        read_only: Nothing is run, and nothing written but the notes of calls.
        limit_bytes: Of one answer.
    """

    workspace: Workspace
    audits: AuditStore
    session: str
    base: Path
    read_only: bool = False
    limit_bytes: int = LIMIT_BYTES

    def catalog(self) -> Catalog:
        """What is known of SAEs, with the rows of ``RAYLENS_CATALOG`` or the workspace's own."""
        return Catalog.load(find_user_file(None, self.workspace.url))


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool.

    Attributes:
        desk: What it works on.
        progress: Tells whoever called how far it is.
    """

    desk: Desk
    progress: Progress
