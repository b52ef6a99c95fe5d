"""The frame of ``report.html``: one file that loads nothing and runs nothing.

Its Content-Security-Policy allows the page's own style sheet by its hash and nothing else, so that whatever came
through, a browser would neither run nor fetch it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from raylens.reports.markup import Child, Markup, element, joined


def page(title: str, body: Sequence[Markup | None]) -> str:
    """A whole HTML document."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", style),
    ]
    html = element(
        "html", element("head", joined(head, between="\n")), element("body", joined(body, between="\n")), lang="en"
    )
    return f"<!doctype html>\n{html}\n"


def section(key: str, title: str, *children: Child | list[Markup]) -> Markup:
    """A section with a heading, to which ``#key`` leads."""
    return element(
        "section", element("h2", title, id=f"{key}-title"), *children, id=key, aria_labelledby=f"{key}-title"
    )


def table(
    label: str,
    heads: Sequence[str],
    rows: Sequence[Sequence[Child]],
    *,
    notes: Sequence[str] = (),
    chosen: int | None = None,
) -> Markup:
    """A table that scrolls by itself on a narrow page.

    Args:
        label: What it is of, for those who do not see it.
        heads: Names of columns; those that end with a colon are aligned to the right.
        rows: Cells.
        notes: One a row, which stands below it and is as wide as all cells; none at all where empty.
        chosen: Row to stand out.
    """
    right = ["right" if head.endswith(":") else None for head in heads]

    def row(i: int, cells: Sequence[Child]) -> Markup:
        first, *rest = cells
        stands_out = "chosen" if i == chosen else None
        own = element(
            "tr",
            element("th", first, scope="row"),
            (element("td", cell, class_=side) for cell, side in zip(rest, right[1:], strict=True)),
            class_=" ".join(filter(None, [stands_out, "noted" if notes else None])) or None,
        )
        if not notes:
            return own
        return joined(own, element("tr", element("td", notes[i], colspan=len(heads), class_="soft"), class_=stands_out))

    head = (
        element("th", name.removesuffix(":"), scope="col", class_=side) for name, side in zip(heads, right, strict=True)
    )
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", head)),
            element("tbody", joined([row(i, cells) for i, cells in enumerate(rows)], between="\n")),
        ),
        class_="scroll",
        role="region",
        aria_label=label,
        tabindex=0,
    )


def pairs(rows: Sequence[tuple[str, Child]], class_: str) -> Markup:
    """Names with what they are."""
    return element(
        "dl", (element("div", element("dt", key), element("dd", value)) for key, value in rows), class_=class_
    )


@cache
def _style() -> Markup:
    # As it stands: a style sheet is not escaped, and the file is the package's own.
    return Markup("\n" + (resources.files("raylens.reports") / "report.css").read_text("utf-8"))
