"""What is known of features: kept, merged, found again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from neuronpedia import SOURCE, explanation, page
from raylens.errors import InputError
from raylens.labels.explanations import Page, read_page
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.store import label_rolling
from raylens.store.label_cache import LabelFolder
from raylens.store.sql import query
from raylens.store.views import connect
from raylens.store.workspace import Workspace

OTHER = NeuronpediaId("gemma-2-2b", "12-gemmascope-res-16k")


def read(index: int, *explanations: dict, **more: Any) -> Page:
    return read_page(page(index, *explanations, **more), SOURCE, index)


def texts(store: LabelStore, index: int) -> list[str]:
    return sorted(one.description for one in store.look(SOURCE, [index])[index].explanations)


def test_what_is_put_is_known_at_once_and_in_the_next_process(workspace: Workspace, store: LabelStore) -> None:
    assert store.look(SOURCE, [3])[3].status == "unknown"
    assert store.page(SOURCE, 3) is None
    assert store.sources() == []
    store.put_page(SOURCE, 3, read(3, explanation("three")), "remote")
    store.put_missing(SOURCE, 4, "remote")
    store.put_page(SOURCE, 5, read(5), "remote")

    def check(one: LabelStore) -> None:
        known = one.look(SOURCE, [3, 4, 5, 6])
        assert [known[index].status for index in (3, 4, 5, 6)] == ["ok", "missing", "ok", "unknown"]
        assert texts(one, 3) == ["three"]
        assert known[5].explanations == ()
        assert one.explained(SOURCE).tolist() == [3]
        found = one.page(SOURCE, 3)
        assert found is not None
        assert found["index"] == "3"
        assert found["pos_values"] == [1.5, 1.0]
        assert [it["description"] for it in found["explanations"]] == ["three"]
        empty = one.page(SOURCE, 5)
        assert empty is not None
        assert empty["explanations"] == [], "A2.11: every feature has the array"
        assert one.page(SOURCE, 4) is None
        assert one.sources() == [SOURCE]
        assert one.look(OTHER, [3])[3].status == "unknown"

    check(store)
    store.flush()
    check(store)
    with LabelStore(workspace.files) as another:
        check(another)
    counts = store.counts(SOURCE)
    assert (counts.pages, counts.missing, counts.explained, counts.explanations) == (2, 1, 1, 1)
    assert counts.newest is not None
    assert counts.segments == 1
    with pytest.raises(InputError, match="no index"):
        store.put_missing(SOURCE, -1, "remote")


def test_every_feature_gets_its_explanations_whatever_came_first(workspace: Workspace) -> None:  # A2.11
    """A page, an export of explanations and an older database, in any order, come to the same."""
    scored = explanation("one", scores=[{"value": 0.5}])
    bare = read(1, explanation("one"), explanation("x")).explanations
    texts_alone = Page({"activations": [{"tokens": ["z"], "maxValue": 9.0}], "maxActApprox": None}, ())
    steps: dict[str, Callable[[LabelStore, NeuronpediaId], object]] = {
        "page": lambda s, of: s.put_page(of, 1, read(1, scored, explanation("two")), "remote"),
        "export": lambda s, of: [s.put_explanation(of, 1, one, "export") for one in bare],
        "missing": lambda s, of: s.put_missing(of, 1, "remote"),
        "activations": lambda s, of: s.put_page(of, 1, texts_alone, "export"),
    }
    results = []
    for number, order in enumerate(permutations(steps)):
        source = NeuronpediaId("m", f"{number}-s")
        with LabelStore(workspace.files) as store:
            for name in order:
                steps[name](store, source)
        with LabelStore(workspace.files) as store:
            found = store.page(source, 1)
        assert found is not None
        results.append({key: value for key, value in found.items() if key not in ("layer", "modelId")})
    assert all(one == results[0] for one in results)
    assert [it["maxValue"] for it in results[0]["activations"]] == [9.0, 3.0]
    assert results[0]["maxActApprox"] == 12.5, "null says nothing"
    assert sorted(it["description"] for it in results[0]["explanations"]) == ["one", "two", "x"]
    one = next(it for it in results[0]["explanations"] if it["description"] == "one")
    assert one["scores"] == [{"value": 0.5}], "the one with a score counts"


def test_an_import_of_the_same_again_adds_nothing(workspace: Workspace, store: LabelStore) -> None:
    for _ in range(2):
        assert store.put_page(SOURCE, 1, read(1, explanation("one")), "export", once=_ == 0) == (True, 1)
        assert store.put_page(SOURCE, 1, read(1, explanation("one")), "export", once=True) == (False, 0)
        store.flush()
        assert store.put_page(SOURCE, 1, read(1, explanation("one")), "export", once=True) == (False, 0)
        assert not store.put_explanation(SOURCE, 1, read(1, explanation("one")).explanations[0], "sqlite", once=True)
    with LabelStore(workspace.files) as another:
        assert another.put_missing(SOURCE, 9, "sqlite", once=True)
        another.flush()
        assert not another.put_missing(SOURCE, 9, "sqlite", once=True)
        assert another.put_page(SOURCE, 1, read(1, explanation("one")), "export", once=True) == (False, 0)


def test_batches_are_committed_as_they_fill_and_never_between_a_page_and_its_explanations(workspace: Workspace) -> None:
    with LabelStore(workspace.files, commit_rows=4) as store, LabelStore(workspace.files) as other:
        for index in range(6):
            store.put_page(SOURCE, index, read(index, explanation("a"), explanation(f"b{index}")), "remote")
            with LabelStore(workspace.files) as fresh:
                known = fresh.look(SOURCE, range(6))
            for one in known.values():
                assert (one.page == "ok") == (len(one.explanations) == 2)
        assert other.counts(SOURCE).pages == 6 - 6 % 2
        big = {"activations": [{"tokens": ["x" * 1000]}]}
        with LabelStore(workspace.files, commit_bytes=500) as bytewise:
            bytewise.put_page(SOURCE, 100, Page(big, ()), "remote")
            other.refresh()
            assert other.look(SOURCE, [100])[100].page == "ok"


def test_a_store_sees_what_others_write_when_it_looks_anew(workspace: Workspace, store: LabelStore) -> None:
    with LabelStore(workspace.files) as other:
        other.put_page(SOURCE, 1, read(1, explanation("one")), "remote")
        other.flush()
        assert texts(store, 1) == ["one"]
        other.put_page(SOURCE, 2, read(2, explanation("two")), "remote")
        other.flush()
        assert store.look(SOURCE, [2])[2].status == "unknown"
        store.refresh()
        assert texts(store, 2) == ["two"]


def test_years_of_small_commits_do_not_pile_up(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_rolling, "ROLLED_AT", 5)
    with LabelStore(workspace.files, commit_rows=1) as store:
        for index in range(30):
            store.put_page(SOURCE, index, read(index, explanation(f"t{index}")), "remote")
        assert store.counts(SOURCE).segments <= 6
        assert store.explained(SOURCE).tolist() == list(range(30))
        assert texts(store, 17) == ["t17"]
    assert len(LabelFolder(workspace.files, SOURCE.model, SOURCE.source).segments()) >= 30, "kept for a day"


def test_a_hundred_thousand_labels_are_looked_up_through_a_few_row_groups(workspace: Workspace) -> None:
    with LabelStore(workspace.files, commit_rows=8192) as store:
        one = read(0, explanation("the same text")).explanations[0]
        for index in range(20_000):
            store.put_explanation(SOURCE, index, one, "export")
    with LabelStore(workspace.files) as store:
        assert len(store.explained(SOURCE)) == 20_000
        wanted = np.random.default_rng(0).integers(0, 20_000, 50).tolist()
        assert all(known.explanations for known in store.look(SOURCE, wanted).values())
        assert store.look(SOURCE, [20_000])[20_000].status == "unknown"


def test_a_writer_that_is_killed_leaves_whole_commits(workspace: Workspace) -> None:
    program = f"""
