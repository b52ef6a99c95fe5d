"""Compare: features side by side, and one feature in two models on the same text."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app_here import app_on, charts, html, page, run, said
from audit_pages import EVIL, SHAPES, made_audit, store_made
from browsed import PICO, make_browsed
from explained import explanation, write
from fine_tunes import PICO_FOLDER
from gateway_here import TOKEN, Here, gateway_here
from raylens.net.api_token import VARIABLE
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, SAE, make_cache

TWO = f"{SAE}/1,{SAE}/2"


def compare(features: str = TWO, **params: str) -> AppTest:
    return page("compare", features=features, **params)


# A4.03: a Streamlit front end browses features and scores.
def test_features_stand_side_by_side_with_what_is_said_and_scored(browsed: Workspace) -> None:
    app = compare()
    text = html(app)
    assert text.index(">f_3_1<") < text.index(">f_3_2<")
    for one in ("word two", "requests for the second word", "detection f1 0.75 (0.50–0.90), n 10", "harmful words"):
        assert one in text
    assert "15 %" in text
    assert "3 of 20" in text
    pairs = app.dataframe[0].value
    assert (pairs["feature"][0], pairs["and"][0]) == ("f_3_1", "f_3_2")
    # Windows 1 to 3 and 2 to 3, at other positions.
    assert (pairs["both fire on"][0], pairs["Jaccard"][0]) == (0, 0.0)


def test_a_feature_with_itself_in_another_cache(browsed: Workspace) -> None:
    make_cache(browsed, cache_id="d" * 16, scale=3.0)
    text = html(compare(f"{SAE}/1", cache="d" * 16))
    assert ">12<" in text or ">12.0<" in text, "the largest activation there"


def test_activations_share_an_axis_and_tokens_of_several_are_bold(browsed: Workspace) -> None:
    app = compare(compared="activations and logits")
    [chart] = charts(app)
    assert chart["title"]["text"] == "Activations of each feature"
    assert chart["title"]["subtitle"] == "f_3_1: n = 3 tokens; f_3_2: n = 2 tokens"
    encoding = chart["encoding"]
    assert (encoding["x"]["title"], encoding["y"]["title"]) == ("activation (log scale)", "share of its activations")
    assert "strokeDash" in encoding, "told apart without colour"
    text = html(app)
    assert "f_3_1 promotes" in text
    assert "f_3_2 suppresses" in text
    assert "<strong><code" in text


def test_windows_stand_in_columns_each_on_its_own_scale(browsed: Workspace) -> None:
    text = html(compare(compared="windows", each="3"))
    assert text.count('class="rl-a9 rl-peak"') == 2, "the strongest window of each"
    assert "peak 4" in text
    assert "rl-value" not in text
    with_values = html(compare(compared="windows", each="3", each_values="true"))
    assert '<sub class="rl-value">4</sub>' in with_values


def test_dead_features_are_said_to_be_silent(browsed: Workspace) -> None:
    assert "It fires in no window of this cache." in said(compare(f"{SAE}/7,{SAE}/8", compared="windows"))
    assert "None of them fires in its cache." in said(compare(f"{SAE}/7", compared="activations and logits"))


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (f"{SAE}/1, {SAE}/99", "is 12 wide"),
        ("f_77_1", "unknown layer"),
        ("<script>alert(1)</script>", "alert"),
        (",".join(f"{SAE}/{at}" for at in range(7)), "more than the 6 that fit"),
        ("[x](http://evil)", "evil"),
    ],
)
def test_names_that_are_nothing_are_said(browsed: Workspace, features: str, says: str) -> None:
    app = compare(features)
    [error] = app.error
    assert says in said(app)
    assert "<script>" not in error.value
    assert "](" not in error.value


def test_without_names_the_page_says_what_to_write(browsed: Workspace) -> None:
    assert "Name features above" in said(page("compare"))
    assert "Name features above" in said(compare(" , ,"))


@pytest.mark.parametrize("text", [EVIL, SHAPES], ids=["markup", "shapes"])
@pytest.mark.parametrize("part", ["side by side", "on a text"])
def test_texts_of_others_are_shown_and_not_obeyed(browsed: Workspace, text: str, part: str) -> None:
    write(browsed.cache(CACHE_ID), "evil", [explanation(3, text, explanation_id="evil")])
    store_made(browsed, made_audit(text=text))
    app = compare(f"{SAE}/3,{SAE}/1", compared=part)
    body = html(app)
    assert ("&lt;script&gt;" if text == EVIL else "⟨U+202E⟩") in body
    for one in ("<script", "\u202e", "\x1b", "\u200b"):
        assert one not in body


def test_what_audits_kept_stands_for_a_reading_with_the_candidate(browsed: Workspace) -> None:
    app = compare(compared="on a text")
    assert "No audit lists these features." in said(app)
    assert "They do not read features with a LoRA adapter attached" in said(app)
    store_made(browsed, made_audit())
    with app_on(browsed.url):
        app = compare(compared="on a text")
        assert list(app.selectbox(key="kept").options) == ["f_3_1 in s/r", "f_3_2 in s/r (figures only)"]
        assert "Reference: at most 2" in html(app)
        assert "effect g" in said(app)
        app.selectbox(key="kept").select_index(1)
        assert "Reference: at most" not in html(run(app))


def test_without_services_a_text_says_what_starts_them(browsed: Workspace) -> None:
    app = compare(compared="on a text")
    app.text_area(key="compare-input").set_value("def f(x): return x")
    app.button[-1].click()
    run(app)
    assert "The services do not answer at" in said(app)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """Real services of pico, and of a checkpoint that stands for its fine-tune."""
    folder = tmp_path_factory.mktemp("served")
    make_browsed(folder / "workspace")
    assert PICO_FOLDER is not None
    shutil.copytree(PICO_FOLDER, folder / "tuned")
    models = [
        {"model": "raylens/pico", "saes": [str(PICO)]},
        {"model": str(folder / "tuned"), "saes": [str(PICO)], "override_guard": True},
    ]
    with gateway_here(folder / "workspace", models=models) as here:
        yield here


def test_a_feature_is_read_in_two_models_on_the_same_text(served: Here, tmp_path: Path) -> None:
    with app_on(served.workspace.url, served.url):
        os.environ[VARIABLE] = TOKEN
        app = compare(f"{PICO}/1,{PICO}/2", compared="on a text")
        [other] = [one for one in app.selectbox if one.label == "beside it, read by"]
        tuned = next(one for one in other.options if "tuned" in one)
        app.text_area(key="compare-input").set_value("def area(radius):\n    return 3 * radius")
        other.select(tuned)
        app.button[-1].click()
        run(app)
        assert not app.error, said(app)
        text = html(app)
        assert text.count('aria-label="your text, shaded by activation"') == 4, "two features in two models"
        readers = [one.value for one in app.caption if ": peak" in said_of(one.value) or "silent on" in one.value]
        assert len(readers) == 4
        assert sum("tuned" in one for one in readers) == 2


def said_of(text: str) -> str:
    """Markdown without its escapes."""
    return text.replace("\\", "")
