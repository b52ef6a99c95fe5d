"""Models whose features can be read: the catalogue verbatim, wherever a page has nothing else to show (A0.07)."""

from __future__ import annotations

from typing import Final

import streamlit as st

from raylens_app.web.desk import Desk
from raylens_app.web.theme import PRIMARY, is_dark

_CHIP: Final = "labels"


def supported(desk: Desk) -> None:
    """Every field of every row, lists as lists; in front of them a chip where Neuronpedia has labels (A0.08)."""
    rows = [row | {_CHIP: [_CHIP] if row["labels_available"] else []} for row in desk.supported_models]
    columns = {
        _CHIP: st.column_config.MultiselectColumn(
            _CHIP,
            options=[_CHIP],
            color=PRIMARY[is_dark()],
            width="small",
            help="Some of its features have labels at Neuronpedia.",
        ),
        "saes": st.column_config.NumberColumn("SAEs"),
        "widths": st.column_config.ListColumn("widths", help="Latents."),
        "layers": st.column_config.ListColumn("layers", help="Layers that its SAEs read."),
        "points": st.column_config.ListColumn("points"),
        "aliases": st.column_config.ListColumn("aliases", help="Other names of the model."),
    }
    order = ("model", _CHIP, "release", "saes", "layers", "widths", "points", "note")
    rest = [name for name in (rows[0] if rows else {}) if name not in order]
    st.dataframe(
        rows,
        hide_index=True,
        column_config=columns,
        column_order=(*order, *rest),
        placeholder="–",
        alt="models and releases of SAEs",
    )
