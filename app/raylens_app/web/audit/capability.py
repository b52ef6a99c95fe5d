"""Whether the candidate is merely broken: the capability panel, and the suite's checks."""

from __future__ import annotations

import streamlit as st

from raylens.reports.html_behaviour import capability as panel
from raylens.reports.html_behaviour import checks
from raylens.reports.markup import element
from raylens_app.web.audit.shelf import Audited


def capability(audited: Audited) -> None:
    """Draw both tables."""
    results = audited.artefacts.suite_results
    st.markdown(
        "**Capability panel**",
        help="A model that lost its abilities differs in everything, so that a difference says nothing specific.",
    )
    st.html(element("div", panel(results.capability), class_="rl-report"))
    st.markdown("**Checks of completions**")
    st.html(element("div", checks(results), class_="rl-report"))
