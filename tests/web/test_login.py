"""An app that others can reach asks each session for the API token first."""

from __future__ import annotations

from pathlib import Path

import pytest

from app_here import app_on, html, page, run, said
from raylens.store.workspace import Workspace
from raylens_app.web.login import is_right

TOKEN = "a-token-of-more-than-sixteen-characters"


@pytest.fixture(autouse=True)
def quick_and_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLENS_API_TOKEN", TOKEN)
    monkeypatch.setattr("raylens_app.web.login._WRONG_S", 0.0)


@pytest.mark.parametrize("name", ["home", "features", "feature"])
def test_nothing_is_shown_before_the_token(browsed: Workspace, name: str) -> None:
    with app_on(browsed.url, login=True):
        app = page(name, id="tiny-res/layer_3/1")
        assert [one.label for one in app.text_input] == ["API token"]
        assert browsed.url not in said(app)
        assert "word two" not in said(app) + html(app)


def test_a_deep_link_goes_on_after_the_login_and_only_in_that_session(browsed: Workspace) -> None:
    with app_on(browsed.url, login=True):
        app = page("feature", id="tiny-res/layer_3/1")
        app.text_input[0].set_value("wrong")
        app.button[0].click()
        run(app)
        assert "That is not the token" in said(app)
        app.text_input[0].set_value(TOKEN)
        app.button[0].click()
        run(app)
        assert app.subheader[0].value == "word two"
        assert [one.label for one in page().text_input] == ["API token"], "another session logs in by itself"


@pytest.mark.parametrize("given", ["", " ", "wrong", TOKEN[:-1], TOKEN + "x", "ä"])
def test_wrong_tokens(given: str) -> None:
    assert not is_right(given)


def test_right_tokens_and_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert is_right(TOKEN)
    assert is_right(f" {TOKEN}\n")
    monkeypatch.delenv("RAYLENS_API_TOKEN")
    monkeypatch.setenv("RAYLENS_API_TOKEN_FILE", str(tmp_path / "none"))
    assert not is_right("")
    assert not is_right("None")
