"""Feature: everything about one, whatever its text holds."""

from __future__ import annotations

from urllib.parse import parse_qs

import pytest
from streamlit.testing.v1 import AppTest

from app_here import charts, html, page, run, said, titles
from explained import explanation, write
from provenances import made_up
from raylens.store.edges import Edges
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, SAE, make_cache

ONE = f"{SAE}/1"


def feature(name: str = ONE, **params: str) -> AppTest:
    return page("feature", id=name, **params)


# A4.03: a Streamlit front end browses features and scores.
def test_the_page_shows_windows_with_exact_activations(browsed: Workspace) -> None:
    app = feature()
    text = html(app)
    assert app.title[0].value == r"f\_3\_1"
    assert app.subheader[0].value == "word two"
    for peak in ("4", "3", "2"):
        assert f'title="{peak}"' in text
    assert text.index("peak 4") < text.index("peak 3")
    assert "lib/3.py · window 3" in text
    assert ">w2 <" in text


@pytest.mark.parametrize(
    ("params", "shown", "hidden"),
    [
        ({"windows": "interval", "low": "2", "high": "3.5"}, ("peak 3", "peak 2"), ("peak 4",)),
        ({"windows": "quantile", "tenth": "10"}, ("peak 4",), ("peak 2",)),
        ({"windows": "random"}, ("peak 4", "peak 3", "peak 2"), ()),
        ({"windows": "interval", "low": "100"}, (), ("peak 4",)),
    ],
)
def test_the_address_says_which_windows(
    browsed: Workspace, params: dict[str, str], shown: tuple[str, ...], hidden: tuple[str, ...]
) -> None:
    text = html(feature(**params))
    assert all(one in text for one in shown)
    assert not any(one in text for one in hidden)


def test_windows_as_text_can_be_copied(browsed: Workspace) -> None:
    app = feature(text="true")
    assert {one.value for one in app.code} == {"w1 w2 w3 w4 w5 "}


def test_it_leads_to_the_workbench_with_the_feature_in_its_form(browsed: Workspace) -> None:
    (link,) = (one.proto for one in feature().get("page_link") if one.proto.label == "Steer from here")  # pyright: ignore[reportAttributeAccessIssue]
    assert "workbench" in link.page
    assert parse_qs(link.query_string) == {"feature": [ONE]}


def test_it_leads_to_neuronpedia_where_the_sae_is_there(browsed: Workspace) -> None:
    make_cache(browsed, cache_id="b" * 16, neuronpedia_id="gpt2-small/3-res-jb")
    assert not feature(cache=CACHE_ID).get("link_button")
    (link,) = (one.proto for one in feature(cache="b" * 16).get("link_button"))  # pyright: ignore[reportAttributeAccessIssue]
    assert (link.label, link.url) == ("View on Neuronpedia", "https://www.neuronpedia.org/gpt2-small/3-res-jb/1")


def test_explanations_stand_with_their_scores_and_details(browsed: Workspace) -> None:
    app = feature(part="explanations")
    assert "requests for the second word" in said(app)
    assert {one.label: one.value for one in app.metric} == {
        "detection f1": "0.75 (0.50–0.90)",
        "surprisal gain": "0.25",
    }
    assert list(app.dataframe[0].value["metric"]) == ["f1", "gain"]


def test_related_features_are_listed_by_how_near_they_are(browsed: Workspace) -> None:
    app = feature(part="related features")
    table = app.dataframe[0].value
    assert list(table["feature"]) == ["f_3_2", "f_3_3"]
    assert next(iter(table["said of it"])) == "harmful words"


def test_activations_can_be_written_behind_their_tokens(browsed: Workspace) -> None:
    assert "rl-value" not in html(feature())
    app = feature(values="true")
    assert next(one for one in app.toggle if one.label == "values").value is True
    assert '<sub class="rl-value">4</sub>' in html(app)


def test_charts_of_activations_and_logits(browsed: Workspace) -> None:
    shown = [titles(one) for one in charts(feature(part="activations and logits"))]
    assert shown == [
        {"Activations of f_3_1 on 3 tokens", "activation (log scale)", "tokens (log scale)"},
        {"Promotes: tokens by logit", "direct effect on the logit"},
        {"Suppresses: tokens by logit", "direct effect on the logit"},
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tiny-res/layer_3/12", "is 12 wide, 0 to 11"),
        ("tiny-res/layer_3/99999999999999999999", "is not a feature id"),
        ("tiny-res/layer_9/1", "unknown SAE"),
        ("f_77_1", "unknown layer"),
        ("f_3_1", "names 2 features"),
        ("<script>alert(1)</script>", "alert"),
        ("[x](http://evil)", "evil"),
    ],
)
def test_a_feature_that_does_not_exist_is_said_and_nothing_breaks(browsed: Workspace, name: str, says: str) -> None:
    app = feature(name)
    [error] = app.error
    assert app.title[0].value == "Feature"
    assert says in said(app)
    assert "<script>" not in error.value
    assert "](" not in error.value, "what was typed is not Markdown"


