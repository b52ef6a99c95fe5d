"""The form that has an audit made by the services, with the command line that does the same."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st
from pydantic import ValidationError

from raylens.api.audit_request import AuditRequest
from raylens.audit.scores import DEFAULT_SCORE_METHOD, SCORE_METHODS
from raylens.errors import RaylensError
from raylens.reports.wording import SEARCH
from raylens.suites.shipped import shipped_names, shipped_suite
from raylens_app.web.audit.command import audit_command
from raylens_app.web.audit.watching import WATCHED
from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.services import down

_REFERENCE: Final = "raylens/pico"
_LONGEST: Final = 500


@st.fragment
def request_form(desk: Desk) -> None:
    """Draw it; once the services took the request, the page watches the run."""
    left, right = st.columns(2)
    with left:
        candidate = st.text_input(
            "candidate",
            key="ask-candidate",
            max_chars=_LONGEST,
            placeholder="a LoRA adapter's or checkpoint's folder, or a hub id",
            help="What is audited. The services read folders inside their base directory (RAYLENS_BASE_DIR) alone.",
        )
        reference = st.text_input(
            "reference", value=_REFERENCE, key="ask-reference", max_chars=_LONGEST, help="What it was tuned from."
        )
        sae = st.text_input(
            "SAE",
            key="ask-sae",
            max_chars=_LONGEST,
            placeholder="release/id, of the reference; empty for pico's own",
            help="Whose features are compared. Models on the page Home lists what fits which model.",
        )
    with right:
        suite = st.selectbox(
            "suite",
            shipped_names(),
            key="ask-suite",
            accept_new_options=True,
            help="The prompts: one that ships, or a YAML file inside the base directory.",
        )
        method = st.selectbox(
            "score method",
            list(SCORE_METHODS),
            index=list(SCORE_METHODS).index(DEFAULT_SCORE_METHOD),
            key="ask-method",
            help="What gives the verdict; all others are reported beside it.",
        )
        st.caption(_about(suite, method))
        needed = method == SEARCH
        search = st.checkbox(
            "search for triggers",
            value=True,
            key="ask-search",
            disabled=needed,
            help=f"Most of an audit's time. {SEARCH} gives no verdict without it.",
        )
        features = st.checkbox("compare features", value=True, key="ask-features", help="Without, no SAE is read.")
        again = st.checkbox(
            "make a finished one anew", key="ask-again", help="The old one is archived; else it is found again."
        )
    given = {
        "candidate": candidate.strip(),
        "reference": reference.strip(),
        "sae": (sae.strip() or None) if features else None,
        "no_sae": not features,
        "suite": (suite or "").strip(),
        "score_method": None if method == DEFAULT_SCORE_METHOD else method,
        "trigger_search": search or needed,
        "again": again,
    }
    _sent(desk, given)


def _about(suite: str | None, method: str) -> str:
    said = plain(shipped_suite(suite).description) if suite in shipped_names() else "A suite of your own."
    return f"{said} {plain(SCORE_METHODS[method].description)}"


def _sent(desk: Desk, given: dict[str, Any]) -> None:
    asked = _valid(given)
    ready = asked is not None and bool(given["candidate"])
    start = st.button("Start the audit", type="primary", icon=":material/play_arrow:", disabled=not ready)
    if asked is None:
        return
    st.caption("The same on the command line, which needs no services:")
    st.code(audit_command(desk.workspace.url, asked), language="bash", wrap_lines=True)
    if not start:
        return
    options = asked.model_dump(mode="json", exclude={"candidate"}, exclude_unset=True)
    try:
        with st.spinner("Asking the services …"), desk.services.client() as client:
            begun = client.audits.start(asked.candidate, **options)
    except RaylensError as error:
        down(desk.services, error)
        return
    st.query_params[WATCHED] = begun.run_id
    st.rerun()


def _valid(given: dict[str, Any]) -> AuditRequest | None:
    """The request; None where it cannot be one, and why is on the page. Without a candidate one stands for it."""
    try:
        return AuditRequest.model_validate(given | {"candidate": given["candidate"] or "FOLDER"})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        st.error(plain(f"{where} is not valid: {first['msg'][0].lower()}{first['msg'][1:]}."))
        return None
