"""Home: what is in this workspace, what runs, whether the services answer, and where to begin."""

from __future__ import annotations

import streamlit as st

from raylens.reports.visible import one_line
from raylens.store.contents import CacheContents, Contents
from raylens_app.web.desk import Desk
from raylens_app.web.numbers import count
from raylens_app.web.plain import plain
from raylens_app.web.registry import link
from raylens_app.web.runs_table import runs_table
from raylens_app.web.services_card import services_card
from raylens_app.web.states import explained
from raylens_app.web.supported import supported


def show(desk: Desk) -> None:
    """Draw the page."""
    st.title("RayLens")
    st.caption(f"Workspace {plain(desk.workspace.url)}")
    empty_here = False
    with explained():
        found = desk.contents()
        empty_here = found.is_empty
        for problem in found.unreadable:
            st.error(plain(problem), icon=":material/error:")
        if found.is_empty:
            _first_steps(desk)
        else:
            _figures(found)
            _caches(found)
            if desk.has_features:
                link("features", "Browse features", icon="table_rows")
    with explained():
        st.subheader("Runs", anchor="runs")
        _runs(desk)
    st.subheader("Services", anchor="services")
    services_card(desk.services)
    if not empty_here:
        with st.expander(f"Models whose features can be read ({len(desk.supported_models)})"):
            supported(desk)


def _figures(found: Contents) -> None:
    """What there is, counted."""
    merged = [one for one in found.caches if one.merged]
    figures = {
        "Caches": (len(merged), "Activations of SAEs on one corpus, merged and so readable."),
        "SAEs": (len({sae for one in merged for sae in one.saes}), "Sparse autoencoders in these caches."),
        "Features": (sum(one.n_features for one in merged), "Latents of these SAEs, each once a cache."),
        "Explained": (found.n_explained, "Features of which an explainer says something."),
        "Scored": (found.n_scored, "Features whose explanations were tested on held-out text."),
        "Labelled": (found.n_labelled, "Features that people labelled."),
        "Audits": (found.n_audits, "Finished comparisons of a fine-tune with its reference."),
        "Spans": (found.n_spans, f"Spans of traces; of {found.n_read_spans:,} of them features were read."),
    }
    with st.container(horizontal=True):
        for label, (value, says) in figures.items():
            st.metric(label, count(value), help=says, border=True)


def _caches(found: Contents) -> None:
    def row(one: CacheContents) -> dict[str, object]:
        return {
            "cache": one_line(one.name) if one.name else one.cache_id,
            "model": one.model,
            "tokens": one.n_tokens,
            "documents": one.n_documents,
            "features": one.n_features or None,
            "SAEs": ", ".join(one.saes),
            "state": "readable" if one.merged else "not merged yet",
        }

    st.subheader("Caches", anchor="caches")
    columns = {name: st.column_config.NumberColumn(format="localized") for name in ("tokens", "documents", "features")}
    rows = [row(one) for one in reversed(found.caches)]
    st.dataframe(rows, hide_index=True, column_config=columns, placeholder="–", alt="caches of this workspace")


def _runs(desk: Desk) -> None:
    if desk.runs():
        runs_table(desk)
    else:
        st.markdown("Nothing has run in this workspace yet.")


def _first_steps(desk: Desk) -> None:
    st.subheader("Nothing is here yet: four ways to begin", anchor="begin")
    prefix = f"raylens --workspace {desk.workspace.url}"
    steps = (
        ("Look at the embedded model, without a download: some minutes on two cores.", f"{prefix} demo"),
        (
            "Cache a model of yours, with an SAE that was trained on it.",
            f"{prefix} cache --model MODEL --sae RELEASE/SAE --text PATH",
        ),
        ("Bring in a delphi run, with its explanations and scores.", f"{prefix} import delphi FOLDER"),
        ("Audit a fine-tune against its reference.", f"{prefix} audit run --help"),
    )
    for at, (says, command) in enumerate(steps, 1):
        st.markdown(f"{at}. {says}")
        st.code(command, language="bash", wrap_lines=True)
    st.subheader("Models whose features can be read", anchor="models")
    supported(desk)
