"""Edges as rows: the view, what is known already, and sums over texts (A3.10)."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta

import pytest

from provenances import made_up, node
from raylens.api.provenance import Provenance
from raylens.errors import DamagedFileError
from raylens.ids import FeatureId
from raylens.store import audit_segments
from raylens.store.edge_summary import summarise
from raylens.store.edges import EDGES, Edges, edge_table
from raylens.store.feature_names import names_of
from raylens.store.files import Files
from raylens.store.housekeeping import gc
from raylens.store.labels import Labels
from raylens.store.sql import query
from raylens.store.workspace import Workspace


def test_the_view_is_empty_and_then_has_the_last_row_of_each_edge(workspace: Workspace) -> None:  # A3.10
    empty = query(workspace, "SELECT * FROM edges").table
    assert (empty.num_rows, empty.schema.names) == (0, EDGES.names)
    edges = pickle.loads(pickle.dumps(Edges(workspace.files)))
    edges.append(made_up(), run_id="provenance-1", cache_id="c" * 16, window_id=4)
    edges.append(made_up(model="raylens/other"), window_id=5)
    edges.append(made_up(provenance_id="b" * 16, integrated=4))
    found = query(workspace, "SELECT * FROM edges ORDER BY provenance_id, abs(attribution) DESC").table.to_pylist()
    assert len(found) == 10
    assert {row["model"] for row in found[:5]} == {"raylens/other"}
    first, *_, error = found[:5]
    assert (first["origin"], first["origin_token"], first["origin_activation"]) == ("tiny-res/layer_5/7", 3, 4.0)
    assert (first["source"], first["layer"], first["source_feature"]) == ("tiny-res/layer_3/2", 3, 2)
    assert (first["target"], first["target_layer"], first["target_sae"]) == (
        "tiny-res/layer_5/7",
        5,
        "tiny-res/layer_5",
    )
    assert (first["attribution"], first["ablation_effect"], first["ablated_activation"]) == (2.0, 2.5, 1.5)
    assert (first["layer_features"], first["layer_errors"]) == (3.0, 0.4)
    assert first["layer_rest"] == pytest.approx(0.6)
    assert (error["source"], error["source_feature"], error["confirmed"]) == ("tiny-res/layer_3/error", None, True)
    assert (first["run_id"], first["cache_id"], first["window_id"], first["method"]) == (None, None, 5, "gradient")
    assert found[5]["method"] == "integrated-4"
    assert [row["confirmed"] for row in found[:5]] == [True, True, True, False, True]
    by_layer = (
        "SELECT layer, count(*) AS n FROM edges WHERE target = origin AND layer < target_layer GROUP BY 1 ORDER BY 1"
    )
    assert query(workspace, by_layer).table.to_pydict() == {"layer": [1, 3], "n": [4, 4]}


def test_what_is_known_is_told_with_how_much_was_asked_for(local_files: Files) -> None:
    edges = Edges(local_files)
    assert edges.known() == {}
    edges.append(made_up(top=20))
    edges.append(made_up(top=3, edges=made_up().edges[:1]))  # of the same text, so that one row is replaced
    edges.append(made_up(provenance_id="b" * 16, top=5))
    assert edges.known() == {"a" * 16: 20, "b" * 16: 5}
    assert len(edges.of({"a" * 16})) == 5
    assert {row["provenance_id"] for row in edges.of({"b" * 16, "x"})} == {"b" * 16}
    (first, *_) = edge_table(local_files).paths()
    local_files.commit(first, b"PAR1 not at all")
    with pytest.raises(DamagedFileError, match="ask for that provenance again"):
        edges.known()


def test_many_texts_are_rolled_and_collected(local_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_segments, "ROLLED_AT", 3)
    edges = Edges(local_files)
    for number in range(6):
        edges.append(made_up(provenance_id=f"{number:016x}"))
    assert len(edge_table(local_files).paths()) <= 3
    workspace = Workspace.open(local_files.url, create=False) if local_files.exists("raylens.json") else None
    assert len(edges.of({f"{number:016x}" for number in range(6)})) == 30
    if workspace is not None:
        gc(workspace, now=datetime.now(UTC) + timedelta(hours=25))
        assert len(edges.known()) == 6


def test_sums_over_texts_count_what_is_absent_as_nothing() -> None:
    one, other = made_up(), made_up(provenance_id="b" * 16)
    other = other.model_copy(update={"edges": other.edges[:1]})
    summary = summarise(rows(one) + rows(other))
    assert (summary.n_texts, summary.n_edges) == (2, 6)
    assert summary.agreement == pytest.approx(5 / 6)
    by_source = {source.source: source for source in summary.sources}
    assert list(by_source) == ["tiny-res/layer_3/2", "tiny-res/layer_1/4", "tiny-res/layer_3/error"]
    strongest, both_tokens = by_source["tiny-res/layer_3/2"], by_source["tiny-res/layer_1/4"]
    assert (strongest.n, strongest.layer, strongest.attribution, strongest.confirmed) == (2, 3, 0.5, 1.0)
    assert strongest.ablation_effect == pytest.approx(2.5 / 4)
    # Two tokens of one text, −1 and 0.5 of 4, in one of two texts; the edge to the feature between is not the target's.
    assert (both_tokens.n, both_tokens.attribution, both_tokens.confirmed) == (1, pytest.approx(-0.5 / 4 / 2), 1.0)
    assert [(layer.layer, layer.features, layer.errors) for layer in summary.layers] == [(1, 0.5, 0.25), (3, 0.75, 0.1)]
    assert summary.layers[0].rest == pytest.approx(0.25)
    assert summarise([]).agreement is None


def rows(found: Provenance) -> list[dict[str, object]]:
    from raylens.store.edges import rows_of

    return rows_of(found)


def test_names_are_what_people_say_before_what_was_explained(local_workspace: Workspace) -> None:
    from explained import explanation, write
    from small_cache import SAE, make_cache

    cache = make_cache(local_workspace)
    write(cache, "one", [explanation(1, "the first"), explanation(2, "the second"), explanation(3, None)])
    Labels(local_workspace).say(FeatureId(SAE, 2), "me", label="what I call it")
    wanted = [FeatureId(SAE, index) for index in (1, 2, 3, 4)]
    assert names_of(local_workspace, wanted) == {wanted[0]: "the first", wanted[1]: "what I call it"}
    assert names_of(local_workspace, []) == {}
    assert node(3, 1, 0).name == "tiny-res/layer_3/1"
