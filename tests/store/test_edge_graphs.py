"""Stored edges give back the graph that was worked out."""

from __future__ import annotations

from pathlib import Path

import pytest

from provenances import made_up
from raylens.api.provenance import Provenance
from raylens.errors import UnknownNameError
from raylens.ids import FeatureId, SaeId
from raylens.reports.provenance_graph import provenance_graph
from raylens.store.edge_graphs import edge_summary, followed_text, followed_texts
from raylens.store.edges import Edges
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, make_cache

TARGET = FeatureId(SaeId("tiny-res", "layer_5"), 7)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    found = Workspace.open(tmp_path, create=True)
    make_cache(found)
    Edges(found.files).append(made_up(), cache_id=CACHE_ID, window_id=2)
    Edges(found.files).append(made_up(provenance_id="b" * 16, integrated=10))
    return found


def test_texts_are_listed_and_a_graph_is_the_one_that_was_stored(workspace: Workspace) -> None:
    texts = followed_texts(workspace, TARGET)
    assert {(one.provenance_id, one.window_id, one.method, one.n_edges) for one in texts} == {
        ("a" * 16, 2, "gradient", 5),
        ("b" * 16, None, "integrated-10", 5),
    }
    before, after = made_up(), followed_text(workspace, TARGET, "a" * 16)

    def figures(found: Provenance) -> set[tuple[object, ...]]:
        return {
            (one.source.key, one.target.key, one.attribution, one.ablation_effect, one.confirmed) for one in found.edges
        }

    assert figures(after) == figures(before)
    assert (after.target.key, after.target.activation) == (before.target.key, before.target.activation)
    assert [(one.sae, one.features, one.errors) for one in after.layers] == [
        (one.sae, one.features, one.errors) for one in before.layers
    ]
    assert after.tokens == ("", "w1 ", "w2 ", "w3 "), "the window's text, up to the feature's token"
    assert {one.source.text for one in after.edges if one.source.token == 2} == {"w2 "}
    assert "f_5_7" in provenance_graph(after, {})


def test_a_text_of_no_cache_has_no_tokens(workspace: Workspace) -> None:
    found = followed_text(workspace, TARGET, "b" * 16)
    assert (found.integrated, found.token_ids, found.tokens) == (10, (), ("",))


def test_a_layer_adds_up_to_the_activation(workspace: Workspace) -> None:
    found = followed_text(workspace, TARGET, "a" * 16)
    for one in found.layers:
        assert one.features + one.errors + one.rest == pytest.approx(found.target.activation)


def test_sources_are_summed_over_texts(workspace: Workspace) -> None:
    summary = edge_summary(workspace, TARGET)
    assert (summary.n_texts, summary.n_edges) == (2, 10)
    assert summary.sources[0].source == "tiny-res/layer_3/2"


def test_a_text_that_is_not_there_is_said(workspace: Workspace) -> None:
    with pytest.raises(UnknownNameError, match="was not followed back"):
        followed_text(workspace, TARGET, "c" * 16)
    assert followed_texts(workspace, FeatureId(TARGET.sae, 8)) == []
