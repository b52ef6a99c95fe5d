"""Score card: the same figures as the command, spread over features, beside what chance gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

from app_here import charts, page, said
from browsed import PICO_CACHE
from raylens.store.findings import passes
from raylens.store.score_spread import outcomes, scored
from raylens.store.workspace import Workspace
from raylens_app.cli.score_card import score_card
from raylens_app.web.desk import open_desk
from raylens_app.web.settings import AppSettings
from scored import two_explainers
from small_cache import CACHE_ID, SAE, make_cache


@pytest.fixture
def measured(empty: Workspace) -> Workspace:
    """A small cache whose features two explainers looked at."""
    two_explainers(make_cache(empty))
    return empty


def card(**params: str) -> AppTest:
    return page("score_card", **params)


def layers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of a chart."""
    return spec.get("layer", [spec])


def data(app: AppTest, at: int = 0) -> list[dict[str, Any]]:
    """Rows that a chart is drawn from: those that all its layers share, else those of the largest one."""
    shared = app.get("vega_lite_chart")[at].proto.data.data  # pyright: ignore[reportAttributeAccessIssue]
    if shared:
        return pa.ipc.open_stream(shared).read_all().to_pylist()
    return max((one["data"]["values"] for one in layers(charts(app)[at])), key=len)


# A4.03: a Streamlit front end browses features and scores.
def test_the_summary_has_rates_with_intervals_and_n_beside_chance(measured: Workspace) -> None:
    app = card(card_explainer="lexical")
    tiles = {one.label.replace("\\", ""): one.value for one in app.metric}
    assert tiles["above the thresholds (rule)"].startswith("0.50 (0.")
    assert tiles["frequency-weighted F1 (rule)"].startswith("0.71 (")
    assert "n 4 features" in app.metric[0].help.replace("\\", "")
    medians = app.dataframe[0].value.set_index("metric")
    assert medians.loc["f1", "median"] == pytest.approx(0.65)
    assert medians.loc["f1", "shuffled"] == pytest.approx(0.065)
    assert medians.loc["f1", "features"] == 4
    assert "concept scorer" in said(app), "what the good-feature rate needs"


def test_the_page_says_what_the_command_says(measured: Workspace) -> None:
    one = next(each for each in passes(measured.cache(CACHE_ID), SAE, "scores") if len(each.settled()) == 4)
    readable = open_desk(AppSettings.from_environment()).features.readables()[0]
    command = score_card(measured, readable, one.pass_id)
    table = card(card_explainer="lexical").dataframe[0].value
    assert list(table["median"]) == [row["median"] for row in command["figures"]]
    assert list(table["shuffled"]) == [row["shuffled"] for row in command["figures"]]


def test_distributions_count_every_feature_once(measured: Workspace) -> None:
    app = card(card_part="distributions")
    shown = charts(app)
    assert {one["title"]["text"] for one in shown} == {
        "rule f1, lexical explainer",
        "surprisal gain, default explainer",
    }
    f1 = next(at for at, one in enumerate(shown) if "rule" in one["title"]["text"])
    assert "median 0.650" in shown[f1]["title"]["subtitle"][0]
    assert "n = 4 features" in shown[f1]["title"]["subtitle"][0]
    assert shown[f1]["title"]["subtitle"][1].startswith("another feature's: median 0.06")
    rows = data(app, f1)
    assert sum(row["n"] for row in rows if row["of"] == "own explanation") == 4
    assert sum(row["share"] for row in rows if row["of"] == "own explanation") == pytest.approx(1.0)
    titles = {axis["title"] for one in layers(shown[f1]) for axis in one["encoding"].values() if "title" in axis}
    assert {"f1", "share of features"} <= titles
    assert len(charts(card(card_part="distributions", card_metrics="true"))) == 4


def test_precision_and_recall_tell_who_is_above_the_thresholds(measured: Workspace) -> None:
    app = card(card_part="precision and recall")
    [chart] = charts(app)
    assert chart["title"]["subtitle"][0].startswith("2 of n = 4 features")
    rows = data(app)
    assert sum(row["n"] for row in rows) == 4
    assert sum(row["n"] for row in rows if row["is"] == "above the thresholds") == 2


def test_scores_are_split_by_density(measured: Workspace) -> None:
    app = card(card_part="by density")
    assert {row["band"] for row in data(app)} == {"1–10 %", "10–100 %"}
    table = app.dataframe[0].value
    assert list(table["features"]) == [2, 2], "a density of 10 % is in the band that ends there"
    assert list(table["median F1"]) == [pytest.approx(0.3), pytest.approx(0.85)]


def test_failures_are_counted_and_what_they_said_is_a_cell(measured: Workspace) -> None:
    app = card(card_part="failures", card_explainer="lexical")
    fared, unanswered = (one.value for one in app.dataframe)
    assert dict(zip(fared["status"], fared["features"], strict=True)) == {"ok": 4, "too_few": 2, "failed": 1}
    assert "<script>no answer</script>" in set(fared["most often"])
    assert set(unanswered["unanswered"]) == {4}
    assert "<script>" not in "".join(one.value for one in app.markdown)


def test_spreads_and_outcomes_are_what_the_rows_say(measured: Workspace) -> None:
    cache = measured.cache(CACHE_ID)
    found = {len(one.settled()): one for one in passes(cache, SAE, "scores")}
    spread = scored(found[4])
    own = next(one for one in spread.spreads if (one.metric, one.control) == ("f1", None))
    assert sorted(own.values.tolist()) == [0.1, 0.5, 0.8, 0.9]
    assert (own.n_without, own.n_asked, own.n_unanswered) == (0, 80, 4)
    assert np.array_equal(spread.points["rule"][0], [0.95, 0.9, 0.9])
    said = {len(one.settled()): outcomes(one) for one in passes(cache, SAE, "explanations")}
    assert [(one.status, one.n) for one in said[7]] == [("ok", 4), ("too_few", 2), ("failed", 1)]


def test_nothing_scored_says_what_scores(empty: Workspace) -> None:
    make_cache(empty)
    text = said(card())
    assert "Nothing is scored yet." in text
    assert f"raylens --workspace {empty.url} score" in text


def test_a_cache_without_scores_is_not_offered(browsed: Workspace) -> None:
    app = card(card_cache=PICO_CACHE)
    assert list(app.selectbox(key="card_sae").options) == [str(SAE)]


@pytest.mark.parametrize("part", ["summary", "distributions", "precision and recall", "by density", "failures"])
def test_every_part_stands_where_there_is_little(browsed: Workspace, part: str) -> None:
    app = card(card_part=part)
    assert not app.error
    assert app.title[0].value == "Score card"


def test_new_scores_show_at_the_next_look(empty: Workspace) -> None:
    cache = make_cache(empty)
    assert "Nothing is scored yet." in said(card())
    two_explainers(cache)
    assert card(card_explainer="lexical").metric


def test_a_damaged_file_of_scores_is_named(measured: Workspace) -> None:
    cache = measured.cache(CACHE_ID)
    for one in passes(cache, SAE, "scores"):
        for row in one.rows():
            measured.files.commit(row.path, b"PAR1")
    app = card()
    assert len(app.error) == 1
    assert ".parquet" in said(app)
