"""The behavioural part of ``report.html``: checks, the capability panel, and what both models wrote."""

from __future__ import annotations

from typing import Final

from raylens.audit.artefacts import CapabilityPanel, Completion, PromptResult, SuiteResults
from raylens.reports.markup import Markup, element, joined
from raylens.reports.numbers import behind, figure
from raylens.reports.outputs import SOURCE, Outputs, changed_checks, clipped, distance, ending, name, names
from raylens.reports.page import table
from raylens.reports.text_marks import marked
from raylens.reports.wording import can_it_still, passed

_OPEN: Final = 3
"""Outputs that are not folded up."""


def behaviour(results: SuiteResults) -> list[Markup]:
    """Checks, capability, outputs."""
    return [
        element("h3", "Checks"),
        *checks(results),
        element("h3", "Capability panel"),
        *capability(results.capability),
        element("h3", "Outputs side by side"),
        *_outputs(Outputs.of(results.results)),
    ]


def checks(results: SuiteResults) -> list[Markup]:
    """How often each check passes, of either model."""
    if not results.checks:
        return [element("p", "The suite has no checks.")]
    rows = [
        [row.check, passed(row.passed_reference, row.n_reference), passed(row.passed_candidate, row.n_candidate)]
        for row in results.checks
    ]
    return [
        table("checks", ["check", "reference passes:", "candidate passes:"], rows),
        element("p", "Of completions that a check applies to.", class_="soft"),
    ]


def capability(panel: CapabilityPanel) -> list[Markup]:
    """Whether the candidate still does what its reference can, and by which figures."""
    found = [element("p", can_it_still(panel))]
    if panel.figures:
        found.append(
            table(
                "capability panel",
                ["figure", "reference:", "candidate:", "broken beyond:", "n:", "is"],
                [
                    [
                        one.name,
                        figure(one.reference),
                        figure(one.candidate),
                        figure(one.broken_beyond),
                        behind(one.n_reference, one.n),
                        "broken" if one.is_broken else "intact",
                    ]
                    for one in panel.figures
                ],
            )
        )
    return found


def _outputs(outputs: Outputs) -> list[Markup]:
    found = [element("p", outputs.summary())]
    if outputs.shown:
        legend = [
            "Marked: ",
            element("del", "what only the reference wrote"),
            " and ",
            element("ins", "what only the candidate wrote"),
            ".",
        ]
        found.append(element("p", legend, class_="soft"))
    found += [output(one, is_open=i < _OPEN) for i, one in enumerate(outputs.shown)]
    if outputs.folded:
        found.append(_named(f"{len(outputs.folded)} more that differ, in full in {SOURCE}", outputs.folded))
    if outputs.alike:
        found.append(_named(f"{len(outputs.alike)} alike", outputs.alike))
    return found


def output(result: PromptResult, *, is_open: bool) -> Markup:
    """What both models wrote after one wording, what only the one wrote marked, with the checks that changed."""
    changed = changed_checks(result)
    (before, before_rest), (after, after_rest) = clipped(result.reference.text), clipped(result.candidate.text)
    left, right = marked(before, after)
    said = f" — {distance(result)}" + (f"; checks changed: {len(changed)}" if changed else "")
    return element(
        "details",
        element("summary", element("strong", name(result) or "without an id"), said),
        [
            element(
                "p",
                f"Check {one.check}: reference {one.status}, candidate {other.status}",
                f": {other.reason}" if other.reason else None,
            )
            for one, other in changed
        ],
        element("p", "prompt", class_="soft"),
        element("pre", clipped(result.prompt)[0]),
        _rest(clipped(result.prompt)[1]),
        element(
            "div",
            _column("Reference", result.reference, left, before_rest),
            _column("Candidate", result.candidate, right, after_rest),
            class_="columns",
        ),
        open="" if is_open else None,
    )


def _column(who: str, completion: Completion, text: Markup, rest: str) -> Markup:
    wrote = element("pre", text) if completion.text else element("p", "wrote nothing", class_="empty")
    return element(
        "section", element("h5", f"{who} ({ending(completion)})"), wrote, _rest(rest), aria_label=f"{who}’s output"
    )


def _rest(remark: str) -> Markup | None:
    return element("p", f"… {remark}", class_="soft") if remark else None


def _named(title: str, results: tuple[PromptResult, ...]) -> Markup:
    shown, more = names(results)
    listed = joined([element("code", one) for one in shown], between=", ")
    return element("details", element("summary", title), element("p", listed, f", and {more} more" if more else None))
