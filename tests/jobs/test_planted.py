"""Features that are known: planted in a real model and a real SAE, cached, explained and scored as a user's would be.

The judge who scores them reads: it knows what the words of an explanation say, and looks for that in the texts that
it is shown, so an explanation is worth as much to it as it says, and another feature's as little.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
import pytest

import planted
from fake_llm import FakeLlm
from phrases import read_phrase
from raylens.explain.matching import TokenBatch
from raylens.explain.rule import Rule
from raylens.store.findings import passes
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace
from raylens_app.cli.main import main
from reading_judge import Judge
from truths import Rules

NAMES = list(planted.PLANTED)


@dataclass(frozen=True)
class Explained:
    """What came of it.

    Attributes:
        reader: The cache.
        rows: Explanations, by feature.
        scores: Value by (feature, scorer, metric, control).
        judge: Who was asked.
    """

    reader: CacheReader
    rows: dict[int, dict[str, Any]]
    scores: dict[tuple[int, str, str, str | None], float | None]
    judge: Judge


@pytest.fixture(scope="module")
def explained(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Explained:
    folder = tmp_path_factory.mktemp("planted")
    made = planted.build(folder)
    url = str(folder / "workspace")

    def raylens(*words: str) -> None:
        assert main(["--workspace", url, *words, "--json"]) == 0

    what = ["--model", str(made.model), "--sae", str(made.sae), "--text", str(made.text)]
    raylens("cache", *what, "--n-tokens", "1000000", "--workers", "1", "--shard-windows", "400")
    raylens("explain", "--explainer", "lexical", "--min-examples", "100")
    judge = Judge(Rules(read_phrase, planted.tokenize))
    with FakeLlm(judge) as llm:
        asked = ["--scorer", "rule", "--scorer", "detection", "--num-examples-per-scorer-prompt", "10"]
        raylens("score", *asked, "--judge-model", "fake", "--base-url", llm.base_url)
    workspace = Workspace.open(url)
    reader = CacheReader(workspace, workspace.caches()[0])
    cache, (sae,) = workspace.cache(reader.cache_id), reader.saes
    (explanations,), (scores,) = (passes(cache, sae, kind) for kind in ("explanations", "scores"))
    return Explained(
        reader,
        {row["feature"]: row for row in explanations.read().to_pylist()},
        {(r["feature"], r["scorer"], r["metric"], r["control"]): r["value"] for r in scores.read().to_pylist()},
        judge,
    )


def test_latents_fire_where_they_were_planted_and_nowhere_else(explained: Explained) -> None:
    reader = explained.reader
    doc_id, n_tokens = reader.window_sizes()
    texts = reader.windows(range(len(doc_id)), ["text"])["text"].to_pylist()
    batch = TokenBatch.of(map(planted.tokenize, texts))
    # The prefix is one token; documents are no longer than a window, so that each is one.
    assert np.bincount(batch.excerpts).tolist() == (n_tokens - 1).tolist()
    assert len(set(doc_id.tolist())) == len(doc_id)
    first = np.concatenate([[0], np.cumsum(n_tokens - 1)])
    (sae,) = reader.saes
    for feature, name in enumerate(NAMES):
        window, position, activation = reader.rows(sae, feature)
        fired = np.zeros(len(batch.indices), np.bool_)
        text = position > 0
        fired[first[window[text]] + position[text] - 1] = activation[text] > 0
        assert fired.sum() > 100
        assert np.array_equal(fired, batch.fires(planted.PLANTED[name])), name
    assert explained.rows[planted.DEAD]["status"] == "dead"


@pytest.mark.parametrize("name", NAMES)
def test_the_lexical_explainer_recovers_the_rule(name: str, explained: Explained) -> None:
    row = explained.rows[NAMES.index(name)]
    found, truth = Rule.from_json(row["rule"]), planted.PLANTED[name]
    # Text that was never cached, and the documents of the cache that scorers see.
    batch = TokenBatch.of(map(planted.tokenize, planted.documents(300, seed=99)))
    fired, right = batch.fires(found), batch.fires(truth)
    assert right.sum() > 30
    both = (fired & right).sum()
    assert both / fired.sum() >= 0.95, f"precision of {found}"
    assert both / right.sum() >= 0.95, f"recall of {found}"
    for metric in ("precision", "recall"):
        assert (explained.scores[NAMES.index(name), "rule", metric, None] or 0) >= 0.95, (metric, str(found))


def test_a_judge_who_reads_tells_by_the_own_explanation_and_not_by_anothers(explained: Explained) -> None:
    own, others = (
        [explained.scores[feature, "detection", "balanced_accuracy", control] or 0 for feature in range(planted.DEAD)]
        for control in (None, "shuffled")
    )
    by_name = json.dumps(dict(zip(NAMES, zip(own, others, strict=True), strict=True)), indent=1)
    assert min(own) >= 0.95, by_name
    assert median(others) <= 0.55, by_name
    assert fmean(others) <= 0.55, by_name
    judge = explained.judge
    assert not judge.refused
    phrases = {row["explanation"] for row in explained.rows.values() if row["status"] == "ok"}
    assert {shown.explanation for shown in judge.seen} == phrases
