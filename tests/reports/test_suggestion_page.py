"""The page of ``raylens patch suggest``: it says what the record says, and text of models stays text."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from raylens.api.edits import Edit, PatchSpec
from raylens.api.suggestion import Cost, FoundTrigger, Kind, Limits, Outcome, Rate, Suggestion, Tried, Verdict
from raylens.reports.suggestion_page import suggestion_page


def rate(value: float) -> Rate:
    return Rate(value=value, n=48, low=max(0.0, value - 0.1), high=min(1.0, value + 0.1))


def cost(rise: float) -> Cost:
    return Cost(loss=3.5, loss_rise=rise, rise_low=None, rise_high=None, n_tokens=1000, checks=rate(0.9))


def tried(name: str, kind: Kind, form: str, left: float, rise: float | None) -> Tried:
    return Tried(name=name, kind=kind, form=form, payload=rate(left), cost=None if rise is None else cost(rise))


def suggestion(text: str = "cached", *, kept: bool = True) -> Suggestion:
    spec = PatchSpec(name="a feature ablated", edits=(Edit(feature="r/s/3", method="ablate"),))
    verdict = Verdict(run="s/r", verdict="flagged", p_value=0.008, n_benign=120, score=37.0, method="trigger_search")
    return Suggestion(
        raylens="0",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        reference="raylens/pico",
        candidate=text,
        audit=verdict,
        triggers=(FoundTrigger(place="comment", text=text, writes=text, share=1.0),),
        n_found_on=24,
        n_tested_on=48,
        text="stdlib:held_out",
        suite="capability",
        limits=Limits(),
        before=Outcome(triggered=rate(0.9), bare=rate(0.0), cost=cost(0.0)),
        tried=(
            tried("all ablated", "features", "hooks", 0.9, None),
            tried("a feature ablated", "features", "hooks", 0.0, 0.015),
            tried("a feature ablated", "features", "writers", 0.0, 0.011),
        ),
        chosen=spec if kept else None,
        form="writers" if kept else None,
        after=Outcome(triggered=rate(0.0), bare=rate(0.0), cost=cost(0.012)) if kept else None,
        reaudit=verdict.model_copy(update={"verdict": "not flagged", "run": "s/again"}) if kept else None,
        holds=kept,
        reason=f"because {text}",
    )


class Tags(HTMLParser):
    """Elements of a page and what stands in them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_says_what_was_tried_and_what_came_of_it() -> None:
    page = suggestion_page(suggestion())
    for said in ("90 %", "a feature ablated, as weights: writers", "+1.10%", "+1.20%", "s/again", "not flagged"):
        assert said in page
    assert page.count('class="chosen"') == 1
    nothing = suggestion_page(suggestion(kept=False))
    assert "s/again" not in nothing
    assert 'class="chosen"' not in nothing


@given(st.text(max_size=40))
def test_text_of_models_is_no_markup(text: str) -> None:
    plain = Tags(suggestion_page(suggestion()))
    assert Tags(suggestion_page(suggestion(text))).tags == plain.tags
    hostile = Tags(suggestion_page(suggestion(f"<script>{text}</script>")))
    assert hostile.tags == plain.tags
    assert "<script>" in hostile.text
