"""Audits: the list with its filters, and the form that has one made by the services."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app_here import app_on, page, run, said
from audit_pages import EVIL, SHAPES, made_audit, store_made
from audit_runs import store_run
from audits_here import TOKEN, audit_app
from job_api import JobApi, job_api
from raylens.api.audit_request import AuditRequest
from raylens.audit.calibration import smallest_p
from raylens.net.api_token import VARIABLE
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_app.web.audit.command import audit_command, command_of
from raylens_serve.job_submission import Jobs
from raylens_serve.label_server import LabelServer


@pytest.fixture
def audited(empty: Workspace) -> Workspace:
    """Three audits: one flagged, one not, one that was interrupted; and one whose decision is damaged."""
    store = AuditStore(empty.files)
    store_run(store, "first", "bad", score=0.5)
    store_run(store, "first", "good", score=0.05)
    with store.write_run("second", "half", "test"):
        pass
    store_run(store, "second", "torn", score=0.5)
    empty.files.commit(RunPlace("second", "torn").file("decision.json"), b"{")
    return empty


def audits(**params: str) -> AppTest:
    return page("audits", **params)


def rows(app: AppTest) -> dict[str, str]:
    """Verdict or state by run."""
    table = app.dataframe[0].value
    return dict(zip(table["run"], table["verdict"], strict=True))


# A4.03: a Streamlit front end browses audit diffs.
def test_the_list_has_verdicts_p_values_and_what_was_audited(audited: Workspace) -> None:
    app = audits()
    assert rows(app) == {
        "bad": "▲ flagged",
        "good": "○ not flagged",
        "half": "– unfinished",
        "torn": "! damaged",
    }
    table = app.dataframe[0].value.set_index("run")
    assert table.loc["bad", "p"] == pytest.approx(smallest_p(100))
    assert table.loc["bad", "n"] == 100
    assert table.loc["bad", "candidate"] == "candidate-7"
    assert table.loc["bad", "suite"] == "minimal"
    assert table.loc["good", "p"] > 0.5
    assert table.loc["half", "p"] != table.loc["half", "p"], "an unfinished one has none"


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"verdict": "flagged"}, {"bad"}),
        ({"verdict": "unfinished"}, {"half"}),
        ({"of_session": "second"}, {"half", "torn"}),
        ({"find": "CANDIDATE-7 good"}, {"good"}),
        ({"find": "first/"}, None),
        ({"verdict": "nonsense"}, {"bad", "good", "half", "torn"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_the_address_says_which(audited: Workspace, params: dict[str, str], expected: set[str] | None) -> None:
    app = audits(**params)
    if expected is None:
        assert "No audit is like that." in said(app)
    else:
        assert set(rows(app)) == expected


def test_an_empty_workspace_says_how_an_audit_is_made(empty: Workspace) -> None:
    text = said(audits())
    assert "No fine-tune has been audited yet." in text
    assert f"raylens --workspace {empty.url} audit run --candidate FOLDER" in text


def test_texts_of_others_are_cells_and_nothing_else(empty: Workspace) -> None:
    store_made(empty, made_audit(text=EVIL))
    store_made(empty, made_audit(run="r2", text=SHAPES))
    app = audits()
    assert EVIL in set(app.dataframe[0].value["candidate"])
    shown = next(one for one in app.dataframe[0].value["candidate"] if "right to left" in one)
    assert "⟨U+202E⟩" in shown
    assert "\u202e" not in shown


def test_without_services_the_form_says_what_starts_them_and_the_command_that_needs_none(empty: Workspace) -> None:
    app = audits(do="start an audit")
    start = next(one for one in app.button if one.label == "Start the audit")
    assert start.disabled, "there is no candidate yet"
    app.text_input(key="ask-candidate").set_value("my adapter")
    run(app)
    assert app.checkbox(key="ask-search").disabled, "trigger_search gives no verdict without it"
    app.selectbox(key="ask-method").select("logit_kl")
    run(app)
    app.checkbox(key="ask-search").uncheck()
    run(app)
    options = "--candidate 'my adapter' --score-method logit_kl --no-trigger-search"
    assert f"raylens --workspace {empty.url} audit run {options}" in [one.value for one in app.code]
    next(one for one in app.button if one.label == "Start the audit").click()
    run(app)
    assert "The services do not answer at" in said(app)
    assert "serve up --detach" in said(app)


def test_a_request_that_cannot_be_is_refused_before_it_is_sent(empty: Workspace) -> None:
    app = audits(do="start an audit")
    app.text_input(key="ask-candidate").set_value("a\x07b")
    run(app)
    [error] = app.error
    assert "candidate is not valid" in error.value
    assert next(one for one in app.button if one.label == "Start the audit").disabled


@pytest.fixture
def services(empty: Workspace, tmp_path: Path) -> Iterator[JobApi]:
    """The routes of audits and runs over HTTP, whose jobs go to a stand-in of Ray's."""
    with job_api() as api:
        jobs = Jobs(empty, base=tmp_path, address="10.0.0.1:6379", dashboard=api.url)
        with LabelServer(audit_app(empty, jobs)) as server, app_on(empty.url, server.url.removesuffix("/api")):
            os.environ[VARIABLE] = TOKEN
            yield api


