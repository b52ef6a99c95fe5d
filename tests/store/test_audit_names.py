"""What sessions and runs may be called, what a session notes, how a run is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from audit_runs import store_run
from raylens.errors import InputError, UnknownNameError
from raylens.store.audit_paths import RunPlace, run_name
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files

PLACE = RunPlace("s", "r")


@pytest.fixture
def store(files: Files) -> AuditStore:
    return AuditStore(files)


@pytest.fixture
def local_store(local_files: Files) -> AuditStore:
    return AuditStore(local_files)


@given(name=st.text(max_size=12))
def test_a_name_is_a_plain_word_or_refused(name: str) -> None:  # A2.16
    try:
        place = RunPlace(name, name)
    except InputError:
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert name[0].isalnum()
    assert name[-1] != "."
    assert place.folder == f"audits/{name}/runs/{name}"
    assert Path(place.folder).resolve().is_relative_to(Path("audits").resolve() / name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "_archive", "-x", "a\\b", "a b", "x.", "a" * 101, "é"])
def test_what_is_no_name_is_refused_wherever_it_is_given(local_store: AuditStore, name: str) -> None:  # A2.16
    for use in (
        lambda: local_store.create_session(name, {}),
        lambda: local_store.log_tool_call(name, {}),
        lambda: local_store.write_run(name, "r", "test"),
        lambda: local_store.write_run("s", name, "test"),
        lambda: local_store.read_run("s", name),
        lambda: local_store.runs(name),
    ):
        with pytest.raises(InputError, match="cannot name a"):
            use()
    assert list(local_store.files.scan()) == []


@given(candidate=st.text(max_size=60), seed=st.integers())
def test_a_derived_name_is_one(candidate: str, seed: int) -> None:
    name = run_name(candidate, {"seed": seed, "candidate": candidate})
    assert RunPlace("s", name).run == name
    assert name == run_name(candidate, {"candidate": candidate, "seed": seed})


def test_a_derived_name_says_which_candidate() -> None:
    made_from = {"k": 20}
    assert run_name("someone/Llama-3.2-1B-tuned", made_from).startswith("Llama-3.2-1B-tuned-")
    assert run_name("/data/fine tunes/v2/", made_from).startswith("v2-")
    assert run_name("…", made_from).startswith("candidate-")
    assert run_name("x", made_from) != run_name("x", {"k": 21})


def test_a_session_notes_what_it_was_asked_for_and_no_secret(store: AuditStore) -> None:  # A2.01, A2.02
    config = {"candidate": "me/tuned", "n_tokens": 5, "hf_token": "hf_" + "x" * 34, "label_url": "https://me:pw@host/"}
    assert store.create_session("s-1", config | {"nested": {"api_key": "sk-1", "k": (1, 2)}}) == "audits/s-1"
    text = store.files.read_bytes("audits/s-1/config_resolved.yaml").decode()
    assert yaml.safe_load(text) == {
        "candidate": "me/tuned",
        "n_tokens": 5,
        "label_url": "https://***@host/",
        "nested": {"k": [1, 2]},
    }
    assert store.config("s-1") == yaml.safe_load(text)
    store.create_session("s-1", {"candidate": "other"})
    assert store.config("s-1") == {"candidate": "other"}
    with pytest.raises(UnknownNameError, match="unknown session 's-2'"):
        store.config("s-2")


def test_a_run_is_found_by_name_and_by_how_it_begins(local_store: AuditStore) -> None:
    for session, run in (("a", "tuned-1f"), ("a", "tuned-2e"), ("b", "tuned-1f"), ("b", "x.y")):
        store_run(local_store, session, run)
    assert local_store.find("a/tuned-1f") == RunPlace("a", "tuned-1f")
    assert local_store.find("tuned-2e") == RunPlace("a", "tuned-2e")
    assert local_store.find("x") == RunPlace("b", "x.y")
    assert local_store.find("tuned-1f", "b") == RunPlace("b", "tuned-1f")
    with pytest.raises(UnknownNameError, match=r"'tuned-1f' names 2 audits\.") as caught:
        local_store.find("tuned-1f")
    assert caught.value.hint == "write one of these: a/tuned-1f, b/tuned-1f."
    with pytest.raises(UnknownNameError, match="unknown audit 'tuned-9'"):
        local_store.find("tuned-9")
    with pytest.raises(UnknownNameError):
        local_store.find("")
    assert RunPlace.parse("a/tuned-1f") == RunPlace("a", "tuned-1f")
    with pytest.raises(InputError, match="names no run"):
        RunPlace.parse("tuned-1f")
