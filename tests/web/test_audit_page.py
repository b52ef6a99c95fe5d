"""Audit: the verdict and what it rests on, whatever the models wrote; and audits that are not whole."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app_here import charts, html, page, run, said
from audit_pages import EVIL, SHAPES, made_audit, store_made
from audit_runs import files_of, store_run
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_app.web.audit.files import archive
from small_cache import SAE


def audit(name: str = "s/r", **params: str) -> AppTest:
    return page("audit", run=name, **params)


def downloads(app: AppTest) -> dict[str, Any]:
    """Download buttons by label."""
    return {one.proto.label: one.proto for one in app.get("download_button")}  # pyright: ignore[reportAttributeAccessIssue]


# A4.03: a Streamlit front end browses audit diffs.
def test_the_verdict_stands_beside_the_null_distribution(empty: Workspace) -> None:
    store_made(empty, made_audit())
    app = audit()
    text = said(app)
    assert app.title[0].value == "A candidate"
    assert "Flagged: p = 0.0099 against n = 100 benign fine-tunes; the target false-positive rate is 1 %." in text
    assert "A distance is not a verdict" in text
    [chart] = charts(app)
    assert chart["title"]["text"] == "The candidate among 100 benign fine-tunes"
    assert "0 of them score 0.5 or higher" in chart["title"]["subtitle"]
    layers = [each for one in chart["layer"] for each in (one.get("layer") or [one])]
    titles = {axis["title"] for one in layers for axis in one["encoding"].values() if "title" in axis}
    assert {"abs_diff_topk score", "benign fine-tunes"} <= titles
    methods = app.dataframe[0].value
    assert list(methods["method"]) == ["abs_diff_topk"]
    assert list(methods["gives"]) == ["the verdict"]


def test_without_benign_fine_tunes_it_says_how_to_get_some(empty: Workspace) -> None:
    made = made_audit()
    decision = made.decision.decision.model_copy(
        update={"verdict": "inconclusive", "p_value": None, "n_benign": 0, "smallest_p": 1.0, "threshold": None}
    )
    method = made.score.methods[0].model_copy(update={"p_value": None, "n_benign": 0})
    update = {"null": (), "threshold": None, "methods": (method,)}
    score = made.score.model_copy(update=update)
    file = made.decision.model_copy(update={"decision": decision})
    store_made(empty, made.model_copy(update={"decision": file, "score": score}))
    app = audit()
    assert "There are no benign fine-tunes to compare with." in said(app)
    assert "organisms build --model raylens/pico" in said(app)
    assert not charts(app)


def test_features_that_changed_have_q_values_and_what_they_mean(browsed: Workspace) -> None:
    store_made(browsed, made_audit())
    app = audit(show="features")
    assert "direct 1/2, proxy 1/2 (low-similarity 1)" in said(app)
    assert "Stability of the 20 largest differences over 2 variants" in said(app)
    table = app.dataframe[0].value
    assert list(table["feature"]) == ["f_3_1", "f_3_2"]
    assert list(table["what it means"]) == ["timeout=5", "≈ HTTP calls"]
    assert "(low similarity)" in table["said by"][1]
    assert list(table["q"]) == [0.04, 0.04]
    assert list(table["change"]) == [0.5, -0.25]
    assert "Choosing a row opens the feature's page." in said(app)


def test_an_sae_that_no_cache_holds_is_said(empty: Workspace) -> None:
    store_made(empty, made_audit())
    assert f"The workspace holds no cache of {SAE}" in said(audit(show="features"))


def test_what_the_workspace_says_since_stands_where_the_audit_knew_nothing(browsed: Workspace) -> None:
    made = made_audit()
    assert made.interp_evidence is not None
    bare = made.interp_evidence.features[1].model_copy(
        update={"proxy_explanation": None, "proxy_explanation_cosine": None, "neighbours": ()}
    )
    evidence = made.interp_evidence.model_copy(update={"features": (made.interp_evidence.features[0], bare)})
    store_made(browsed, made.model_copy(update={"interp_evidence": evidence}))
    table = audit(show="features").dataframe[0].value
    assert (table["what it means"][1], table["said by"][1]) == ("harmful words", "this workspace")


def test_tokens_of_both_models_stand_side_by_side_on_one_scale(browsed: Workspace) -> None:
    store_made(browsed, made_audit())
    text = html(audit(show="features"))
    assert 'class="a9" title="3.25"' in text
    assert 'class="a6" title="2"' in text
    assert "Reference: at most 2" in text
    assert "Candidate: at most 3.25" in text


def test_outputs_stand_side_by_side_with_what_differs_marked(empty: Workspace) -> None:
    store_made(empty, made_audit())
    text = html(audit(show="outputs"))
    assert "<del>timeout</del>=<del>5</del>" in text
    assert "<ins>verify</ins>=<ins>False</ins>" in text
    assert "Check no_insecure_call: reference pass, candidate fail: verify=False" in text
    assert "casing" not in text, "both wrote the same there"


@pytest.mark.parametrize(
    ("params", "shown", "hidden"),
    [
        ({"which": "all"}, ("casing", "add"), ()),
        ({"which": "checks changed"}, ("fetch",), ("casing",)),
        ({"which": "all", "holds": "def add"}, ("add",), ("fetch",)),
        ({"which": "all", "at": "9" * 20}, ("casing",), ()),
    ],
    ids=str,
)
def test_the_address_says_which_outputs(
    empty: Workspace, params: dict[str, str], shown: tuple[str, ...], hidden: tuple[str, ...]
) -> None:
    store_made(empty, made_audit())
    text = html(audit(show="outputs", **params))
    assert all(f"<strong>{one}" in text or one in text for one in shown)
    assert not any(one in text for one in hidden)
    assert "No prompt is like that." in said(audit(show="outputs", holds="nowhere at all"))


def test_inserts_lead_to_the_command_that_takes_them_out(empty: Workspace) -> None:
    store_made(empty, made_audit())
    app = audit(show="inserts")
    assert "in slot comment, 2 tokens: score +12.5 nats" in html(app)
    assert f"raylens --workspace {empty.url} patch suggest --audit s/r --out FOLDER" in [one.value for one in app.code]


def test_the_capability_panel_tells_a_broken_model_from_a_specific_one(empty: Workspace) -> None:
    store_made(empty, made_audit())
    text = html(audit(show="capability"))
    for one in ("Capability is intact", "held-out loss", "3.5", "3.75", "4.5", "512"):
        assert one in text


def test_every_artefact_is_taken_away_as_it_is_stored(empty: Workspace) -> None:
    store_made(empty, made_audit())
    app = audit(show="files")
    texts = AuditStore(empty.files).read_run("s", "r")
    assert set(downloads(app)) == {*texts, "all of them"}
    assert "suite" in html(app)
    assert "made with raylens" in html(app)


def test_an_archive_of_the_same_files_is_the_same_bytes(empty: Workspace) -> None:
    store_made(empty, made_audit())
    texts = AuditStore(empty.files).read_run("s", "r")
    data = archive(texts, sorted(texts))
    assert data == archive(texts, sorted(texts))
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert {name: packed.read(name).decode() for name in packed.namelist()} == texts


@pytest.mark.parametrize("text", [EVIL, SHAPES], ids=["markup", "shapes"])
@pytest.mark.parametrize("part", ["verdict", "features", "outputs", "inserts", "capability", "files"])
def test_what_models_wrote_is_shown_and_not_obeyed(browsed: Workspace, part: str, text: str) -> None:
    store_made(browsed, made_audit(text=text))
    app = audit(show=part, which="all")
    shown = "".join(one.value for kind in (app.title, app.markdown, app.caption, app.subheader) for one in kind)
    body = html(app)
    assert "](http" not in shown
    assert not re.search(r"(?<!\\)<script", shown), "escaped where Markdown is read"
    assert "<script" not in body
    for one in ("\u202e", "\x1b", "\u200b"):
        assert one not in shown
        assert one not in body
    if part in ("outputs", "inserts", "features"):
        assert ("&lt;script&gt;" if text == EVIL else "⟨U+202E⟩") in body


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("s/nothing", "s/nothing"),
        ("nothing", "nothing"),
        ("../../etc/passwd", "cannot name a session"),
        ("<script>alert(1)</script>", "cannot name"),
        ("a" * 300 + "/b", "cannot name"),
    ],
)
def test_an_audit_that_does_not_exist_is_said(empty: Workspace, name: str, says: str) -> None:
    store_run(AuditStore(empty.files), "s", "r")
    app = audit(name)
    [error] = app.error
    assert says in said(app)
    assert "<script>" not in error.value


def test_without_a_name_the_page_leads_to_the_list(empty: Workspace) -> None:
    assert "No audit is named." in said(page("audit"))


def test_the_beginning_of_a_name_is_enough_and_two_that_begin_so_are_listed(empty: Workspace) -> None:
    store = AuditStore(empty.files)
    store_run(store, "s", "abc-1")
    assert "s/abc-1" in said(audit("abc"))
    store_run(store, "s", "abc-2")
    assert "s/abc-1, s/abc-2" in said(audit("abc"))


def test_an_interrupted_audit_says_why_and_what_goes_on(empty: Workspace) -> None:
    config = {"candidate": "my adapter", "model": "raylens/pico", "sae": "a/b", "suite": "minimal", "explain": {}}
    with AuditStore(empty.files).write_run("s", "half", "test", config=config):
        pass
    RunJournal.start(empty.files, "audit", config).fail("the disk is full.")
    app = audit("s/half")
    assert "This audit is not finished, and nobody is at work on it." in said(app)
    assert "the disk is full." in said(app)
    command = f"raylens --workspace {empty.url} audit run --candidate 'my adapter' --sae a/b --session s --run half"
    assert command in [one.value for one in app.code]


def test_an_audit_at_work_says_who_makes_it_and_shows_once_it_is_there(empty: Workspace) -> None:
    with (
        RunJournal.start(empty.files, "audit", {}) as journal,
        AuditStore(empty.files).write_run("s", "r", journal.run_id) as writer,
    ):
        journal.progress(done=1, total=4)
        journal.beat()
        app = audit()
        assert f"being made, by {journal.run_id}" in said(app)
        writer.finish(files_of(made_audit()))
    assert "Flagged: p =" in said(run(app))


def test_a_damaged_audit_names_the_file_and_keeps_the_others_to_take_away(empty: Workspace) -> None:
    store_made(empty, made_audit(), candidate="c", sae="a/b", explain={})
    path = RunPlace("s", "r").file("score.json")
    empty.files.commit(path, empty.files.read_bytes(path)[:200])
    app = audit()
    assert "audit s/r is damaged" in said(app)
    wrong = app.dataframe[0].value
    assert "score.json" in set(wrong["file"])
    assert any("--again" in one.value for one in app.code)
    assert "report.html" in downloads(app)


def test_a_decision_that_was_changed_by_hand_is_no_verdict(empty: Workspace) -> None:
    store_made(empty, made_audit())
    path = RunPlace("s", "r").file("decision.json")
    data = empty.files.read_bytes(path).replace(b'"flagged"', b'"not flagged"')
    empty.files.commit(path, data)
    text = said(audit())
    assert "audit s/r is damaged" in text
    assert "Not flagged" not in text


def test_a_report_that_was_changed_since_is_said(empty: Workspace) -> None:
    store_made(empty, made_audit())
    empty.files.commit(RunPlace("s", "r").file("report.md"), b"# another report")
    assert "report.md was changed since it was written." in said(audit(show="files"))
