"""Audits of the workspace as pages read them: rows of the list, and one finished audit, kept while it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import streamlit as st

from raylens.api.audits import AuditRow
from raylens.audit.artefacts import Artefacts
from raylens.audit.verdict import Decision
from raylens.errors import InputError
from raylens.ids import SaeId, digest
from raylens.store.audit_files import stored_artefacts
from raylens.store.audit_manifest import RUN, RunFile, read_run_file
from raylens.store.audit_overview import audit_rows
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens_app.web.desk import Desk

_ROWS_S: Final = 2.0
_KEPT: Final = 16


@dataclass(frozen=True)
class Audited:
    """One finished audit.

    Attributes:
        desk: What is worked with.
        place: Its names.
        texts: Its files by name, as they are stored.
        artefacts: Its JSON, checked.
        made: When and with what; None where its ``run.json`` is gone.
    """

    desk: Desk
    place: RunPlace
    texts: Mapping[str, str]
    artefacts: Artefacts
    made: RunFile | None

    @property
    def decision(self) -> Decision:
        """The verdict, and on what."""
        return self.artefacts.decision.decision

    @cached_property
    def sae(self) -> SaeId | None:
        """Whose features were compared; None where none were, or a folder was named that no cache can hold."""
        try:
            return SaeId.parse(self.artefacts.decision.sae or "")
        except InputError:
            return None

    @property
    def command(self) -> str:
        """What begins every command about its workspace."""
        return f"raylens --workspace {self.desk.workspace.url}"


def listed(desk: Desk) -> tuple[AuditRow, ...]:
    """All audits, the one finished last first, as they were at most two seconds ago."""
    return _listed(desk.workspace.url, desk.workspace)


def read(desk: Desk, place: RunPlace) -> Audited:
    """A finished audit.

    Raises:
        InputError: It is not finished, or not there.
        DamagedFileError: A file is missing, not what it should be, or at odds with another.
    """
    texts = AuditStore(desk.workspace.files).read_run(place.session, place.run)
    artefacts = _checked(digest({"url": desk.workspace.url, **texts}), str(place), texts)
    made = read_run_file(texts[RUN].encode(), desk.workspace.files.native(place.file(RUN))) if RUN in texts else None
    return Audited(desk, place, texts, artefacts, made)


@st.cache_data(ttl=_ROWS_S, show_spinner=False, max_entries=8)
def _listed(url: str, _workspace: Workspace) -> tuple[AuditRow, ...]:
    return audit_rows(AuditStore(_workspace.files))


@st.cache_resource(show_spinner=False, max_entries=_KEPT)
def _checked(key: str, place: str, _texts: Mapping[str, str]) -> Artefacts:
    """Checked once for all sessions, for as long as the files hold the same."""
    return stored_artefacts(_texts, f"audit {place}")
