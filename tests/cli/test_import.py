"""``raylens import delphi``: another pipeline's cache becomes one like any other, or nothing at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from delphi_folder import (
    CTX_LEN,
    D_SAE,
    LOUD,
    NEGATIVE,
    RETURN,
    SELF,
    TWIN,
    DelphiFolder,
    answers,
    pico_tokenizer,
    write_delphi,
)
from raylens.config import ExampleConfig
from raylens.explain.lexical import explain_lexically
from raylens.ids import SaeId
from raylens.store.example_reader import ExampleReader, Unusable
from raylens.store.reader import CacheReader
from raylens.store.sql import query
from raylens.store.workspace import Workspace

Raylens = Callable[..., Any]
SAE = SaeId.parse("delphi/some-one/sae-pico/layers.3")


@dataclass(frozen=True)
class Imported:
    source: DelphiFolder
    url: str
    figures: dict[str, Any]

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return query(Workspace.open(self.url), sql).table.to_pylist()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DelphiFolder:
    return write_delphi(tmp_path_factory.mktemp("delphi") / "run", ("layers.3", "layer_1/width_24/l0_9"))


@pytest.fixture(scope="module")
def imported(source: DelphiFolder, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    """Both hookpoints in a workspace; tests only read it."""
    from raylens.store.runs import RunJournal
    from raylens_jobs.delphi_plan import plan_import
    from raylens_jobs.import_delphi import run_import

    workspace = Workspace.open(tmp_path_factory.mktemp("imported") / "workspace", create=True)
    plan = plan_import(source.root, name="from-delphi")
    with RunJournal.start(workspace.files, "import", {}) as journal:
        figures = run_import(plan, workspace, journal, lambda *_: None)
    return Imported(source, workspace.url, figures)


def test_every_activation_is_the_one_that_delphi_stored(imported: Imported) -> None:
    """Value by value against what the folder was made from."""
    for hookpoint, sae in (("layers.3", str(SAE)), ("layer_1/width_24/l0_9", str(SAE)[:-8] + "layer_1/width_24/l0_9")):
        places = imported.source.places[hookpoint]
        expected = {place: min(float(np.float16(min(value, 65504))), 65504.0) for place, value in places.items()}
        expected = {place: value for place, value in expected.items() if value > 0}
        found = imported.rows(f"SELECT window_id, position, feature, activation FROM activations WHERE sae = '{sae}'")
        assert {(row["window_id"], row["position"], row["feature"]): row["activation"] for row in found} == expected
        assert len(found) == len(expected) > 50
    n_loud = sum(place[2] == LOUD for places in imported.source.places.values() for place in places)
    n_negative = sum(place[2] == NEGATIVE for places in imported.source.places.values() for place in places)
    assert (imported.figures["clipped"], imported.figures["dropped"]) == (n_loud, n_negative)
    assert n_loud > 0 < n_negative


def test_text_is_what_the_tokens_spell_and_documents_end_at_separators(imported: Imported) -> None:
    tokenizer, tokens = pico_tokenizer(), imported.source.tokens
    windows = imported.rows("SELECT * FROM windows ORDER BY window_id")
    assert len(windows) == len(tokens) == imported.figures["windows"]
    starts = np.flatnonzero(tokens.ravel() == tokens[0, 0])  # each document begins with BOS
    for row, window in zip(tokens, windows, strict=True):
        assert window["token_ids"] == row.tolist()
        assert window["text"] == tokenizer.decode(row.tolist(), skip_special_tokens=True)
        begin = window["window_id"] * CTX_LEN
        own = np.searchsorted(starts, begin, side="right") - 1
        first_of_own = next(one["window_id"] for one in windows if one["doc_id"] == window["doc_id"]) * CTX_LEN
        assert np.searchsorted(starts, first_of_own, side="right") - 1 == own, "rows of one document, and no other"
    n_special = int((tokens == tokens[0, 0]).sum())
    [total] = imported.rows("SELECT sum(n_tokens) AS n, count(*) AS documents FROM documents")
    assert total["n"] == tokens.size - n_special
    assert total["documents"] == imported.figures["documents"] > 10


def test_statistics_leave_separators_out(imported: Imported) -> None:
    [row] = imported.rows(f"SELECT * FROM feature_stats WHERE sae = '{SAE}' AND feature = {RETURN}")
    n = sum(place[2] == RETURN for place in imported.source.places["layers.3"])
    n_text = int((imported.source.tokens != imported.source.tokens[0, 0]).sum())
    assert (row["n_active"], row["density"]) == (n, pytest.approx(n / n_text))
    assert imported.rows(f"SELECT count(*) AS n FROM feature_stats WHERE sae = '{SAE}'") == [{"n": D_SAE}]
    twins = imported.rows(f"SELECT feature, other, jaccard FROM cofiring WHERE sae = '{SAE}' ORDER BY feature")
    assert twins == [
        {"feature": RETURN, "other": TWIN, "jaccard": 1.0},
        {"feature": TWIN, "other": RETURN, "jaccard": 1.0},
    ]


def test_browsing_shows_it_like_any_other(raylens: Raylens, imported: Imported) -> None:
    listed = raylens(imported.url, "features", "--sae", str(SAE))
    assert listed.code == 0
    assert "cache " in listed.out.splitlines()[0]
    assert "(from-delphi)" in listed.out.splitlines()[0]
    assert {line.split()[0] for line in listed.out.splitlines()[3:]} == {f"f_3_{f}" for f in (RETURN, TWIN, SELF, LOUD)}
    shown = raylens(imported.url, "feature", f"f_3_{RETURN}", "-n", "3")
    assert "«return»(8.00)" in shown.out
    assert "The word return, naïve [an/llm] F1 0.75" in shown.out
    [hit, *_] = raylens(imported.url, "features", "--search", "the word return", "--sae", str(SAE), "--json").document
    assert (hit["id"], hit["explainer"]) == (f"f_3_{RETURN}", "delphi")


def test_explanations_and_scores_are_passes_of_their_own(imported: Imported) -> None:
    said = imported.rows(f"SELECT * FROM explanations WHERE sae = '{SAE}' ORDER BY feature")
    assert [(row["feature"], row["explanation"], row["status"]) for row in said] == [
        (RETURN, "The word return, naïve", "ok"),
        (SELF, "self", "ok"),
        (LOUD, None, "failed"),
    ]
    assert {(row["explainer"], row["model"]) for row in said} == {("delphi", "an/llm")}
    assert said[2]["error"] == "delphi could not parse the reply"
    scores = imported.rows(f"SELECT * FROM scores WHERE sae = '{SAE}' AND feature = {RETURN} AND scorer = 'fuzz'")
    values = {row["metric"]: row for row in scores}
    assert {name: values[name]["value"] for name in ("precision", "recall", "f1", "balanced_accuracy")} == {
        "precision": 0.75,
        "recall": 0.75,
        "f1": 0.75,
        "balanced_accuracy": 0.75,
    }
    assert {(row["n"], row["n_failed"], row["explanation_id"]) for row in scores} == {(8, 2, said[0]["explanation_id"])}
    assert "auc" not in values, "no probabilities were asked for"
    assert {row["feature"] for row in imported.rows("SELECT DISTINCT feature FROM scores")} == {RETURN, SELF}
    assert imported.figures["scores"] == {"detection": 4, "fuzz": 4}
    assert (imported.figures["explanations"], imported.figures["unparsed"]) == (4, 2)


def test_explainers_work_on_it(imported: Imported) -> None:
    config = ExampleConfig(min_examples=10, n_examples_train=20, n_examples_test=10, n_non_activating=20)
    reader = CacheReader(Workspace.open(imported.url), "from-delphi")
    [(_, sets), (_, dead)] = ExampleReader(reader, SAE, config).sets([RETURN, 0])
    assert isinstance(dead, Unusable)
    assert not isinstance(sets, Unusable)
    assert {one.doc_id for one in sets.train}.isdisjoint(one.doc_id for one in sets.test)
    found = explain_lexically(sets)
    assert found is not None
    assert "return" in found.phrase


def test_importing_again_changes_nothing_and_more_adds_to_it(
    raylens: Raylens, source: DelphiFolder, own_workspace: Workspace
) -> None:
    url = own_workspace.url

    def imported(*words: str) -> dict[str, Any]:
        done = raylens(url, "import", "delphi", str(source.root), "--json", *words)
        assert done.code == 0, done.err
        return done.document

    def found() -> pa.Table:
        names = "window_id, position, feature, activation, sae"
        return query(own_workspace, f"SELECT {names} FROM activations ORDER BY ALL").table

    first = imported("--hookpoint", "layers.3", "--name", "mine")
    assert first["saes"] == [str(SAE)]
    before = found()
    again = imported("--hookpoint", "layers.3")
    assert {**again, "run_id": "", "seconds": 0} == {**first, "run_id": "", "seconds": 0}
    assert found().equals(before)
    assert own_workspace.cache(first["cache_id"]).name() == "mine"
    both = imported("--hookpoint", "layer_1/width_24/l0_9", "--sae", "known/layer_1")
    assert both["cache_id"] == first["cache_id"]
    assert set(found()["sae"].to_pylist()) == {str(SAE), "known/layer_1"}
    assert raylens(url, "feature", f"f_1_{SELF}", "-n", "1").code == 0
    [run, *_] = raylens(url, "runs", "--json").document
    assert run["kind"] == "import"
    notes = raylens(url, "import", "delphi", str(source.root / "latents"), "--hookpoint", "layers.3").err
    assert "activations were infinite: above 65504" in notes
    assert "negative activations were left out" in notes
    assert "1 explanations could not be parsed by delphi" in notes


# ------------------------------------------------------------------------------------------------ what is refused


def _rewrite(path: Path, **changed: Any) -> None:
    tensors = {**load_file(path), **changed}
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


def _first(source: DelphiFolder) -> Path:
    return source.split("layers.3", 0)


def _unsorted(source: DelphiFolder) -> None:
    locations = load_file(_first(source))["locations"]
    _rewrite(_first(source), locations=np.ascontiguousarray(locations[::-1]))


def _beyond(source: DelphiFolder) -> None:
    locations = load_file(_first(source))["locations"]
    locations[0, 2] = D_SAE
    _rewrite(_first(source), locations=locations)


def _no_number(source: DelphiFolder) -> None:
    values = load_file(_first(source))["activations"]
    values[3] = np.nan
    _rewrite(_first(source), activations=values)


def _other_tokens(source: DelphiFolder) -> None:
    _rewrite(source.split("layers.3", 1), tokens=source.tokens + 1)


def _without_tokens(source: DelphiFolder) -> None:
    for number in (0, 1):
        _rewrite(source.split("layers.3", number), tokens=None)


def _large_tokens(source: DelphiFolder) -> None:
    for number in (0, 1):
        _rewrite(source.split("layers.3", number), tokens=source.tokens + 100_000)


def _explanation(source: DelphiFolder, name: str, text: str) -> None:
    (source.root / "explanations" / name).write_text(text)


def _model(source: DelphiFolder, name: str) -> None:
    path = source.root / "latents/layers.3/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_name": name}))


DAMAGE: dict[str, tuple[Callable[[DelphiFolder], object], str]] = {
    "truncated": (
        lambda one: _first(one).write_bytes(_first(one).read_bytes()[:-100]),
        "0_11.safetensors is not what delphi writes",
    ),
    "no safetensors": (lambda one: _first(one).write_bytes(b"hello"), "0_11.safetensors is not what delphi writes"),
    "a split is missing": (lambda one: _first(one).unlink(), "latents 0 to 11 of layers.3 are missing"),
    "not in order": (_unsorted, "its rows are not in order"),
    "beyond the split": (_beyond, f"latent {D_SAE}, which do not exist"),
    "not a number": (_no_number, "it holds values that are no numbers"),
    "a tensor is missing": (lambda one: _rewrite(_first(one), activations=None), "it has no tensor 'activations'"),
    "shapes differ": (
        lambda one: _rewrite(_first(one), activations=np.zeros(3, np.float16)),
        "and activations [3] do not fit",
    ),
    "other tokens": (_other_tokens, "its tokens are not those of 0_11.safetensors"),
    "no tokens": (_without_tokens, "were saved without tokens"),
    "another vocabulary": (_large_tokens, "and the tokenizer of raylens/pico has 4096 tokens"),
    "no config": (lambda one: (one.root / "latents/layers.3/config.json").unlink(), "config.json is not what"),
    "no such model": (lambda one: _model(one, "no such"), "the tokenizer of no such cannot be loaded"),
    "an explanation is no JSON": (lambda one: _explanation(one, "layers.3_latent3.txt", "{"), "it is not JSON"),
    "an explanation is no text": (lambda one: _explanation(one, "layers.3_latent3.txt", "[]"), "it holds a list"),
    "of another SAE": (lambda one: _explanation(one, "layers.3_latent99.txt", '"x"'), "about latent 99"),
    "a score is no list": (
        lambda one: (one.root / "scores/fuzz/layers.3_latent3.txt").write_text("3"),
        "it holds no list of answers",
    ),
    "empty": (lambda one: shutil.rmtree(one.root / "latents"), "holds no latents that delphi cached"),
    "gone": (lambda one: shutil.rmtree(one.root), "there is no folder"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_or_foreign_folder_is_one_sentence_and_leaves_nothing(
    raylens: Raylens, tmp_path: Path, what: str
) -> None:
    damage, message = DAMAGE[what]
    source = write_delphi(tmp_path / "run", n_rows=60)
    damage(source)
    done = raylens(tmp_path / "workspace", "import", "delphi", str(source.root))
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "workspace").exists()


def test_hookpoints_that_do_not_fit_are_refused(raylens: Raylens, source: DelphiFolder, tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        done = raylens(tmp_path / "workspace", "import", "delphi", *words)
        assert (done.code, done.out) == (2, "")
        return done.err

    assert "has no hookpoint 'layers.4'. hint: there are layer_1/" in refused(
        str(source.root), "--hookpoint", "layers.4"
    )
    assert "--sae names one SAE, and there are 2 hookpoints" in refused(str(source.root), "--sae", "a/b")
    other = write_delphi(tmp_path / "run", ("layers.3", "layers.4"), n_rows=60)
    for number in (0, 1):
        _rewrite(other.split("layers.4", number), tokens=other.tokens[::-1].copy())
    assert "layers.3 and layers.4 were cached from different text" in refused(str(other.root))


def test_a_run_that_fails_midway_leaves_nothing_that_anyone_sees(
    raylens: Raylens, source: DelphiFolder, own_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raylens.errors import DiskFullError
    from raylens_jobs import import_delphi

    def full(*_: Any, **__: Any) -> None:
        raise DiskFullError("the disk is full.", hint="free some.")

    monkeypatch.setattr(import_delphi, "finish_merge", full)
    done = raylens(own_workspace.url, "import", "delphi", str(source.root))
    assert (done.code, done.out) == (1, "")
    assert "the disk is full" in done.err
    assert own_workspace.caches() == ()
    left = [one.path for one in own_workspace.files.scan("caches")]
    assert all("/lock/" in path for path in left)
    monkeypatch.undo()
    assert raylens(own_workspace.url, "import", "delphi", str(source.root)).code == 0


# ------------------------------------------------------------------------------------------------ the parts


def test_documents_without_separators_are_runs_of_rows() -> None:
    from raylens_jobs.delphi_plan import document_ids

    assert document_ids(np.zeros((40, 5), np.bool_)).tolist() == [0] * 16 + [1] * 16 + [2] * 8
    separates = np.zeros((30, 4), np.bool_)
    separates[::2, 2] = True  # a document ends in every second row
    separates[1, 0] = True  # and one begins a row
    number, flat = [], np.flatnonzero(separates.ravel())
    for row in range(30):
        begin = row * 4
        while separates.ravel()[begin]:
            begin += 1
        number.append(int((flat < begin).sum()))
    dense = {value: place for place, value in enumerate(sorted(set(number)))}
    assert document_ids(separates).tolist() == [dense[value] for value in number]


def test_answers_of_every_form_are_read_or_left_out() -> None:
    from raylens_jobs.delphi_findings import score_rows

    found = {row["metric"]: row for row in score_rows(answers()) or ()}
    assert found["f1"]["value"] == 0.75
    with_chances = [{**one, "probability": 0.9 if one["activating"] else 0.2} for one in answers()]
    assert {row["metric"]: row["value"] for row in score_rows(with_chances) or ()}["auc"] == 1.0
    unanswered = [{**one, "prediction": None} for one in answers()]
    rows = score_rows(unanswered)
    assert rows is not None
    assert {(row["value"], row["n"], row["n_failed"]) for row in rows} == {(None, 0, 10)}
    groups = [{"distance": 1, "ev_correlation_score": 0.1}, {"distance": 0, "ev_correlation_score": 0.6}]
    assert [(row["metric"], row["value"]) for row in score_rows(groups) or ()] == [("correlation", 0.6)]
    assert [row["value"] for row in score_rows([{"distance": 0, "ev_correlation_score": "nan"}]) or ()] == [None]
    assert score_rows([{"text": "a", "distance": 1, "similarity": 0.3}]) is None
