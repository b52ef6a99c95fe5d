"""Where features fire in reference and candidate, on prompts of audits: what those kept of the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import streamlit as st

from raylens.audit.feature_rows import FeatureRow, Highlight
from raylens.errors import RaylensError
from raylens.reports.html_features import highlight
from raylens.reports.markup import element
from raylens.reports.visible import one_line
from raylens.reports.wording import change, statistics
from raylens.store.audit_paths import RunPlace
from raylens_app.web.audit.shelf import Audited, listed, read
from raylens_app.web.feature.subject import Subject
from raylens_app.web.plain import plain
from raylens_app.web.registry import link
from raylens_app.web.states import empty
from raylens_app.web.theme import report_style

_LOOKED_AT: Final = 50
"""Audits, the latest; each is checked whole the first time."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One feature in one audit.

    Attributes:
        audited: Which audit.
        name: Of the feature.
        row: Its row among those that changed; None where it was not listed.
        highlight: Its tokens in both models; None where they were not kept.
    """

    audited: Audited
    name: str
    row: FeatureRow | None
    highlight: Highlight | None

    @property
    def title(self) -> str:
        """For a list."""
        what = "" if self.highlight else " (figures only)"
        return one_line(f"{self.name} in {self.audited.place}{what}")


def kept_highlights(subjects: Sequence[Subject]) -> None:
    """Draw the one that is chosen."""
    found = [one for subject in subjects for one in _of(subject)]
    if not found:
        empty(
            "No audit lists these features.",
            "An audit keeps the features that changed most, with the tokens of the first few in both models.",
            command=f"raylens --workspace {subjects[0].desk.workspace.url} audit run --candidate FOLDER",
        )
        return
    found.sort(key=lambda one: one.highlight is None)
    place = st.selectbox("feature and audit", range(len(found)), format_func=lambda at: found[at].title, key="kept")
    one = found[place]
    link(
        "audit",
        f"Read audit {plain(str(one.audited.place))}",
        icon="gavel",
        run=str(one.audited.place),
        show="features",
    )
    if one.row is not None:
        st.markdown(plain(f"{one.name} {change(one.row)}; {'; '.join(statistics(one.row))}."))
    if one.highlight is not None:
        st.html(report_style())
        st.html(element("div", highlight(one.highlight, one.name), class_="rl-report"))


def _of(subject: Subject) -> list[Kept]:
    """What finished audits with the feature's SAE kept of it, the latest first; damaged ones are passed over."""
    found: list[Kept] = []
    rows = [row for row in listed(subject.desk) if row.state == "finished"][:_LOOKED_AT]
    for row in rows:
        try:
            audited = read(subject.desk, RunPlace(row.session, row.run))
        except RaylensError:  # its own page says what is wrong with it
            continue
        evidence = audited.artefacts.interp_evidence
        if evidence is None or audited.sae != subject.one.sae:
            continue
        changed = next((one for one in evidence.features if one.index == subject.index), None)
        shown = next((one for one in evidence.highlights if one.index == subject.index), None)
        if changed is not None or shown is not None:
            found.append(Kept(audited, subject.short, changed, shown))
    return found
