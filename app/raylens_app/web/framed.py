"""Drawings and pages of ours in a frame: Streamlit's own HTML leaves out SVG, and a whole report has its own styles.

A frame may run scripts, so what stands in one says by its Content-Security-Policy that it runs and fetches nothing, and
is built by :mod:`raylens.reports.markup`, which escapes.
"""

from __future__ import annotations

import base64
import hashlib

import streamlit as st

from raylens.reports.markup import Markup, element, joined
from raylens_app.web.theme import frame_rules, is_dark


def framed(body: Markup, *, height: int, label: str) -> None:
    """Show ``body`` in a frame, in this session's colours.

    Args:
        body: What the frame holds; may be as large as it likes, the frame scrolls.
        height: Of the frame, pixels.
        label: What it is, for those who do not see it.
    """
    st.iframe(document(body, dark=is_dark(), title=label), height=height, alt=label)


def document(body: Markup, *, dark: bool, title: str) -> str:
    """A whole HTML document that runs and fetches nothing."""
    style = frame_rules(dark=dark)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Markup(style)),
    )
    return f"<!doctype html>{element('html', element('head', head), element('body', body), lang='en')}"
