"""``raylens features --search``: features by what is said of them, by words and by meaning."""

from __future__ import annotations

import builtins
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raylens.errors import InputError
from raylens.ids import FeatureId, SaeId
from raylens.schema import EXPLANATIONS
from raylens.store.findings import Findings
from raylens.store.labels import Labels
from raylens.store.selection import Readable
from raylens.store.workspace import CacheStore, Workspace
from raylens_app.cli.score import last_explained, passes_named

Raylens = Callable[..., Any]
LAYER_1, LAYER_3 = SaeId("tiny-res", "layer_1"), SaeId("tiny-res", "layer_3")
SAID = {
    LAYER_3: {
        0: "the word return at the end of a function",
        1: "self before a dot",
        2: "names of exceptions",
        5: "the word def",
    },
    LAYER_1: {0: "Import statements at the top of a module"},
}


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Callable[..., CacheStore]) -> str:
    """A workspace with explanations of two SAEs, one that failed, and a person's label."""
    workspace = Workspace.open(tmp_path_factory.mktemp("search") / "workspace", create=True)
    cache = tiny_cache(workspace, "c" * 16, saes=(str(LAYER_1), str(LAYER_3)))
    for sae, texts in SAID.items():
        rows = [
            {"feature": feature, "explanation_id": f"id-{feature}", "explainer": "lexical", "explanation": text}
            | {"status": "ok", "created_at": datetime.now(UTC)}
            for feature, text in texts.items()
        ]
        rows.append({"feature": 9, "explainer": "lexical", "status": "failed", "error": "return return return"})
        pass_ = Findings(cache, sae, "explanations", {"explainer": "lexical"})
        pass_.begin()
        pass_.write([*texts, 9], pa.Table.from_pylist(rows, EXPLANATIONS))
    Labels(workspace).say(FeatureId(LAYER_3, 7), "ann", label="Where a file is opened", star=True)
    return workspace.url


def ids(raylens: Raylens, url: str, *arguments: str) -> list[str]:
    return [row["id"] for row in raylens(url, "features", "--json", "--search", *arguments).document]


def test_words_find_what_says_them_in_either_case(raylens: Raylens, explained: str) -> None:
    rows = raylens(explained, "features", "--search", "IMPORT", "--json").document
    first = rows[0]
    assert (first["id"], first["text"], first["explainer"]) == ("f_1_0", SAID[LAYER_1][0], "lexical")
    assert first["words"] > 0
    assert 0 < first["score"] <= 1
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    assert len({row["id"] for row in rows}) == len(rows), "a feature is listed once"
    assert "f_3_9" not in [row["id"] for row in rows], "a failed explanation says nothing"


def test_meaning_finds_what_words_do_not(raylens: Raylens, explained: str) -> None:
    rows = raylens(explained, "features", "--search", "raise an error", "--sae", "layer_3", "--json").document
    assert {row["words"] for row in rows} == {0.0}
    assert rows[0]["id"] == "f_3_2", "names of exceptions"
    assert rows[0]["similarity"] == max(row["similarity"] for row in rows)


def test_labels_of_people_are_found_and_say_whose_they_are(raylens: Raylens, explained: str) -> None:
    first = raylens(explained, "features", "--search", "opened file", "--json").document[0]
    assert (first["id"], first["explainer"], first["author"]) == ("f_3_7", "human", "ann")
    shown = raylens(explained, "features", "--search", "opened file", "--limit", "1")
    assert "Where a file is opened" in shown.out
    assert "human, ann" in shown.out


def test_an_sae_a_density_and_a_page_narrow_it(raylens: Raylens, explained: str) -> None:
    assert ids(raylens, explained, "import", "--sae", "layer_3") != []
    assert all(found.startswith("f_3_") for found in ids(raylens, explained, "import", "--sae", "layer_3"))
    both = ids(raylens, explained, "the word")
    assert both[0] in {"f_3_0", "f_3_5"}
    assert "f_3_5" not in ids(raylens, explained, "the word", "--max-density", "0.9"), "a dead feature fires nowhere"
    assert ids(raylens, explained, "the word", "--limit", "1", "--offset", "1") == both[1:2]
    assert "more; --offset 1 goes on." in raylens(explained, "features", "--search", "the word", "--limit", "1").err


