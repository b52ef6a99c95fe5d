"""Features: sorted, filtered, searched and paged where they are stored."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app_here import app_on, charts, html, page, points, run, said, titles
from browsed import PICO_CACHE
from raylens import schema
from raylens.ids import FeatureId
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, SAE, make_cache
from wide_cache import make_wide_cache


def rows(app: AppTest) -> list[str]:
    return list(app.dataframe[0].value["feature"])


def listed(**params: str) -> AppTest:
    return page("features", from_cache=CACHE_ID, **params)


# A4.03: a Streamlit front end browses features and scores.
def test_a_page_of_features_has_what_is_said_and_scored_and_the_shape_of_each(browsed: Workspace) -> None:
    table = listed(sort="score").dataframe[0].value
    first = table.iloc[0]
    assert (first["feature"], first["said"], first["bucket"]) == ("f_3_1", "word two", "unknown")
    assert first["detection f1"] == "0.75 (0.50–0.90)"
    assert first["surprisal gain"] == "0.25"
    assert first["density"] == pytest.approx(100 * 3 / 20)
    assert max(first["activations"]) == 1.0
    assert len({len(one) for one in table["activations"]}) == 1, "one scale for the page"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"sort": "density"}, ["f_3_0", "f_3_1", "f_3_2", "f_3_3"]),
        ({"sort": "density", "order": "up", "fires": "yes"}, ["f_3_3", "f_3_2", "f_3_1", "f_3_0"]),
        ({"sort": "index", "order": "up", "min_density": "0.12"}, ["f_3_0", "f_3_1"]),
        ({"max_density": "0.06", "fires": "yes"}, ["f_3_3"]),
        ({"said": "yes", "sort": "score"}, ["f_3_1", "f_3_2"]),
        ({"min_score": "0.5", "sort": "index", "order": "up"}, ["f_3_1", "f_3_2"]),
        ({"bucket": "safety"}, ["f_3_2"]),
    ],
)
def test_the_address_says_which_features_and_in_which_order(
    browsed: Workspace, params: dict[str, str], expected: list[str]
) -> None:
    assert rows(listed(**params))[: len(expected)] == expected


def test_dead_features_can_be_left_out_or_looked_for(browsed: Workspace) -> None:
    assert len(rows(listed(fires="never"))) == 8
    assert len(rows(listed(fires="yes"))) == 4


def test_a_search_finds_what_is_said_and_obeys_the_filters(browsed: Workspace) -> None:
    app = listed(q="harmful", mode="words")
    assert rows(app) == ["f_3_2"]
    assert rows(listed(q="requests second word", min_density="0.12")) == ["f_3_1"]
    app = listed(q="harmful", mode="words", min_density="0.5")
    assert "Nothing that is said of a feature fits." in said(app)


def test_a_search_by_meaning_runs_here_in_numpy(browsed: Workspace) -> None:
    app = listed(q="dangerous text")
    assert set(app.dataframe[0].value.columns) >= {"fits", "meaning"}


def test_other_filters_begin_at_the_first_page(browsed: Workspace) -> None:
    app = listed(page="1")
    app.selectbox(key="sort").select("index")
    app.segmented_control(key="order").set_value("up")
    run(app)
    assert rows(app) == [f"f_3_{index}" for index in range(12)]


@pytest.mark.parametrize(
    "params",
    [{"page": "77"}, {"page": "-1"}, {"page": "a"}, {"page": "9" * 30}, {"sort": "nonsense"}, {"min_density": "x"}],
    ids=str,
)
def test_what_an_address_cannot_mean_is_left_out(browsed: Workspace, params: dict[str, str]) -> None:
    assert len(rows(listed(**params))) == 12


def test_names_that_are_nothing_are_refused_with_what_there_is(browsed: Workspace) -> None:
    # The widget offers what is there, so a stale address falls back to that.
    assert rows(page("features", from_cache="0" * 16, sae="no-such-sae"))


def test_a_starred_feature_has_a_star(browsed: Workspace) -> None:
    Labels(browsed).say(FeatureId(SAE, 2), "ann", star=True)
    assert "f_3_2 ★" in rows(listed())


def test_two_sessions_do_not_see_each_others_state(browsed: Workspace) -> None:
    one, other = listed(q="harmful", mode="words"), listed()
    assert rows(one) == ["f_3_2"]
    assert len(rows(run(other))) == 12
    assert rows(run(one)) == ["f_3_2"]


def test_charts_say_what_they_show_or_what_is_missing(browsed: Workspace) -> None:
    [chart] = charts(listed(view="scatter"))
    assert titles(chart) == {
        "Density × F1",
        "density (share of tokens, log scale)",
        "F1 of the best explanation, mean over scorers",
        "bucket",
    }
    mapped = listed(view="map")
    [chart] = charts(mapped)
    assert titles(chart) == {f"Decoder directions of {SAE}", "t-SNE 1 (no unit)", "t-SNE 2 (no unit)", "bucket"}
    places = points(mapped)
    assert {*zip(places["name"], places["x"], places["y"], strict=True)} >= {("f_3_1", 1.0, 0.0), ("f_3_6", 2.0, 1.0)}
    assert "There is no map of these features." in said(page("features", from_cache=PICO_CACHE, view="map"))


def test_a_map_that_is_of_principal_components_says_so(browsed: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MAP_BY_TSNE", 4)
    [chart] = charts(listed(view="map"))
    assert {"principal component 1 (no unit)", "principal component 2 (no unit)"} <= titles(chart)
    assert "near ones need not write alike" in json.dumps(chart)


def test_a_merge_under_an_open_page_is_seen_some_seconds_later(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path, create=True)
    make_cache(workspace)
    with app_on(workspace.url):
        table, mapped = listed(sort="largest activation"), listed(view="map")
        feature = page("feature", id="f_3_1")
        assert list(table.dataframe[0].value["maximum"][:4]) == [4.0] * 4
        assert "There is no map of these features." in said(mapped)
        assert 'title="4"' in html(feature)
        make_cache(workspace, shard_name="abd", scale=3.0, mapped=True)
        until = time.monotonic() + 30
        while list(run(table).dataframe[0].value["maximum"][:4]) != [12.0] * 4:
            assert time.monotonic() < until
            time.sleep(0.2)
        assert len(points(run(mapped))["x"]) == 12
        assert 'title="12"' in html(run(feature))


def test_a_million_features_are_paged_where_they_are_stored(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path, create=True)
    make_wide_cache(workspace, 1_000_000)
    with app_on(workspace.url):
        app = page("features", sort="largest activation", rows="25")
        assert "1 to 25 of 1,000,000 features" in said(app)
        # Activations are rounded, so the strongest few are equal.
        assert all(int(name.rpartition("_")[2]) > 990_000 for name in rows(app)[:3])
        last = page("features", sort="index", order="up", page="20000", rows="50")
        assert rows(last)[-1] == "f_3_999999"
        assert "1 to 50 of 5,000 features" in said(page("features", fires="yes"))
