"""What people say of features: what stands after any events, who is kept apart, and what SQL sees of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import DamagedFileError, InputError, UnknownNameError
from raylens.ids import FeatureId, SaeId
from raylens.schema import EXPLANATIONS
from raylens.store.findings import Findings
from raylens.store.housekeeping import du
from raylens.store.labels import LABEL_LIMIT, Kind, Labels, Said, checked_text, fold
from raylens.store.manifest import FileEntry, Manifest, new_generation
from raylens.store.sql import query
from raylens.store.workspace import Workspace

SAE, OTHER = SaeId("tiny-res", "layer_3"), SaeId("tiny-res", "layer_1")
FEATURE = FeatureId(SAE, 17)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def rows(workspace: Workspace, sql: str) -> list[dict[str, Any]]:
    return query(workspace, sql).table.to_pylist()


# ------------------------------------------------------------------------------------------------ what stands

_AUTHORS, _FEATURES = ("ann", "bob"), (0, 1)


@st.composite
def histories(draw: st.DrawFn) -> list[Said]:
    kinds: tuple[Kind, ...] = ("label", "unlabel", "star", "unstar", "note", "unnote")
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from(kinds), st.sampled_from(_AUTHORS), st.sampled_from(_FEATURES), st.integers(0, 9)),
            max_size=25,
        )
    )
    return [
        Said(
            event_id=f"e{number}",
            at=EPOCH + timedelta(seconds=number),
            author=author,
            sae=str(SAE),
            feature=feature,
            kind=kind,
            text=f"e{which}" if kind == "unnote" else f"text {number}" if kind in {"label", "note"} else None,
        )
        for number, (kind, author, feature, which) in enumerate(steps)
    ]


@given(histories())
def test_a_fold_says_what_the_last_event_about_each_thing_says(history: list[Said]) -> None:
    """The oracle asks, for every person and feature, which event about it came last."""
    words = fold(history)
    for author in _AUTHORS:
        for feature in _FEATURES:
            own = [event for event in history if (event.author, event.feature) == (author, feature)]
            label = [event.text for event in own if event.kind in {"label", "unlabel"}][-1:] or [None]
            star = [event.kind == "star" for event in own if event.kind in {"star", "unstar"}][-1:] or [False]
            found = words.labels.get((str(SAE), feature, author))
            if label == [None] and star == [False]:
                assert found is None
            else:
                assert found is not None
                assert ([found.label], [found.starred]) == (label, star)
                told = [event.at for event in own if event.kind in {"label", "unlabel", "star", "unstar"}]
                assert found.at in told
    gone = {(event.text, place) for place, event in enumerate(history) if event.kind == "unnote"}
    stand = [
        event.event_id
        for place, event in enumerate(history)
        if event.kind == "note" and not any(name == event.event_id and later > place for name, later in gone)
    ]
    assert list(words.notes) == stand
    assert words.notes_of(SAE) == [*words.notes.values()]
    assert words.notes_of(OTHER) == []


@given(st.text(max_size=LABEL_LIMIT + 20))
def test_a_label_that_is_taken_prints_on_one_line_and_is_the_same_when_taken_again(text: str) -> None:
    try:
        found = checked_text(text, "a label", LABEL_LIMIT)
    except InputError:
        return
    assert 0 < len(found) <= LABEL_LIMIT
    assert found == found.strip() == checked_text(found, "a label", LABEL_LIMIT)
    assert all(character.isprintable() or character in "\u200c\u200d" or character.isspace() for character in found)
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("  ", "must not be empty"),
        ("x" * 301, "may have 300 characters, and this has 301"),
        ("a\x1b[2Jb", r"printable, and this holds U\+001B"),
        ("a\u202eb", r"printable, and this holds U\+202E"),
        ("a\nb", r"printable, and this holds U\+000A"),
        ("a\udc80b", r"printable, and this holds U\+DC80"),
    ],
)
def test_text_that_would_do_harm_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=f"a label .*{why}"):
        checked_text(text, "a label", 300)


def test_scripts_and_emoji_are_fine() -> None:
    for text in ("naïve", "می\u200cخواهم", "👩\u200d💻 code", "日本語"):
        assert checked_text(text, "a label", 300) == text
    assert checked_text("two\r\nlines\t", "a note", 300, lines=True) == "two\nlines"


# ------------------------------------------------------------------------------------------------ in a workspace


def test_each_person_has_a_label_of_their_own_and_notes_add_up(workspace: Workspace) -> None:
    labels = Labels(workspace)
    labels.say(FEATURE, "ann", label="the word return", star=True)
    labels.say(FEATURE, "bob", label="end of a function", note="see also f_3_18")
    labels.say(FEATURE, "ann", label="return at a line's start")
    words = labels.read()
    assert [(one.author, one.label, one.starred) for one in words.labels_of(SAE, 17)] == [
        ("ann", "return at a line's start", True),
        ("bob", "end of a function", False),
    ]
    assert words.labels_of(SAE, 1) == words.labels_of(OTHER) == []
    [note] = words.notes_of(SAE, 17)
    assert (note.author, note.note) == ("bob", "see also f_3_18")
    assert abs((note.at - datetime.now(UTC)).total_seconds()) < 600
    labels.say(FEATURE, "ann", unlabel=True)
    assert [(one.author, one.label, one.starred) for one in labels.read().labels_of(SAE)] == [
        ("ann", None, True),
        ("bob", "end of a function", False),
    ]
    labels.say(FEATURE, "ann", star=False)
    labels.say(FEATURE, "bob", unnote=[note.note_id], unlabel=True)
    words = labels.read()
    assert (words.labels, words.notes) == ({}, {})


def test_nobody_takes_back_what_they_did_not_say(workspace: Workspace) -> None:
    labels = Labels(workspace)
    labels.say(FEATURE, "bob", label="end of a function", note="hm")
    before = labels.read()
    [note] = before.notes.values()
    with pytest.raises(UnknownNameError, match="tiny-res/layer_3/17 has no label of ann") as caught:
        labels.say(FEATURE, "ann", unlabel=True, label="mine")
    assert "labels of bob; --author" in caught.value.hint
    with pytest.raises(UnknownNameError, match="unknown note of ann"):
        labels.say(FEATURE, "ann", unnote=[note.note_id])
    with pytest.raises(InputError, match="a note must not be empty"):
        labels.say(FEATURE, "ann", label="fine", note=" ")
    with pytest.raises(InputError, match="nothing to write"):
        labels.say(FEATURE, "ann")
    assert labels.read() == before, "all of it or nothing"


def hold(workspace: Workspace, cache_id: str, *saes: SaeId) -> None:
    """A cache whose manifest lists these SAEs, and no files."""
    cache = workspace.cache(cache_id)
    entries = tuple(
        FileEntry(kind="map", path=f"{cache.folder}/none.parquet", rows=0, bytes=0, sae=str(sae)) for sae in saes
    )
    manifest = Manifest(generation=new_generation(), created_at=datetime.now(UTC), cache_id=cache_id, entries=entries)
    cache.write_info({"name": None})
    with cache.lock("test") as lock:
        cache.publish(manifest, lock)


def test_sql_sees_labels_notes_and_labels_beside_explanations(workspace: Workspace) -> None:
    assert rows(workspace, "SELECT * FROM labels") == rows(workspace, "SELECT * FROM notes") == []
    hold(workspace, "a" * 16, SAE)
    hold(workspace, "b" * 16, SAE, OTHER)
    labels = Labels(workspace)
    labels.say(FEATURE, "ann", label="the word return", star=True)
    labels.say(FeatureId(OTHER, 2), "bob", star=True, note="why?")
    found = rows(workspace, "SELECT * FROM labels ORDER BY author")
    assert [(one["sae"], one["feature"], one["label"], one["author"], one["starred"]) for one in found] == [
        ("tiny-res/layer_3", 17, "the word return", "ann", True),
        ("tiny-res/layer_1", 2, None, "bob", True),
    ]
    assert {one["source"] for one in found} == {"human"}
    assert found[0]["updated_at"].tzinfo is not None
    [note] = rows(workspace, "SELECT * FROM notes")
    assert (note["sae"], note["feature"], note["note"], note["author"]) == ("tiny-res/layer_1", 2, "why?", "bob")

    pass_ = Findings(workspace.cache("a" * 16), SAE, "explanations", {"explainer": "lexical"})
    said = {"feature": 17, "explanation_id": "e1", "explainer": "lexical", "explanation": "by rule", "status": "ok"}
    pass_.write([17], pa.Table.from_pylist([said], EXPLANATIONS))
    beside = rows(workspace, "SELECT * FROM explanations WHERE feature = 17 ORDER BY cache_id, explainer")
    assert [(one["cache_id"][0], one["explainer"], one["explanation"], one["status"]) for one in beside] == [
        ("a", "human", "the word return", "ok"),
        ("a", "lexical", "by rule", "ok"),
        ("b", "human", "the word return", "ok"),
    ], "once for each cache that holds the SAE"
    assert len({one["explanation_id"] for one in beside}) == 2
    with pytest.raises(InputError, match="explanations by people"):
        query(workspace, 'SELECT * FROM "explanations by people"')
    assert any(usage.kind == "labels" and usage.bytes > 0 for usage in du(workspace))


def test_the_views_have_the_columns_that_were_promised(workspace: Workspace) -> None:
    """The columns of the plan; what follows them may grow."""
    promised = {
        "explanations": "run_id, cache_id, sae, feature, explanation_id, explainer, model, prompt_hash, explanation, "
        "rule, status, error",
        "scores": "run_id, cache_id, sae, feature, explanation_id, explainer, scorer, judge, metric, value, ci_low, "
        "ci_high, n, n_failed",
    }
    for view, columns in promised.items():
        assert rows(workspace, f"SELECT {columns} FROM {view}") == []


def test_a_journal_that_cannot_be_read_is_an_error_that_names_it(workspace: Workspace) -> None:
    Labels(workspace).say(FEATURE, "ann", label="x")
    workspace.files.commit("labels/segments/000000000001.json", b'[{"event_id": "x", "kind": "hum"}]')
    with pytest.raises(DamagedFileError, match=r"labels/segments/000000000001\.json is damaged"):
        query(workspace, "SELECT * FROM labels")
    assert rows(workspace, "SELECT count(*) AS n FROM runs") == [{"n": 0}], "what does not need it goes on"
