"""Explaining and scoring a real cache: disjoint documents, resumed where it was, and better than chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cache_runs import SAE
from raylens.config import ExplainConfig, ScoreConfig
from raylens.errors import StoppedError
from raylens.explain.rule import Rule
from raylens.ids import SaeId
from raylens.store.findings import passes
from raylens.store.runs import request_stop
from raylens.store.views import connect
from raylens.store.workspace import Workspace

FEATURES = [str(feature) for feature in range(0, 400, 4)]
WORDS = ["--sae", SAE, "--min-examples", "20"]


def chosen(features: list[str]) -> list[str]:
    return [word for feature in features for word in ("--feature", feature)]


def test_features_are_explained_and_scored_on_other_documents(copy: Workspace, raylens: Callable[..., Any]) -> None:
    code, explained, err = raylens("explain", *WORDS, *chosen(FEATURES))
    assert code == 0, err
    assert sum(explained["statuses"].values()) == explained["features"] == 100
    assert explained["statuses"]["ok"] >= 20
    code, scored, err = raylens("score", "--sae", SAE)
    assert code == 0, err
    assert scored["features_total"] == explained["statuses"]["ok"]
    card = {(row["scorer"], row["metric"]): row for row in scored["card"]}
    exact = card["rule", "balanced_accuracy"]
    assert exact["n"] + exact["n_without_value"] == scored["features_total"]
    assert exact["ci_low"] > exact["shuffled"], "a rule says more of its own feature than of another"
    assert abs(exact["shuffled"] - 0.5) < 0.1
    assert card["rule", "f1"]["median"] > 0.5
    with connect(copy) as connection:
        rows = connection.execute(
            """
            SELECT e.feature, e.explanation, e.rule, s.value, s.ci_low, s.ci_high, s.n
            FROM explanations e JOIN scores s USING (cache_id, sae, feature, explanation_id)
            WHERE s.scorer = 'rule' AND s.metric = 'f1' AND s.control IS NULL
            """
        ).fetchall()
    assert len(rows) == scored["features_total"]
    for _, explanation, rule, value, low, high, n in rows:
        assert explanation
        assert str(Rule.from_json(rule))
        assert value is None or (low <= value <= high and 0 < n <= 100)


def test_features_that_were_not_explained_are_named(raylens: Callable[..., Any]) -> None:
    _, explained, _ = raylens("explain", *WORDS, *chosen(FEATURES[:30]))
    assert explained["statuses"]["ok"] >= 5
    code, scored, err = raylens("score", "--sae", SAE, *chosen([*FEATURES[:30], "99999"]))
    assert code == 0, err
    assert len(scored["unexplained"]) == 30 - explained["statuses"]["ok"] + 1
    assert scored["features_total"] == explained["statuses"]["ok"]
    assert 99_999 in scored["unexplained"]


def test_what_is_named_twice_is_done_once() -> None:
    assert ExplainConfig.of({"features": (3, 1, 3)}).features == (3, 1)
    config = ScoreConfig.of({"scorers": ("rule", "embedding", "rule"), "features": (5, 5)})
    assert (config.scorers, config.features) == (("rule", "embedding"), (5,))


def test_a_rerun_does_what_is_missing(copy: Workspace, raylens: Callable[..., Any]) -> None:
    _, first, _ = raylens("explain", *WORDS, *chosen(FEATURES[:10]))
    _, second, _ = raylens("explain", *WORDS, *chosen(FEATURES[:20]))
    assert (first["features"], second["features"]) == (10, 10)
    assert first["pass_id"] == second["pass_id"]
    _, other, _ = raylens("explain", *WORDS, "--seed", "5", *chosen(FEATURES[:10]))
    assert other["features"] == 10
    assert other["pass_id"] != first["pass_id"]
    whole = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations")
    assert {one.pass_id: len(one.settled()) for one in whole} == {first["pass_id"]: 20, other["pass_id"]: 10}


def test_a_stopped_run_keeps_its_batches(
    copy: Workspace, raylens: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from raylens_jobs import explain as job

    def stop(journal: Any, *_: Any, plain: Callable[..., None] = job.RunJournal.progress, **values: Any) -> None:
        plain(journal, **values)
        if values.get("features"):
            request_stop(copy.files, journal.run_id)
            journal.beat()

    monkeypatch.setattr(job.RunJournal, "progress", stop)
    code, _, err = raylens("explain", *WORDS, *chosen(FEATURES))
    assert code == StoppedError.exit_code
    assert "run the same command again" in err
    monkeypatch.undo()
    (found,) = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "explanations")
    kept = len(found.settled())
    assert 0 < kept < 100
    _, rest, _ = raylens("explain", *WORDS, *chosen(FEATURES))
    assert rest["features"] == 100 - kept


def test_what_cannot_be_done_is_one_sentence(raylens: Callable[..., Any], copy: Workspace) -> None:
    for words, says in (
        (["score", "--sae", SAE], "run raylens explain first"),
        (["explain"], "add --sae"),
        (["explain", "--sae", "layer_9"], "unknown SAE"),
        (["explain", "--sae", SAE, "--feature", "99999"], "features of this SAE are 0 to"),
        (["explain", "--sae", SAE, "--explainer", "oracle"], "'oracle' is not one of"),
        (["explain", "--sae", SAE, "--example-ctx-len", "2"], "example_ctx_len is not valid"),
    ):
        code, out, err = raylens(*words)
        assert (code, out) == (2, None)
        assert says in err
        assert err.count("error: ") == 1
    assert not list(copy.files.scan(f"caches/{copy.caches()[0]}/findings"))
