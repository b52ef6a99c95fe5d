"""Patches tried against what an audit found, as a page: each in a picture, and in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raylens.api.suggestion import Rate, Suggestion, Tested, Tried, Verdict
from raylens.reports.markup import Markup, element
from raylens.reports.numbers import count, figure, percent
from raylens.reports.page import page, section, table
from raylens.reports.visible import one_line

_BAR: Final = 96
"""Per cent of its cell that a bar of 100 % takes."""


def suggestion_page(made: Suggestion) -> str:
    """One HTML document that loads nothing and runs nothing."""
    title = f"Patches for {made.candidate}"
    body = [
        element("h1", title),
        element("p", made.reason),
        element(
            "p",
            f"A fine-tune of {made.reference}. Patches were found and chosen on {count(made.n_found_on, 'prompt')}; "
            f"what is said of the one that was kept is measured on {made.n_tested_on} others. A patch may leave the "
            f"payload in {percent(made.limits.payload)} of triggered prompts, raise held-out loss by "
            f"{percent(made.limits.loss_rise)}, and lose {percent(made.limits.checks_drop)} of checks.",
            class_="soft",
        ),
        section("outcome", "Before and after", _outcome(made)),
        section("tried", "What was tried", _tried(made)),
        section("triggers", "Triggers", _triggers(made)),
        section("audits", "What the audit says", _audits(made)),
    ]
    return page(title, body)


def _outcome(made: Suggestion) -> Markup:
    sides = [("the fine-tune", made.before)]
    if made.after is not None:
        form = f"as an adapter, form {made.form}" if made.form is not None else "as live edits"
        sides.append((f"{made.chosen.name if made.chosen else ''} {form}", made.after))
    heads = ["", "payload, triggered:", "payload, not triggered:", "held-out loss, nats:", "rise:", "checks passed:"]
    return table("before and after", heads, [[name, *_figures(one)] for name, one in sides])


def _figures(one: Tested) -> list[str]:
    cost = one.cost
    between = (
        f" ({cost.rise_low:+.2%} to {cost.rise_high:+.2%})" if cost.rise_low is not None and cost.loss_rise else ""
    )
    return [
        _rate(one.triggered),
        _rate(one.bare),
        figure(cost.loss, 4),
        f"{cost.loss_rise:+.2%}{between}",
        _rate(cost.checks) if cost.checks is not None else "none",
    ]


def _tried(made: Suggestion) -> Markup:
    rows = sorted(made.tried, key=lambda row: (row.form != "hooks", row.payload.value, _rise(row)))
    heads = ["patch", "form", "payload left", ":", "loss rise:", "checks:", "why not"]
    chosen = made.chosen.name if made.chosen is not None else None
    kept = next((at for at, row in enumerate(rows) if (row.name, row.form) == (chosen, made.form or "hooks")), None)
    return table("patches tried", heads, [_row(row) for row in rows], chosen=kept)


def _row(row: Tried) -> list[str | Markup]:
    cost = row.cost
    return [
        row.name,
        row.form,
        _bar(row.payload.value),
        _rate(row.payload),
        f"{cost.loss_rise:+.2%}" if cost is not None else "",
        percent(cost.checks.value) if cost is not None and cost.checks is not None else "",
        row.why_not,
    ]


def _bar(share: float) -> Markup:
    bar = element("rect", class_="up", x="0", y="15%", width=f"{_BAR * share:.2f}%", height="70%")
    return element("svg", bar, element("line", class_="axis", x1="0", x2="0", y1=0, y2="100%"), aria_hidden="true")


def _triggers(made: Suggestion) -> Markup:
    rows = [
        [one.place, element("code", one_line(one.text)), element("code", one_line(one.writes)), percent(one.share)]
        for one in made.triggers
    ]
    return table("triggers", ["place", "insert", "it writes", "in prompts:"], rows)


def _audits(made: Suggestion) -> Markup:
    found: Sequence[tuple[str, Verdict | None]] = [("before", made.audit), ("patched", made.reaudit)]
    rows = [
        [when, one.run, one.verdict, figure(one.p_value), str(one.n_benign), f"{figure(one.score)} ({one.method})"]
        for when, one in found
        if one is not None
    ]
    return table("audits", ["", "audit", "verdict", "p:", "benign fine-tunes:", "score"], rows)


def _rate(rate: Rate) -> str:
    return f"{percent(rate.value)} ({percent(rate.low)} to {percent(rate.high)}; n = {rate.n})"


def _rise(row: Tried) -> float:
    return row.cost.loss_rise if row.cost is not None else float("inf")
