"""What both models wrote, side by side: which prompts is said by the address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import streamlit as st

from raylens.audit.artefacts import PromptResult
from raylens.reports.html_behaviour import output
from raylens.reports.markup import element
from raylens.reports.outputs import Outputs, changed_checks
from raylens_app.web.audit.shelf import Audited
from raylens_app.web.audit.table import BOUND
from raylens_app.web.states import empty

_SIZE: Final = 10
_OPEN: Final = 3
_PAGE: Final = "at"
_WHICH: Final = ("differ", "checks changed", "all")


def outputs(audited: Audited) -> None:
    """Draw the filters and a page of prompts."""
    results = audited.artefacts.suite_results
    parts = Outputs.of(results.results, len(results.results))
    n_changed = sum(bool(changed_checks(one)) for one in parts.shown)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        which = st.segmented_control(
            "prompts", _WHICH, default=_WHICH[0], required=True, key="which", bind=BOUND, on_change=_first_page
        )
        words = st.text_input(
            "Search",
            key="holds",
            bind=BOUND,
            max_chars=200,
            placeholder="in prompts and what was written",
            on_change=_first_page,
        )
    found = [
        one for one in (*parts.shown, *parts.alike) if _is(one, which or _WHICH[0]) and words.strip() in _text(one)
    ]
    st.caption(
        f"Of {len(results.results):,} wordings both wrote the same on {len(parts.alike):,}; on {n_changed:,} a check "
        f"turned out otherwise. Shown are {len(found):,}: checks that changed first, then by KL divergence. Greedy, "
        f"{results.max_new_tokens} tokens at most."
    )
    if not found:
        empty("No prompt is like that.", "All prompts, or other words, show what both wrote.")
        return
    st.html(
        element(
            "div",
            element(
                "p",
                "Marked: ",
                element("del", "what only the reference wrote"),
                " and ",
                element("ins", "what only the candidate wrote"),
                ".",
                class_="soft",
            ),
            _page(found),
            class_="rl-report",
        )
    )
    if len(found) > _SIZE:
        st.pagination(-(-len(found) // _SIZE), key=_PAGE, bind=BOUND)


def _page(found: Sequence[PromptResult]) -> list[str]:
    """A page of them; the widget that says which stands below, and is not there at first."""
    said = str(st.session_state.get(_PAGE) or st.query_params.get(_PAGE) or 1)
    number = int(said) if said.isascii() and said.isdecimal() and len(said) < _SIZE else 1
    first = (number - 1) * _SIZE
    chosen = found[first : first + _SIZE] if 0 <= first < len(found) else found[:_SIZE]
    return [output(one, is_open=place < _OPEN) for place, one in enumerate(chosen)]


def _is(result: PromptResult, which: str) -> bool:
    if which == "checks changed":
        return bool(changed_checks(result))
    return which == "all" or not result.same_text


def _text(result: PromptResult) -> str:
    return "\n".join((result.id, result.prompt, result.reference.text, result.candidate.text))


def _first_page() -> None:
    st.session_state[_PAGE] = 1
