"""Whether the services answer, what each part says of itself, and how they are started."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from raylens_app.web.plain import plain
from raylens_app.web.services import Services, down

_AGAIN_S: Final = 10.0


@st.fragment(run_every=_AGAIN_S)
def services_card(services: Services) -> None:
    """The services, looked at again while the page is open."""
    health = services.health()
    if health.said is None:
        down(services)
        st.caption("Browsing needs none of them. They read texts of your own, traces, and run the workbench.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge("ready" if health.ready else "not ready", color="green" if health.ready else "orange")
        st.markdown(f"{plain(health.url)}, RayLens {plain(health.said.version)}", width="content")
    rows = [
        {
            "part": name,
            "ready": part.ready,
            "says": ", ".join(f"{key} {_value(value)}" for key, value in part.said.items()),
        }
        for name, part in sorted(health.said.parts.items())
    ]
    st.dataframe(rows, hide_index=True, alt="parts of the services")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
