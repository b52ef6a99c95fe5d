"""An audit that is being made, was interrupted or is damaged: what is known of it, and what to do."""

from __future__ import annotations

from typing import Final

import streamlit as st

from raylens.errors import DamagedFileError, InputError
from raylens.store.audit_files import changed, problems
from raylens.store.audit_manifest import RUN, read_run_file
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.runs import RunRecord
from raylens_app.web.audit.command import command_of
from raylens_app.web.audit.files import downloads
from raylens_app.web.desk import Desk
from raylens_app.web.numbers import ago
from raylens_app.web.plain import plain
from raylens_app.web.registry import link
from raylens_app.web.runs_table import runs_table
from raylens_app.web.states import refused

_AGAIN_S: Final = 2.0


def unfinished(desk: Desk, place: RunPlace) -> None:
    """One without a decision: who writes it, or how it ended and the command that goes on."""
    link("audits", "All audits", icon="arrow_back")
    st.title(plain(place.run))
    store = AuditStore(desk.workspace.files)
    [row] = [one for one in store.runs(place.session) if one.place == place] or [None]
    if row is not None and row.writer is not None:
        st.info(plain(f"This audit is being made, by {row.writer}. It shows here as soon as there is a verdict."))
        _until_finished(desk, place)
        runs_table(desk, kind="audit", shown=3)
        return
    began = f"It began {ago(row.started_at)}. " if row is not None and row.started_at is not None else ""
    st.warning(
        f"This audit is not finished, and nobody is at work on it. {began}What is done of it is kept: the same command "
        "goes on from there.",
        icon=":material/pending:",
    )
    try:
        made = store.run_file(place.session, place.run)
    except DamagedFileError as error:
        refused(error)
        return
    if made is None:
        return
    if (last := _last_run(desk, made.config)) is not None and last.error:
        st.error(plain(f"{last.run_id} {last.status}: {last.error}"), icon=":material/error:")
    if command := command_of(desk.workspace.url, place, made.config):
        st.code(command, language="bash", wrap_lines=True)


def damaged(desk: Desk, place: RunPlace, error: DamagedFileError) -> None:
    """One whose files cannot be relied on: which and why, and what makes it anew."""
    link("audits", "All audits", icon="arrow_back")
    st.title(plain(place.run))
    refused(error)
    store = AuditStore(desk.workspace.files)
    try:
        texts = store.read_run(place.session, place.run)
    except InputError as gone:
        refused(gone)
        return
    found = problems(texts)
    command = None
    if RUN in texts:
        try:
            made = read_run_file(texts[RUN].encode(), RUN)
        except DamagedFileError as about:
            refused(about)
        else:
            found += [one for one in changed(texts, made) if one.file not in {other.file for other in found}]
            command = command_of(desk.workspace.url, place, made.config)
    if found:
        rows = [{"file": one.file, "what is wrong": one.what} for one in found]
        st.dataframe(rows, hide_index=True, alt="what is wrong with the files of this audit")
    if command is not None:
        st.markdown(
            "This makes it anew; what the reference said is kept, so that it costs the candidate's passes only:"
        )
        st.code(f"{command} --again", language="bash", wrap_lines=True)
    st.markdown("**What is there**")
    downloads(place, texts)


@st.fragment(run_every=_AGAIN_S)
def _until_finished(desk: Desk, place: RunPlace) -> None:
    """Draws nothing; once there is a decision, the page is drawn anew."""
    if AuditStore(desk.workspace.files).is_finished(place.session, place.run):
        st.rerun()


def _last_run(desk: Desk, config: dict[str, object]) -> RunRecord | None:
    """The run that was asked for the same and began last."""
    return next((run for run in desk.runs() if run.kind == "audit" and run.config == config), None)
