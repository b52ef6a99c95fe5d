"""Of two rows about one explanation by one run, all readers take the same, in whatever order they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from explained import explanation, score, write
from raylens.catalog.lookup import built_in
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.findings import findings_of
from raylens.store.views import connect
from raylens.store.workspace import Workspace
from small_cache import SAE, make_cache


@pytest.mark.parametrize("names", ["ab", "ba", "cd", "dc", "ef", "fe"])
def test_what_says_most_counts(tmp_path: Path, names: str) -> None:
    workspace = Workspace.open(tmp_path, create=True)
    cache = make_cache(workspace)
    rows = ((None, None), ("a text", 0.5)) if names[0] < names[1] else (("a text", 0.5), (None, None))
    for name, (text, value) in zip(names, rows, strict=True):
        write(cache, name, [explanation(3, text)], [score(3, value)])
    assert [row["explanation"] for row in findings_of(cache, SAE, "explanations", 3)] == ["a text"]
    assert [row["value"] for row in findings_of(cache, SAE, "scores", 3)] == [0.5]
    features = WorkspaceFeatures(workspace, built_in())
    (listed,) = features.rows_of(features.chosen(str(SAE), None), [(0, 3)])
    assert (listed["explanation"], listed["score"]) == ("a text", 0.5)
    features.close()
    with connect(workspace) as connection:
        assert connection.execute("SELECT explanation FROM explanations").fetchall() == [("a text",)]
        assert connection.execute("SELECT value FROM scores").fetchall() == [(0.5,)]
