"""The head of the page: which feature, the best that is said of it, and the way to others."""

from __future__ import annotations

import streamlit as st

from raylens.ids import FeatureId
from raylens.reports.markup import element
from raylens_app.web.feature.subject import Subject
from raylens_app.web.numbers import count, figure, share
from raylens_app.web.plain import plain
from raylens_app.web.registry import link


def head(subject: Subject) -> None:
    """Draw it."""
    one, card = subject.one, subject.card
    with st.container(horizontal=True, vertical_alignment="center"):
        st.title(plain(subject.short), width="content", anchor=False)
        st.html(
            element(
                "span", element("span", class_=f"rl-bucket rl-bucket-{subject.bucket}"), f"bucket {subject.bucket}"
            ),
            width="content",
        )
        if any(label.starred for label in card.labels):
            st.markdown("★ starred", width="content")
    if subject.said:
        st.subheader(plain(subject.said), anchor=False)
    else:
        st.markdown("Nothing is said of it yet. `raylens explain` has features explained; a label of yours goes below.")
    name = f" ({one.name})" if one.name else ""
    st.caption(plain(f"{subject.id} · cache {one.cache_id}{name}"))
    _ways(subject)
    _facts(subject)


def _ways(subject: Subject) -> None:
    """To its neighbours by number, and to its page elsewhere; what else the address says stays as it is."""
    with st.container(horizontal=True, vertical_alignment="center"):
        for label, icon, other in (
            ("previous", "arrow_back", subject.index - 1),
            ("next", "arrow_forward", subject.index + 1),
        ):
            there = 0 <= other < subject.one.d_sae
            st.button(label, icon=f":material/{icon}:", disabled=not there, on_click=_show, args=(subject, other))
        link("workbench", "Steer from here", icon="tune", feature=str(subject.id))
        link("compare", "Compare", icon="compare_arrows", features=str(subject.id))
        if subject.card.url:
            st.link_button("View on Neuronpedia", subject.card.url, icon=":material/open_in_new:", type="tertiary")


def _show(subject: Subject, index: int) -> None:
    st.query_params["id"] = str(FeatureId(subject.one.sae, index))


def _facts(subject: Subject) -> None:
    found = subject.card.statistics
    if not found["n_active"]:
        st.info(
            f"It fires on none of the {subject.card.n_tokens:,} text tokens of this cache: it is dead here. "
            "It may fire on other text."
        )
        return
    pairs = (
        ("density", f"{share(found['density'])} of tokens"),
        ("tokens", f"{count(found['n_active'])} of {count(subject.card.n_tokens)}"),
        ("windows", count(found["n_windows"])),
        ("mean activation", figure(found["mean_activation"])),
        ("maximum", figure(found["max_activation"])),
    )
    st.html(
        element(
            "dl",
            (element("div", element("dt", name), element("dd", value)) for name, value in pairs),
            class_="rl-facts",
        )
    )
