"""The strip of a span's features: the largest first, a bar a row, in the colour of its bucket (A0.16–A0.19)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import streamlit as st

from raylens.api.extraction import SpanFeature
from raylens.errors import InputError
from raylens.ids import FeatureId, SaeId
from raylens.labels.buckets import BUCKETS
from raylens.labels.span_labels import feature_line
from raylens.reports.markup import Markup, element
from raylens_app.web.desk import Desk
from raylens_app.web.plain import plain
from raylens_app.web.registry import link
from raylens_app.web.tokens import exact

_BAR_PX: Final = 140
_BAR: Final = "display:block;height:.8em;border-radius:2px;"
_LABEL: Final = 44
"""Characters of a label that a row has room for; a tip has all of it."""
_WIDE: Final = "\N{NO-BREAK SPACE} "
_THIN: Final = 1.5
"""Per cent: the smallest bar is still seen."""


def strip(desk: Desk, sae: str, features: Sequence[SpanFeature]) -> None:
    """Draw it, with what the colours mean above it.

    Args:
        desk: What is worked with.
        sae: Whose features they are.
        features: The largest first.
    """
    st.html(_legend(features))
    largest = max((one.activation for one in features), default=0.0)
    own = _own(desk, sae)
    with st.container(gap=None, key="strip"):
        for one in features:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.html(_bar(one, largest), width=_BAR_PX)
                _line(one, own)
                if one.neuronpedia_url:
                    st.html(_elsewhere(one.neuronpedia_url), width="content")


def _line(one: SpanFeature, own: SaeId | None) -> None:
    # HTML joins spaces; the wide one before the activation is to be seen.
    cut = one.label is not None and len(one.label) > _LABEL
    shown = one.model_copy(update={"label": f"{one.label[: _LABEL - 1]}…"}) if one.label and cut else one
    said, _, activation = feature_line(shown).rpartition("  ")
    said = f"{plain(said)}{_WIDE}{activation}"
    whole = plain(one.label) if one.label and cut else None
    if own is None:
        st.markdown(said, width="content", help=whole)
    else:
        link("feature", said, help=whole, id=str(FeatureId(own, one.index)))


def _own(desk: Desk, sae: str) -> SaeId | None:
    """The SAE where a cache of the workspace holds it, so that its features have pages; else None."""
    try:
        known = SaeId.parse(sae)
    except InputError:
        return None
    return known if desk.features.own.held(known) else None


def _bar(one: SpanFeature, largest: float) -> Markup:
    share = max(_THIN, 100 * one.activation / largest) if largest > 0 else _THIN
    said = f"{exact(one.activation)}, bucket {one.bucket}, token {one.position}"
    bar = element("span", class_=f"rl-bucket-{one.bucket}", style=f"{_BAR}width:{share:.1f}%", title=said)
    return element("div", bar, role="img", aria_label=said)


def _elsewhere(url: str) -> Markup:
    return element("a", "View on Neuronpedia", href=url, target="_blank", rel="noopener noreferrer", class_="rl-soft")


def _legend(features: Sequence[SpanFeature]) -> Markup:
    counted = Counter(one.bucket for one in features)
    parts = (
        element(
            "span",
            element("span", class_=f"rl-bucket rl-bucket-{bucket}"),
            f"{bucket} {counted[bucket]:,}",
            style="margin-right:1.1em;white-space:nowrap",
        )
        for bucket in BUCKETS
    )
    return element("div", parts, class_="rl-soft", role="group", aria_label="features of each bucket")