def test_a_name_of_several_features_is_refused_with_names_of_one(browsed: Workspace) -> None:
    app = page("feature", id="f_3_1")
    (error,) = app.error
    hint = error.value.replace("\\", "").partition("write one of ")[2].rstrip(".")
    names = hint.split(", ")
    assert sorted(names) == ["raylens-pico-res/layer_3/1", "tiny-res/layer_3/1"]
    for name in names:
        assert not page("feature", id=name).error


def test_a_cache_that_does_not_exist_is_said(browsed: Workspace) -> None:
    assert "unknown cache" in said(feature(cache="f" * 16))


def test_another_cache_shows_its_own_figures(browsed: Workspace) -> None:
    make_cache(browsed, cache_id="d" * 16, scale=3.0)
    assert "peak 12" in html(feature(cache="d" * 16))
    assert "peak 12" not in html(feature(cache=CACHE_ID))


def test_a_dead_feature_says_so(browsed: Workspace) -> None:
    app = feature(f"{SAE}/7")
    assert "it is dead here" in said(app)
    assert "It fires in no window like that." in said(app)


def test_previous_and_next_keep_the_rest_of_the_address(browsed: Workspace) -> None:
    app = feature(part="explanations")
    next(one for one in app.button if one.label == "next").click()
    run(app)
    assert app.title[0].value == r"f\_3\_2"
    assert app.query_params["part"] == "explanations"
    assert next(one for one in feature(f"{SAE}/0").button if one.label == "previous").disabled
    assert next(one for one in feature(f"{SAE}/11").button if one.label == "next").disabled


def test_another_feature_can_be_typed(browsed: Workspace) -> None:
    app = feature()
    app.text_input(key="jump").set_value(f"{SAE}/2")
    run(app)
    assert app.title[0].value == r"f\_3\_2"
    assert app.text_input(key="jump").value == ""


def test_labels_stars_and_notes_are_kept_as_the_command_keeps_them(browsed: Workspace) -> None:
    app = feature(part="labels and notes")
    assert "word two" in said(app)
    assert "look at this" in said(app)
    fields = {one.label: one for one in (*app.text_input, *app.text_area)}
    fields["your name"].set_value("bob")
    fields["your label"].set_value("**second** word")
    fields["a note"].set_value("<b>note</b>")
    app.checkbox[0].check()
    next(one for one in app.button if one.label == "Save").click()
    run(app)
    words = Labels(browsed).read()
    by_author = {one.author: one for one in words.labels_of(SAE, 1)}
    assert (by_author["bob"].label, by_author["bob"].starred) == ("**second** word", True)
    assert by_author["ann"].label == "word two", "another's label stays"
    assert [one.note for one in words.notes_of(SAE, 1)] == ["look at this", "<b>note</b>"]
    assert "**second** word" in said(app)
    assert r"\*\*second\*\*" in "".join(one.value for one in app.markdown), "shown, not obeyed"


def test_a_label_without_a_name_is_refused(browsed: Workspace) -> None:
    app = feature(part="labels and notes")
    next(one for one in app.text_input if one.label == "your name").set_value("")
    next(one for one in app.text_input if one.label == "your label").set_value("x")
    next(one for one in app.button if one.label == "Save").click()
    run(app)
    assert len(app.error) == 1


def test_what_an_explainer_wrote_is_never_markup(browsed: Workspace) -> None:
    evil = "<script>alert(1)</script> ![x](http://evil/x.png) $x$ :red[x]"
    write(browsed.cache(CACHE_ID), "evil", [explanation(3, evil, explanation_id="evil")])
    for part in ("windows", "explanations"):
        app = feature(f"{SAE}/3", part=part)
        assert evil in said(app)
        shown = "".join(one.value for kind in (app.markdown, app.subheader) for one in kind)
        assert "](" not in shown
        assert "<script>" not in shown
        assert "<script>" not in html(app)


def test_causes_are_drawn_where_somebody_followed_them_back(browsed: Workspace) -> None:
    app = feature(part="causes")
    assert f"provenance {ONE}" in said(app), "the command that follows it back"
    found = made_up()
    target = found.target.model_copy(update={"sae": str(SAE), "layer": 3, "feature": 1})
    edges = tuple(
        one.model_copy(update={"target": target}) if one.target.key == found.target.key else one for one in found.edges
    )
    Edges(browsed.files).append(
        found.model_copy(update={"target": target, "edges": edges}), cache_id=CACHE_ID, window_id=3
    )
    app = feature(part="causes")
    [frame] = app.get("iframe")
    drawn = frame.proto.srcdoc  # pyright: ignore[reportAttributeAccessIssue]
    assert "default-src &#x27;none&#x27;" in drawn
    assert "What caused f_3_1: 5 edges" in drawn
    assert "Sources over 1 text" in said(app)


def test_a_text_of_ones_own_needs_the_services_and_says_how_they_start(browsed: Workspace) -> None:
    app = feature(part="your text")
    app.text_area(key="own-text-input").set_value("def f(x): return x")
    app.button[-1].click()
    run(app)
    assert "The services do not answer at" in said(app)
    assert f"raylens --workspace {browsed.url} serve up --detach" in said(app)


def test_without_a_name_the_page_says_what_to_write(browsed: Workspace) -> None:
    assert "Name a feature above" in said(page("feature"))
