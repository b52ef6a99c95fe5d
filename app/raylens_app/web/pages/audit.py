"""Audit: one audit's verdict and what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import streamlit as st

from raylens.errors import DamagedFileError
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens_app.web.audit.capability import capability
from raylens_app.web.audit.features import features
from raylens_app.web.audit.files import files
from raylens_app.web.audit.head import head
from raylens_app.web.audit.inserts import inserts
from raylens_app.web.audit.outputs import outputs
from raylens_app.web.audit.shelf import Audited, read
from raylens_app.web.audit.table import BOUND
from raylens_app.web.audit.unfinished import damaged, unfinished
from raylens_app.web.desk import Desk
from raylens_app.web.registry import link
from raylens_app.web.states import explained
from raylens_app.web.theme import report_style


def show(desk: Desk) -> None:
    """Draw the page."""
    name = st.query_params.get("run", "").strip()
    if not name:
        st.title("Audit")
        st.markdown("No audit is named.")
        link("audits", "Choose one of the list", icon="fact_check")
        return
    st.html(report_style())
    with explained():
        place = _place(desk, name)
        try:
            audited = read(desk, place)
        except DamagedFileError as error:
            damaged(desk, place, error)
            return
        head(audited)
        part = st.segmented_control(
            "part", tuple(_PARTS), default=_FIRST, required=True, key="show", bind=BOUND, label_visibility="collapsed"
        )
        with explained():
            _PARTS[part or _FIRST](audited)


def _place(desk: Desk, name: str) -> RunPlace:
    """The finished audit that ``session/run``, its name or how that begins means; one that is not ends the page.

    Raises:
        UnknownNameError: There is none, or several.
        InputError: That cannot name one.
    """
    store = AuditStore(desk.workspace.files)
    if "/" in name:
        place = RunPlace.parse(name)
        if not store.is_finished(place.session, place.run) and store.files.list(place.folder):
            unfinished(desk, place)
            st.stop()
    return store.find(name)


def _verdict(audited: Audited) -> None:
    # Charts are imported where they are wanted: that takes a quarter of a second.
    from raylens_app.web.audit.verdict import verdict

    verdict(audited)


_FIRST: Final = "verdict"
_PARTS: Final[Mapping[str, Callable[[Audited], None]]] = {
    _FIRST: _verdict,
    "features": features,
    "outputs": outputs,
    "inserts": inserts,
    "capability": capability,
    "files": files,
}
"""Only the chosen one is drawn."""
