"""What is in a workspace, counted."""

from __future__ import annotations

from pathlib import Path

from browsed import make_browsed
from raylens.ids import FeatureId
from raylens.store.contents import contents
from raylens.store.labels import Labels
from raylens.store.workspace import Workspace
from small_cache import CACHE_ID, SAE


def test_an_empty_workspace_holds_nothing(tmp_path: Path) -> None:
    found = contents(Workspace.open(tmp_path, create=True))
    assert found.is_empty
    assert (found.caches, found.n_explained, found.n_scored, found.n_labelled, found.n_spans) == ((), 0, 0, 0, 0)


def test_features_count_once_a_cache_and_people_are_no_explainers(tmp_path: Path) -> None:
    workspace = make_browsed(tmp_path)
    Labels(workspace).say(FeatureId(SAE, 1), "bob", label="another's")
    Labels(workspace).say(FeatureId(SAE, 9), "bob", star=True)
    found = contents(workspace)
    assert not found.is_empty
    assert [one.n_features for one in found.caches] == [12, 12]
    last = found.caches[-1]
    assert (last.cache_id, last.model, last.n_tokens, last.merged) == (CACHE_ID, "raylens/tiny", 20, True)
    # Of three explanations one failed; of a label or a star, only labels count, and once a feature.
    assert (found.n_explained, found.n_scored, found.n_labelled) == (2, 2, 1)


def test_what_was_not_merged_yet_is_named_and_does_not_count(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path, create=True)
    cache = workspace.cache("c" * 16)
    cache.write_info({"model": "m", "name": "n"})
    cache.write_sae(SAE, {})
    [one] = contents(workspace).caches
    assert (one.merged, one.saes, one.n_tokens) == (False, (str(SAE),), None)
    assert contents(workspace).is_empty


def test_damage_is_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    workspace = make_browsed(tmp_path)
    cache = workspace.cache(CACHE_ID)
    manifest = cache.manifest()
    assert manifest is not None
    workspace.files.commit(cache.manifest_path(manifest.generation), b"{")
    found = contents(workspace)
    assert len(found.caches) == 1
    assert any("damaged" in one for one in found.unreadable)
