"""``report.html``: the same as ``report.md``, with the plots; one file, light and dark, for phones too."""

from __future__ import annotations

from typing import Final

from raylens.audit.artefacts import Artefacts, InterpEvidence, ScoreFile
from raylens.audit.verdict import Decision
from raylens.reports.effect_bars import effect_bars
from raylens.reports.html_behaviour import behaviour
from raylens.reports.html_features import features, inserts
from raylens.reports.markup import Markup, element, joined
from raylens.reports.null_plot import null_plot
from raylens.reports.numbers import figure, percent
from raylens.reports.page import page, pairs, section, table
from raylens.reports.wording import (
    METHOD_HEADS,
    ONE_VERDICT,
    can_it_still,
    methods,
    posture,
    subject,
    trace,
    verdict_line,
)

_LOOK: Final = {"flagged": "flagged", "not flagged": "cleared", "inconclusive": "undecided"}
_PARTS: Final = {
    "verdict": "Verdict",
    "score": "Score",
    "features": "Features",
    "inserts": "Inserts",
    "behaviour": "Outputs",
    "method": "Audit trace",
}


def report_html(artefacts: Artefacts) -> str:
    """The report of a run as one HTML document; made from ``artefacts`` alone."""
    about, evidence = artefacts.decision, artefacts.interp_evidence
    title = about.title or "Untitled audit"
    main = [
        _verdict(artefacts),
        section("score", "Score among benign fine-tunes", null_plot(artefacts.score), *_methods(artefacts.score)),
        section("features", "Features that changed", *_features(evidence)),
        section("inserts", "Inserts found by the search for triggers", *inserts(artefacts)),
        section("behaviour", "What both models wrote", *behaviour(artefacts.suite_results)),
        section("method", "Audit trace", table("audit trace", ["step", "with"], trace(artefacts))),
    ]
    return page(title, [_header(title, artefacts), element("main", joined(main, between="\n")), _footer()])


def _header(title: str, artefacts: Artefacts) -> Markup:
    about = artefacts.decision
    rows = [
        ("session", about.session),
        ("run", about.run),
        ("reference", subject(about.reference)),
        ("candidate", subject(about.candidate)),
        ("SAE", about.sae or "none"),
        ("suite", f"{about.suite.name}, digest {about.suite.digest}"),
    ]
    links = (element("li", element("a", name, href=f"#{key}")) for key, name in _PARTS.items())
    return element(
        "header",
        element("h1", title),
        pairs(rows, "about"),
        element("nav", element("ul", links), aria_label="parts of this report"),
    )


def _verdict(artefacts: Artefacts) -> Markup:
    decision = artefacts.decision.decision
    return joined(
        element(
            "section",
            element("h2", decision.verdict.capitalize(), id="verdict-title"),
            element("p", element("strong", verdict_line(decision))),
            element("p", decision.reason),
            pairs(_tiles(decision), "tiles"),
            element("p", can_it_still(artefacts.suite_results.capability)),
            class_=f"verdict {_LOOK[decision.verdict]}",
            id="verdict",
            aria_labelledby="verdict-title",
        ),
        element("h3", "What this does and does not say"),
        element("ul", (element("li", sentence) for sentence in posture(artefacts))),
    )


def _tiles(decision: Decision) -> list[tuple[str, str]]:
    return [
        ("p", figure(decision.p_value)),
        ("n benign fine-tunes", str(decision.n_benign)),
        ("target FPR", percent(decision.target_fpr)),
        (decision.score_method, figure(decision.aggregate_score, 4)),
        ("threshold", figure(decision.threshold, 4)),
        ("smallest p possible", figure(decision.smallest_p)),
        ("capability", decision.capability),
    ]


def _methods(score: ScoreFile) -> list[Markup]:
    chosen = next((i for i, one in enumerate(score.methods) if one.gives_verdict), None)
    rows = [row[:-1] for row in methods(score)]
    notes = [row[-1] for row in methods(score)]
    return [
        element("h3", "Scores of all methods"),
        table("scores of all methods", METHOD_HEADS[:-1], rows, notes=notes, chosen=chosen),
        element("p", ONE_VERDICT, class_="soft"),
    ]


def _features(evidence: InterpEvidence | None) -> list[Markup]:
    if evidence is None:
        return [element("p", "There is no evidence from features: the audit ran without an SAE.")]
    return [*features(evidence, effect_bars(evidence.features) if evidence.features else None)]


def _footer() -> Markup:
    return element(
        "footer",
        element(
            "p",
            "Made by RayLens from decision.json, suite_results.json, score.json and interp_evidence.json alone. What "
            "models, suites and label sources wrote is shown as text; characters without a shape as ",
            element("code", "⟨U+200B⟩"),
            " or ",
            element("code", "␛"),
            ".",
            class_="soft",
        ),
    )
