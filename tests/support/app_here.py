"""The app in this process, without a browser: one page of it, at an address of its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from raylens_app.web.desk import close_desks
from raylens_app.web.launch import SCRIPT
from raylens_app.web.one_entry import SCRIPT as SCRIPT_OF_HISTORY
from raylens_app.web.registry import PAGES
from raylens_app.web.settings import AppSettings

TIMEOUT_S = 60.0


@contextmanager
def app_on(
    workspace: str | Path, services: str | None = "http://127.0.0.1:9", *, login: bool = False
) -> Iterator[None]:
    """Within the block, pages are of this workspace; by default no services answer."""
    before = dict(os.environ)
    AppSettings(str(workspace), services, login=login).write()
    close_desks()
    try:
        yield
    finally:
        close_desks()
        os.environ.clear()
        os.environ.update(before)


def page(name: str = PAGES[0].name, **params: str) -> AppTest:
    """A new session that opens the page of that name with ``params`` in its address."""
    app = AppTest.from_file(SCRIPT, default_timeout=TIMEOUT_S)
    app.query_params.update(params)
    # As a browser does that follows a link: AppTest itself only switches to pages that are files.
    app._page_hash = calc_hash("" if name == PAGES[0].name else name)
    return run(app)


def run(app: AppTest) -> AppTest:
    """Run the script again; nothing may fail unexpectedly."""
    app.run()
    assert not app.exception, [one.value for one in app.exception]
    return app


def said(app: AppTest) -> str:
    """All text of a page as a browser shows it: headings, Markdown, captions, errors, code."""
    kinds = (app.title, app.subheader, app.markdown, app.caption, app.error, app.warning, app.info, app.code)
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", "\n".join(str(one.value) for kind in kinds for one in kind))


def html(app: AppTest) -> str:
    """All HTML of a page but its style sheet."""
    found = (one.proto.body for one in app.get("html"))  # pyright: ignore[reportAttributeAccessIssue]
    return "\n".join(body for body in found if not body.startswith("<style>") and body != SCRIPT_OF_HISTORY.strip())


def charts(app: AppTest) -> list[dict[str, Any]]:
    """Specifications of all charts of a page."""
    found = app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart")
    return [json.loads(one.proto.spec) for one in found]  # pyright: ignore[reportAttributeAccessIssue]


def titles(spec: dict[str, Any]) -> set[str]:
    """What a chart says of itself: its title and those of its axes."""
    title = spec["title"]
    axes = {one["title"] for one in spec["encoding"].values() if isinstance(one, dict) and one.get("title")}
    return {title if isinstance(title, str) else title["text"], *axes}


def points(app: AppTest) -> dict[str, list[Any]]:
    """What the chart of a page is given, by column."""
    (one,) = app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart")
    with pa.ipc.open_stream(one.proto.data.data) as stream:  # pyright: ignore[reportAttributeAccessIssue]
        return stream.read_all().to_pydict()
