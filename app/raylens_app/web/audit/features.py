"""Features that changed: how much of them is explained, the table of effects, and where they fire in both models."""

from __future__ import annotations

from typing import Any, Final

import streamlit as st

from raylens.audit.artefacts import InterpEvidence
from raylens.audit.feature_rows import FeatureRow
from raylens.ids import FeatureId
from raylens.reports.html_features import highlight
from raylens.reports.markup import element
from raylens.reports.visible import one_line
from raylens.reports.wording import meaning, significant, stability
from raylens_app.web.audit.shelf import Audited
from raylens_app.web.audit.table import BOUND
from raylens_app.web.plain import plain
from raylens_app.web.registry import go
from raylens_app.web.rows import ROW_PX, height_of
from raylens_app.web.states import empty

_PROXY: Final = "≈ "


def features(audited: Audited) -> None:
    """Draw the coverage, the table and the highlights."""
    evidence = audited.artefacts.interp_evidence
    if evidence is None:
        empty(
            "This audit compared no features.",
            "It ran without an SAE; one that is asked for with an SAE compares them.",
        )
        return
    st.markdown(f"**Coverage**: {plain(evidence.coverage.line)}")
    if evidence.own_explanations is not None:
        st.markdown(f"**Own explanations**: {plain(evidence.own_explanations.line)}")
    st.markdown(plain(f"{significant(evidence)} {stability(evidence)}"))
    st.caption(
        plain(f"Read at {evidence.hook}, pooled by {evidence.pooling}; prompts as units, n = {evidence.n_clusters}.")
    )
    if not evidence.features:
        empty("No feature changed.", "Both models have the same features on every prompt.")
        return
    _table(audited, evidence)
    _highlights(evidence)


def _table(audited: Audited, evidence: InterpEvidence) -> None:
    known = _said_here(audited, evidence)
    rows = [_cells(row, known.get(row.index)) for row in evidence.features]
    shown = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    rate = st.column_config.NumberColumn(format="percent", help="Share of prompts on which it fires.")
    columns = {
        "change": st.column_config.NumberColumn(
            format="%+.3g", help="Mean difference candidate − reference, in units of the SAE's activations."
        ),
        "effect g": st.column_config.NumberColumn(
            format="%+.2f", help="Hedges’ g of the paired differences, prompts as units."
        ),
        "q": st.column_config.NumberColumn(
            format="%.3g", help=f"Benjamini and Hochberg, over {evidence.n_tested:,} features that fire."
        ),
        "p": st.column_config.NumberColumn(
            format="%.3g", help=f"Sign-flip permutation; no p below {evidence.smallest_p:.3g} exists here."
        ),
        "fires, reference": rate,
        "fires, candidate": rate,
        "kept": st.column_config.NumberColumn(
            format="percent", help="Share of the prompts' variants in whose list it is, with the same sign."
        ),
        "what it means": st.column_config.TextColumn(
            width="large", help="≈ is said of its nearest explained neighbour."
        ),
    }
    held = audited.sae is not None and audited.desk.features.holds(audited.sae)
    st.markdown("**Effects**, the largest mean differences; a click on a column's head sorts by it")
    found = st.dataframe(
        rows,
        hide_index=True,
        column_config=columns,
        column_order=shown,
        row_height=ROW_PX,
        height=height_of(len(rows)),
        placeholder="",
        key=f"effects-{audited.place}",
        on_select="rerun" if held else "ignore",
        selection_mode="single-row",
        alt="features that changed; choosing a row opens the feature",
    )
    if not held:
        sae = audited.artefacts.decision.sae
        st.caption(
            f"The workspace holds no cache of {plain(str(sae))}, so these features have no pages here. One makes them: "
            f"`raylens cache --sae {sae} --text …`"
        )
        return
    st.caption("Choosing a row opens the feature's page.")
    chosen = found["selection"]["rows"]  # pyright: ignore[reportIndexIssue]  (it is selected from here)
    if chosen and chosen[0] < len(rows) and audited.sae is not None:
        go("feature", id=str(FeatureId(audited.sae, evidence.features[chosen[0]].index)))


def _cells(row: FeatureRow, said_here: str | None) -> dict[str, Any]:
    found = meaning(row)
    said = f"{_PROXY if found.is_proxy else ''}{one_line(found.text)}" if found.text else None
    remark = found.remark if found.text else "this workspace" if said_here else None
    return {
        "feature": row.id,
        "what it means": said or said_here,
        "change": row.delta,
        "effect g": row.effect,
        "q": row.q_value,
        "fires, reference": row.rate_reference,
        "fires, candidate": row.rate_candidate,
        "kept": row.kept_in_variants,
        "said by": remark,
        "p": row.p_value,
    }


def _said_here(audited: Audited, evidence: InterpEvidence) -> dict[int, str]:
    """What people and explainers of this workspace say of the features now; an audit tells what was known then."""
    if audited.sae is None or not audited.desk.features.holds(audited.sae):
        return {}
    chosen = audited.desk.features.chosen(str(audited.sae), None)
    indices = [row.index for row in evidence.features if row.index < chosen[0].d_sae]
    rows = audited.desk.features.rows_of(chosen, [(0, index) for index in indices])
    return {row["feature"]: said for row in rows if (said := row["label"] or row["explanation"])}


def _highlights(evidence: InterpEvidence) -> None:
    if not evidence.highlights:
        return
    names = {row.index: row.id for row in evidence.features}
    listed = list(range(len(evidence.highlights)))
    st.markdown("**Where they fire**")
    place = st.selectbox(
        "feature",
        listed,
        format_func=lambda at: _title(evidence, at, names),
        key="highlight",
        bind=BOUND,
        help="The prompt on which it differs most.",
    )
    one = evidence.highlights[place]
    st.caption(
        "The stronger the colour behind a token, the more the feature fires on it, both models on one scale; its value "
        "shows when pointed at."
    )
    st.html(element("div", highlight(one, names.get(one.index, f"latent {one.index}")), class_="rl-report"))


def _title(evidence: InterpEvidence, at: int, names: dict[int, str]) -> str:
    one = evidence.highlights[at]
    return one_line(f"{names.get(one.index, f'latent {one.index}')} on {one.prompt}")
