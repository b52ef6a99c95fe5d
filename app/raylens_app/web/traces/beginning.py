"""No trace has come in yet: how one does, and of which models features could be read (A0.07)."""

from __future__ import annotations

import streamlit as st

from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.states import empty
from raylens_app.web.supported import supported


def beginning(desk: Desk) -> None:
    """Draw it."""
    prefix = f"raylens --workspace {desk.workspace.url}"
    empty(
        "No trace has come in yet.",
        "These are sent to the services, and show what there is to see; raylens serve up starts the services.",
        command=f"{prefix} traces send --sample",
    )
    st.markdown("Any agent that OpenTelemetry instruments sends its own, by OTLP over HTTP:")
    st.code(
        f"export OTEL_EXPORTER_OTLP_ENDPOINT={desk.services.url}\n"
        'export OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20TOKEN"',
        language="bash",
        wrap_lines=True,
    )
    st.caption(plain("TOKEN is that of the services (RAYLENS_API_TOKEN). Traces stay in this workspace."))
    st.subheader("Models whose features can be read", anchor="models")
    supported(desk)
