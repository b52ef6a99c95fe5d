"""The mechanistic part of ``report.html``: features that changed, where they fire, and inserts found."""

from __future__ import annotations

from raylens.audit.artefacts import Artefacts, InterpEvidence, TriggerHit
from raylens.audit.feature_rows import FeatureRow, Highlight
from raylens.reports.markup import Markup, element
from raylens.reports.numbers import count, figure, percent, signed
from raylens.reports.token_marks import token_marks
from raylens.reports.visible import one_line
from raylens.reports.wording import (
    Meaning,
    change,
    fires_on,
    meaning,
    searched,
    significant,
    stability,
    statistics,
)


def features(evidence: InterpEvidence, bars: Markup | None) -> list[Markup]:
    """What changed, how stable that is, what it means, and where it shows.

    Args:
        evidence: Of the run.
        bars: The plot of effect sizes; None where nothing changed.
    """
    found = [
        element("p", element("strong", "Coverage: "), evidence.coverage.line),
        *_own(evidence),
        element(
            "p",
            "Read at ",
            element("code", evidence.hook),
            ", pooled by ",
            element("code", evidence.pooling),
            f". {significant(evidence)}",
        ),
        element("p", stability(evidence)),
    ]
    if bars is not None:
        found += [
            element("h3", "Effect sizes"),
            bars,
            element("h3", "What they mean"),
            element("ol", (_feature(row) for row in evidence.features), class_="features"),
        ]
    if evidence.highlights:
        ids = {row.index: row.id for row in evidence.features}
        found += [
            element("h3", "Where they fire"),
            element(
                "p",
                "The prompt on which each differs most. The stronger the colour behind a token, the more the feature "
                "fires on it, both models on one scale; its value shows when pointed at.",
                class_="soft",
            ),
            *(highlight(one, ids.get(one.index, f"latent {one.index}")) for one in evidence.highlights),
        ]
    return found


def inserts(artefacts: Artefacts) -> list[Markup]:
    """What the search for triggers found."""
    score = artefacts.score
    found = [element("p", searched(score))]
    if score.triggers:
        rows = (_trigger(hit, fires_on(hit, artefacts.interp_evidence)) for hit in score.triggers)
        found.append(element("ul", rows, class_="inserts"))
    return found


def _own(evidence: InterpEvidence) -> list[Markup]:
    own = evidence.own_explanations
    return [] if own is None else [element("p", element("strong", "Own explanations: "), own.line)]


def _feature(row: FeatureRow) -> Markup:
    said = meaning(row)
    arrow = "▲" if row.direction == "increased" else "▼"
    return element(
        "li",
        element("code", row.id),
        " ",
        element("strong", f"{arrow} {change(row)}", class_="up" if row.direction == "increased" else "down"),
        _meaning(said),
        _neighbours(row) if said.is_proxy and row.neighbours else None,
        element("p", "; ".join(statistics(row)), class_="soft"),
    )


def _meaning(said: Meaning) -> Markup:
    if not said.text:
        return element("p", said.remark, class_="empty")
    return element(
        "p", f"{'≈ ' if said.is_proxy else ''}{said.text}", element("span", f" — {said.remark}", class_="soft")
    )


def _neighbours(row: FeatureRow) -> Markup:
    near = (element("li", f"{one.feature} ({figure(one.cosine)}): {one.explanation}") for one in row.neighbours)
    return element("details", element("summary", "explained neighbours"), element("ul", near))


def highlight(found: Highlight, name: str) -> Markup:
    """Where a feature fires in both models, on the prompt where it differs most; ``name`` is the feature's."""
    wording = "" if found.variant == "original" else f" · {found.variant}"
    return element(
        "section",
        element("h4", element("code", name), f" on {found.prompt}{wording}"),
        token_marks(found),
    )


def _trigger(hit: TriggerHit, features: list[str]) -> Markup:
    others = f" Features that fire more on it: {', '.join(features)}." if features else ""
    return element(
        "li",
        element("strong", element("code", one_line(hit.text))),
        f" in slot {hit.slot}, {count(hit.n_tokens, 'token')}: score {signed(hit.score)} nats",
        element(
            "p",
            "With it the candidate writes ",
            _written(hit.writes),
            f" on {percent(hit.share)} of {count(hit.n_prompts, 'prompt')}, and on {percent(hit.share_without)} "
            "without it. Without it the candidate writes ",
            _written(hit.writes_without),
            f".{others}",
        ),
    )


def _written(text: str) -> Markup:
    return element("code", one_line(text)) if text else element("span", "nothing", class_="empty")
