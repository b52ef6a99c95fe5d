"""Home: what is there, what runs, what the services say, and where to begin."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app_here import app_on, page, run, said
from browsed import asking
from raylens.api.system import SupportedModel
from raylens.catalog import Catalog
from raylens.errors import RunError
from raylens.ids import FeatureId
from raylens.labels.feature_list import Wanted
from raylens.labels.workspace_features import LOOK_EVERY_S
from raylens.store.labels import Labels
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_app.web.desk import open_desk
from raylens_app.web.settings import AppSettings
from raylens_serve.routes.sae import sae_routes
from raylens_serve.served import Served
from small_cache import SAE


def figures(app: Any) -> dict[str, str]:
    return {one.label: one.value for one in app.metric}


def test_home_counts_what_is_there(browsed: Workspace) -> None:
    app = page()
    assert figures(app) == {
        "Caches": "2",
        "SAEs": "2",
        "Features": "24",
        "Explained": "2",
        "Scored": "2",
        "Labelled": "1",
        "Audits": "0",
        "Spans": "0",
    }
    [caches, *_] = app.dataframe
    assert set(caches.value["model"]) == {"raylens/tiny"}
    assert "serve up --detach" in said(app), "the services are down: the page says how they are started"


def test_an_empty_workspace_says_how_to_begin_and_lists_the_catalogue(empty: Workspace) -> None:
    app = page()
    assert f"raylens --workspace {empty.url} demo" in said(app)
    # A0.07: the empty state renders the live catalogue verbatim, as GET /api/v1/sae/supported-models serves it.
    catalog = Catalog.load(None)
    routes = sae_routes(catalog, Served(catalog, ()), extractor=None)  # pyright: ignore[reportArgumentType]  (no span is read)
    with asking(routes, "") as ask:
        served = ask("api/v1/sae/supported-models")["models"]
    shown = app.dataframe[-1].value.to_dict("records")
    assert [SupportedModel.model_validate(plain(row)).model_dump(mode="json") for row in shown] == served
    assert len(shown) > 100


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a data frame as it was given to it."""
    lists = {key: list(value) for key, value in row.items() if hasattr(value, "__len__") and not isinstance(value, str)}
    return {key: None if value != value else value for key, value in row.items() if key not in lists} | lists


def test_runs_show_how_far_they_are_and_why_they_failed(empty: Workspace) -> None:
    with pytest.raises(RunError), RunJournal.start(empty.files, "cache", {}):
        raise RunError("the disk is [full](http://x).", hint="free some.")
    with RunJournal.start(empty.files, "explain", {}) as journal:
        journal.progress(features=50, features_total=200)
        text = said(page())
        assert "the disk is [full](http://x)." in text
        assert "running" in text or "explain · began" in text
    assert "older ones" not in text


def test_a_lost_run_says_what_to_do(empty: Workspace) -> None:
    journal = RunJournal.start(empty.files, "cache", {})
    long_ago = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    record = empty.files.read_json(f"runs/{journal.run_id}.json")
    journal.finish({})
    empty.files.commit_json(f"runs/{journal.run_id}.json", record | {"heartbeat_at": long_ago, "started_at": long_ago})
    assert "the same command again goes on from there" in said(page())


def test_what_others_write_shows_at_the_next_look(browsed: Workspace) -> None:
    desk = open_desk(AppSettings.from_environment())
    assert desk.features.page(desk.features.chosen(str(SAE), None), Wanted(), 1, 0)[1] == 12
    Labels(browsed).say(FeatureId(SAE, 4), "bob", label="seen at once")
    time.sleep(LOOK_EVERY_S)
    app = page("feature", id=f"{SAE}/4")
    assert "seen at once" in said(app)


def test_a_damaged_cache_is_named_and_the_others_are_counted(browsed: Workspace) -> None:
    cache = browsed.cache(browsed.caches()[0])
    manifest = cache.manifest()
    assert manifest is not None
    browsed.files.commit(cache.manifest_path(manifest.generation), b"{")
    with app_on(browsed.url):
        app = page()
    assert "is damaged" in said(app)
    assert figures(app).get("Caches", "1") == "1"


@pytest.mark.parametrize("name", ["home", "features", "feature"])
def test_a_missing_workspace_is_a_state_and_no_traceback(tmp_path: Path, name: str) -> None:
    with app_on(tmp_path / "nowhere"):
        app = page(name)
        assert "there is no workspace at" in said(app)
        assert "--workspace" in said(app)
        Workspace.open(tmp_path / "nowhere", create=True)
    with app_on(tmp_path / "nowhere"):
        assert "there is no workspace" not in said(run(app)), "it works again as soon as the workspace does"


def test_a_workspace_of_another_version_says_so(empty: Workspace) -> None:
    empty.files.commit_json("raylens.json", {"schema_version": 99, "raylens": "9.9"})
    with app_on(empty.url):
        app = page("features")
    assert "has schema version 99" in said(app)
    assert "raylens 9.9" in said(app)


@pytest.mark.parametrize("name", ["features", "feature"])
def test_without_features_the_pages_say_what_makes_some(empty: Workspace, name: str) -> None:
    app = page(name)
    assert "There are no features yet." in said(app)
    assert f"raylens --workspace {empty.url} demo" in said(app)
