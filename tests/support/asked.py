"""Commands that explain and score through an endpoint, and what they leave; examples that a judge can be right on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cache_runs import SAE, Made
from fake_llm import FakeLlm
from raylens.config import ExampleConfig
from raylens.examples.excerpt import ExampleSets
from raylens.ids import SaeId
from raylens.store.example_reader import ExampleReader
from raylens.store.findings import passes
from raylens.store.reader import CacheReader
from raylens.store.workspace import Workspace
from reading_judge import Judge
from truths import Table

FEW = ExampleConfig(min_examples=20, n_examples_train=10, n_examples_test=12, n_non_activating=12)
EXPLAIN = ["explain", "--sae", SAE, "--min-examples", "20", "--n-examples-train", "10", "--n-non-activating", "12"]
SCORE = ["score", "--sae", SAE, "--n-examples-test", "12", "--n-non-activating", "12"]
CHAT_SCORERS = ("detection", "fuzz", "recall", "simulation", "intruder", "concept")

Run = Callable[..., Any]


def sets_of(undisturbed: Made) -> dict[int, ExampleSets]:
    """Examples of features in which no text occurs twice with different activations: nobody could be right on those."""
    reader = CacheReader(undisturbed.workspace, undisturbed.cache_id)
    found = _sets(reader, FEW, range(0, 400, 4))
    conflicts = _table(reader, found).conflicts
    return {feature: one for feature, one in found.items() if feature not in conflicts}


def judge_of(undisturbed: Made, sets: dict[int, ExampleSets]) -> Judge:
    """One that knows all of them."""
    return Judge(_table(CacheReader(undisturbed.workspace, undisturbed.cache_id), sets))


def _sets(reader: CacheReader, config: ExampleConfig, features: Sequence[int] | range) -> dict[int, ExampleSets]:
    read = ExampleReader(reader, SaeId.parse(SAE), config).sets(features)
    return {feature: one for feature, one in read if isinstance(one, ExampleSets)}


def _table(reader: CacheReader, sets: dict[int, ExampleSets], names: dict[int, str] | None = None) -> Table:
    table = Table(sets, names)
    whole = _sets(reader, FEW.model_copy(update={"center_examples": False}), list(sets))
    for feature, one in whole.items():
        table.add(feature, (*one.test, *one.test_negatives))
    return table


def features(sets: dict[int, ExampleSets], n: int) -> list[str]:
    return [word for feature in list(sets)[:n] for word in ("--feature", str(feature))]


def at(llm: FakeLlm, flag: str = "--explainer-model") -> list[str]:
    return [flag, "fake", "--base-url", llm.base_url]


def scorers(*names: str) -> list[str]:
    return [word for name in names for word in ("--scorer", name)]


def figures(copy: Workspace, control: str | None = None) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of the last scores by scorer and metric."""
    rows = passes(copy.cache(copy.caches()[0]), SaeId.parse(SAE), "scores")[-1].read().to_pylist()
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["control"] == control:
            found.setdefault((row["scorer"], row["metric"]), []).append(row)
    return found


def explain(raylens: Run, llm: FakeLlm, sets: dict[int, ExampleSets], n: int, *more: str) -> dict[str, Any]:
    code, found, err = raylens(*EXPLAIN, "--explainer", "default", *at(llm), *features(sets, n), *more)
    assert code == 0, err
    return found
