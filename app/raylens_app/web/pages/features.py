"""Features: all that a cache's SAEs have, filtered, sorted and searched where they are stored, a page at a time."""

from __future__ import annotations

import streamlit as st

from raylens_app.web.desk import Desk
from raylens_app.web.listing.filters import ask
from raylens_app.web.listing.table import table
from raylens_app.web.states import explained


def show(desk: Desk) -> None:
    """Draw the page."""
    st.title("Features")
    with explained():
        asked = ask(desk)
        if asked.view == "table":
            table(desk, asked)
            return
        # Charts are imported where they are wanted: that takes a quarter of a second.
        from raylens_app.web.listing.plots import decoder_map, density_and_f1

        if asked.view == "scatter":
            density_and_f1(desk, asked)
        else:
            decoder_map(desk, asked)
