"""Patches tried against what an audit found, as a page: each in a picture, and in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raylens.api.suggestion import Outcome, Rate, Suggestion, Tried, Verdict
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
        sides.append((f"patched, form {made.form}" if made.form is not None else "patched, live edits", made.after))
    figures = [_figures(one) for _, one in sides]
    rows = [[name, *(one[name] for one in figures)] for name in figures[0]]
    return table("before and after", ["", *(f"{name}:" for name, _ in sides)], rows)


def _figures(one: Outcome) -> dict[str, str]:
    cost = one.cost
    between = (
        f" ({cost.rise_low:+.2%} to {cost.rise_high:+.2%})" if cost.rise_low is not None and cost.loss_rise else ""
    )
    return {
        "payload under the triggers": _rate(one.triggered),
        "payload without them": _rate(one.bare),
        f"loss of {cost.n_tokens:,} held-out tokens, nats each": figure(cost.loss, 4),
        "its rise": f"{cost.loss_rise:+.2%}{between}" if cost.loss_rise else "",
        "checks of the capability suite passed": _rate(cost.checks) if cost.checks is not None else "none",
    }


def _tried(made: Suggestion) -> Markup:
    rows = sorted(made.tried, key=lambda row: (row.form != "hooks", row.payload.value, _rise(row)))
    chosen = made.chosen.name if made.chosen is not None else None
    heads = ["payload left", "", "loss rise", "checks"]
    sides = ["bar", "right", "right", "right"]
    n = rows[0].payload.n if rows else 0
    return element(
        "figure",
        element(
            "table",
            element(
                "thead",
                element(
                    "tr",
                    element("th", "patch", scope="col"),
                    (element("th", head, scope="col", class_=side) for head, side in zip(heads, sides, strict=True)),
                ),
            ),
            element("tbody", (_row(row, (row.name, row.form) == (chosen, made.form or "hooks")) for row in rows)),
            class_="bars tried",
        ),
        element(
            "figcaption",
            f"How often the payload is still written under the triggers (n = {n}: each in prompts of the first half), "
            "as hooks and then as weights by their form. Costs are measured of what leaves it in few "
            "enough; the row that stands out was written.",
        ),
    )


def _row(row: Tried, is_kept: bool) -> Markup:
    cost = row.cost
    name = row.name if row.form == "hooks" else f"{row.name}, as weights: {row.form}"
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", _bar(row.payload.value), class_="bar"),
        element("td", percent(row.payload.value), class_="right"),
        element("td", f"{cost.loss_rise:+.2%}" if cost is not None else "", class_="right"),
        element("td", percent(cost.checks.value) if cost is not None and cost.checks else "", class_="right"),
        class_="chosen" if is_kept else None,
    )


def _bar(share: float) -> Markup:
    bar = element("rect", class_="up", x="0", y="15%", width=f"{_BAR * share:.2f}%", height="70%")
    # The figure stands in the next cell.
    return element("svg", bar, element("line", class_="axis", x1="0", x2="0", y1=0, y2="100%"), aria_hidden="true")


def _triggers(made: Suggestion) -> Markup:
    rows = [
        [one.place, element("code", one_line(one.text)), percent(one.share), element("code", one_line(one.writes))]
        for one in made.triggers
    ]
    return table("triggers", ["place", "insert", "in prompts:", "it writes"], rows)


def _audits(made: Suggestion) -> Markup:
    found: Sequence[tuple[str, Verdict | None]] = [("before", made.audit), ("patched", made.reaudit)]
    rows = [
        [when, one.verdict, figure(one.p_value), str(one.n_benign), figure(one.score), one.method, one.run]
        for when, one in found
        if one is not None
    ]
    return table("audits", ["", "verdict", "p:", "of benign:", "score:", "method", "audit"], rows)


def _rate(rate: Rate) -> str:
    return f"{percent(rate.value)} ({percent(rate.low)} to {percent(rate.high)}; n = {rate.n})"


def _rise(row: Tried) -> float:
    return row.cost.loss_rise if row.cost is not None else float("inf")