def test_nothing_said_and_nothing_asked(raylens: Raylens, explained: str, tiny_workspace: Path) -> None:
    done = raylens(tiny_workspace, "features", "--search", "return")
    assert (done.code, done.out) == (0, "")
    assert "nothing that is said of a feature fits" in done.err
    done = raylens(explained, "features", "--search", "the word", "--offset", "500")
    assert (done.code, done.out) == (0, "")
    assert "all before --offset 500." in done.err
    done = raylens(explained, "features", "--search", "the word", "--sort", "max")
    assert (done.code, done.out) == (2, "")
    assert "--sort names another order" in done.err
    for query in (" ", "x" * 1001):
        done = raylens(explained, "features", "--search", query)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: a search of ")


def test_without_the_embedding_words_alone_are_searched(
    raylens: Raylens, explained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "raylens.bundle.embedding":
            raise ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    done = raylens(explained, "features", "--search", "import", "--json")
    assert [(row["id"], row["similarity"]) for row in done.document] == [("f_1_0", None)]
    assert "searching by words alone: tokenizers is not installed" in done.err


def test_neither_searching_nor_labelling_needs_the_model_stack(explained: str) -> None:  # A0.20
    program = """
import sys
from raylens_app.cli.main import main
lines = ("features --search word", "label f_3_7", "labels")
codes = [main(["--workspace", sys.argv[1], *words.split()]) for words in lines]
heavy = {"torch", "ray", "transformers", "sae_lens", "interp_engine", "datasets", "sklearn", "sentence_transformers"}
sys.exit(f"loaded: {sorted(heavy & set(sys.modules))}" if heavy & set(sys.modules) else max(codes))
"""
    done = subprocess.run([sys.executable, "-c", program, explained], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Where a file is opened" in done.stdout


def test_scoring_passes_over_a_pass_that_explained_nothing(
    tmp_path: Path, tiny_cache: Callable[..., CacheStore]
) -> None:
    cache = tiny_cache(Workspace.open(tmp_path / "workspace", create=True), "d" * 16, saes=(str(LAYER_3),))
    explained, failed, empty = (Findings(cache, LAYER_3, "explanations", {"explainer": name}) for name in "abc")
    row = {"feature": 1, "explainer": "a", "created_at": datetime.now(UTC)}
    explained.write([1], pa.Table.from_pylist([row | {"status": "ok", "explanation": "self"}], EXPLANATIONS))
    failed.write([1], pa.Table.from_pylist([row | {"status": "failed", "error": "it was empty."}], EXPLANATIONS))
    assert last_explained([explained, failed, empty], None) is explained
    assert last_explained([explained, failed], [1, 2]) is explained
    assert last_explained([explained, failed], [2]) is failed, "which then has nothing to score"


def test_a_pass_is_named_by_how_its_id_begins(tmp_path: Path, tiny_cache: Callable[..., CacheStore]) -> None:
    cache = tiny_cache(Workspace.open(tmp_path / "workspace", create=True), "d" * 16, saes=(str(LAYER_3),))
    known = [Findings(cache, LAYER_3, "explanations", {"explainer": str(number)}) for number in range(40)]
    one = Readable("d" * 16, "", LAYER_3, 3, 16)
    assert passes_named(known, known[3].pass_id, one) == [known[3]]
    assert passes_named(known, None, one) == known
    common = next(first for first in "0123456789abcdef" if sum(p.pass_id.startswith(first) for p in known) > 1)
    with pytest.raises(InputError, match=f"--pass {common} is the beginning of") as refused:
        passes_named(known, common, one)
    several = [each.pass_id for each in known if each.pass_id.startswith(common)]
    assert all(pass_id in str(refused.value.hint) for pass_id in several)
    with pytest.raises(InputError, match="has no explanations of pass nothing"):
        passes_named(known, "nothing", one)
