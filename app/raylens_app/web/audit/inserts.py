"""What sets the candidate off: inserts that the search for triggers found, and the way to take them out."""

from __future__ import annotations

import shlex

import streamlit as st

from raylens.reports.html_features import inserts as found_inserts
from raylens.reports.markup import element
from raylens_app.web.audit.shelf import Audited


def inserts(audited: Audited) -> None:
    """Draw them."""
    st.html(element("div", found_inserts(audited.artefacts), class_="rl-report"))
    if any(one.score > 0 for one in audited.artefacts.score.triggers):
        st.markdown(
            "**Next**: have patches tried that take this out. The one that works and costs least is written as an "
            "adapter, tested on other prompts, and audited in turn."
        )
        command = f"{audited.command} patch suggest --audit {shlex.quote(str(audited.place))} --out FOLDER"
        st.code(command, language="bash", wrap_lines=True)