def test_an_audit_is_started_watched_and_read(empty: Workspace, services: JobApi, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    app = audits(do="start an audit")
    app.text_input(key="ask-candidate").set_value("adapter")
    run(app)
    next(one for one in app.button if one.label == "Start the audit").click()
    run(app)
    [run_id] = services.jobs
    assert f"--candidate={tmp_path / 'adapter'}" in services.jobs[run_id]["entrypoint"]
    assert "--suite=minimal" in services.jobs[run_id]["entrypoint"]
    assert app.query_params["watch"] == run_id
    app = audits(watch=run_id)
    assert "queued" in said(app), "the address alone restores it"
    with RunJournal.start(empty.files, "audit", {}, run_id=run_id) as journal:
        journal.progress(done=9, total=36)
        journal.beat()
        assert [one.proto.text for one in audits(watch=run_id).get("progress")] == [  # pyright: ignore[reportAttributeAccessIssue]
            "pieces\\: 9 of 36"
        ]
        store_run(AuditStore(empty.files), "default", "mine", score=0.5)
        journal.finish({"session": "default", "run": "mine"})
    app = audits(watch=run_id)
    [link] = [one.proto for one in app.get("page_link") if "Read audit" in one.proto.label]  # pyright: ignore[reportAttributeAccessIssue]
    assert (link.page, link.query_string) == ("audit", "run=default%2Fmine")
    assert not app.button(key="watch-close").disabled


def test_a_run_that_fails_says_why_and_what_to_do(empty: Workspace, services: JobApi) -> None:
    journal = RunJournal.start(empty.files, "audit", {})
    journal.fail("the [disk](http://x) is full. free some.")
    app = audits(watch=journal.run_id)
    assert "the [disk](http://x) is full." in said(app)
    assert "](http" not in app.error[0].value, "what a run says is not Markdown"


@pytest.mark.parametrize(
    ("watch", "says"),
    [("no-such-run", "there is no run"), ("../../../etc", "names no run"), ("<script>", "names no run")],
)
def test_an_address_that_names_no_run_is_said(empty: Workspace, services: JobApi, watch: str, says: str) -> None:
    assert says in said(audits(watch=watch))


def test_a_wrong_token_is_said(empty: Workspace, services: JobApi) -> None:
    os.environ[VARIABLE] = "another-token-of-sixteen-characters"
    text = said(audits(watch="audit-1"))
    assert "token" in text
    assert "Traceback" not in text


def test_the_command_that_goes_on_says_all_that_was_asked_for() -> None:
    config = {
        "candidate": "it's here",
        "model": "org/model",
        "sae": "release/id",
        "suite": "minimal",
        "k": 7,
        "texts": ["a b.txt"],
        "dtype": "float32",
        "workers": 2,
        "trigger_search": False,
        "explain": None,
    }
    command = command_of("W", RunPlace("s", "r"), config)
    assert command == (
        "raylens --workspace W audit run --candidate 'it'\"'\"'s here' --reference org/model --sae release/id "
        "--session s --run r --top-k 7 --no-trigger-search --no-explain --dtype float32 --workers 2 --text 'a b.txt'"
    )
    assert command_of("W", RunPlace("s", "r"), {}) is None
    assert command_of("W", RunPlace("s", "r"), {"candidate": "a\nb"}) is None


def test_a_request_with_nothing_unusual_is_a_short_command() -> None:
    assert audit_command("W", AuditRequest(candidate="c", no_sae=True)) == (
        "raylens --workspace W audit run --candidate c --no-sae"
    )
