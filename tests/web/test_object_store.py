"""A workspace in an object store is browsed as one on a disk is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app_here import app_on, page, said
from browsed import make_browsed
from object_store import object_store
from raylens.store.workspace import Workspace
from raylens_app.web.registry import PAGES
from small_cache import SAE

ASKED = {"feature": {"id": f"{SAE}/1"}, "compare": {"ids": f"{SAE}/1,{SAE}/2"}}
"""What a page's address names, where it shows more so."""


@pytest.fixture(scope="module")
def stored() -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch, object_store(patch) as url:
        yield make_browsed(url)


def shown(workspace: Workspace, name: str) -> tuple[str, list[str | None], AppTest]:
    """All words and tables of a page, without where the workspace lies."""
    with app_on(workspace.url):
        app = page(name, **ASKED.get(name, {}))
        tables = [frame.value.to_json(orient="records") for frame in app.dataframe]
    return re.sub(r"\S+/workspace\b", "WORKSPACE", said(app)), tables, app


@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_each_page_is_that_of_a_disk(stored: Workspace, tmp_path: Path, name: str) -> None:
    local = make_browsed(tmp_path / "workspace")
    text, tables, app = shown(stored, name)
    assert not app.error, [one.value for one in app.error]
    assert (text, tables) == shown(local, name)[:2]