import os, signal
from raylens.labels.explanations import Page
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.store.workspace import Workspace
store = LabelStore(Workspace.open({workspace.url!r}).files, commit_rows=10)
source = NeuronpediaId.parse({str(SOURCE)!r})
for index in range(25):
    store.put_page(source, index, Page({{"index": str(index)}}, ()), "remote")
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    with LabelStore(workspace.files) as store:
        known = [index for index, one in store.look(SOURCE, range(25)).items() if one.status == "ok"]
    assert known == list(range(20))


def test_hostile_text_is_kept_and_shown_as_one_line(store: LabelStore) -> None:
    store.put_page(SOURCE, 1, read(1, explanation("a\x1b[31m\nb \u202e")), "remote")
    store.flush()
    found = store.page(SOURCE, 1)
    assert found is not None
    json.dumps(found, allow_nan=False).encode()
    assert texts(store, 1) == ["a [31m b"]


def test_sql_sees_each_label_once(workspace: Workspace, store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT index, status, description FROM explanation_cache ORDER BY index, description"
    with connect(workspace) as connection:
        assert connection.execute(sql).fetchall() == []
        assert connection.execute("SELECT count(*) FROM feature_cache").fetchone() == (0,)
    monkeypatch.setattr(label_rolling, "ROLLED_AT", 2)
    for index in (3, 5, 4, 3):
        store.put_page(SOURCE, index, read(index, explanation(f"feature {index}"), explanation("the same")), "remote")
        store.flush()
    store.put_missing(SOURCE, 9, "remote")
    store.flush()
    with connect(workspace) as connection:
        rows = connection.execute(sql).fetchall()
        (pages,) = connection.execute(
            "SELECT list(index ORDER BY index) FROM feature_cache WHERE status = 'ok'"
        ).fetchall()
    expected = [(index, "ok", text) for index in (3, 4, 5) for text in (f"feature {index}", "the same")]
    assert [row for row in rows if row[1] == "ok"] == expected
    assert pages[0] == [3, 4, 5]
    result = query(workspace, "SELECT model, source, index FROM feature_cache WHERE status = 'missing'")
    assert result.table.to_pylist() == [{"model": SOURCE.model, "source": SOURCE.source, "index": 9}]
