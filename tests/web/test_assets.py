"""Streamlit's files come from memory, as they are; everything else is the app's to answer."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from app_process import app_process
from raylens_app.web.http.assets import FOLDER, Assets
from raylens_app.web.http.wrong_paths import WrongPaths

APP = PlainTextResponse("the app's")


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    folder = tmp_path / "static"
    (folder / "js").mkdir(parents=True)
    (folder / "js/one.abc.js").write_bytes(b"let a = 1;")
    (folder / "some.unknown-kind").write_bytes(b"\x00\x01")
    (tmp_path / "secret.js").write_text("no")
    return TestClient(Assets(APP, folder))


def test_a_file_is_answered_as_it_is_and_kept(client: TestClient, tmp_path: Path) -> None:
    first = client.get("/static/js/one.abc.js")
    assert (first.status_code, first.content) == (200, b"let a = 1;")
    assert first.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in first.headers["cache-control"]
    (tmp_path / "static/js/one.abc.js").unlink()
    assert client.get("/static/js/one.abc.js").content == b"let a = 1;"
    head = client.head("/static/js/one.abc.js")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
    assert client.get("/static/some.unknown-kind").headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    "path",
    ["/", "/features", "/static/js/none.js", "/static/../secret.js", "/static/js/%2e%2e/%2e%2e/secret.js", "/static/"],
)
def test_all_else_is_the_apps(client: TestClient, path: str) -> None:
    assert client.get(path).text == "the app's"


def test_what_is_sent_to_a_file_is_the_apps(client: TestClient) -> None:
    assert client.post("/static/js/one.abc.js").text == "the app's"


@pytest.mark.parametrize(
    ("path", "leads_to"),
    [
        ("/feature/x?id=a%2Fb", "/feature?id=a%2Fb"),
        ("/home/", None),
        ("/sql/a/b", "/sql"),
        ("/feature", None),
        ("/feature/_stcore/health", None),
        ("/static/feature/x", None),
        ("//evil.example/feature", None),
    ],
)
def test_what_lies_below_a_page_leads_to_the_page(path: str, leads_to: str | None) -> None:
    answer = TestClient(WrongPaths(APP)).get(f"http://testserver{path}", follow_redirects=False)
    assert (answer.status_code, answer.headers.get("location")) == (307 if leads_to else 200, leads_to)


def test_the_app_serves_every_file_of_streamlit(tmp_path: Path) -> None:
    """Each file is answered, byte for byte, and by a kind that browsers take."""
    with app_process(tmp_path) as app, httpx.Client(base_url=app.url, trust_env=False) as client:
        page = client.get("/").text
        assert "./static/js/index." in page
        seen = set[str]()
        for path in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
            answer = client.get(f"/static/{path.relative_to(FOLDER).as_posix()}")
            assert answer.content == path.read_bytes()
            seen.add(answer.headers["content-type"])
        assert {"text/javascript; charset=utf-8", "text/css; charset=utf-8", "font/woff2"} <= seen
        assert not [kind for kind in seen if kind.startswith("text/plain")]
