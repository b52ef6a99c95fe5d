"""A story with no mouse: what is focused is where Tab leads, and Enter or Space does what a click does."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from app_process import app_process
from browsed import make_browsed
from browser import heading, session, settled

_FOCUSED = """() => {
    const one = document.activeElement;
    return `${one.tagName} ${one.getAttribute('aria-label') || one.innerText || ''}`;
}"""


def tab_to(page: Page, what: str, most: int = 120) -> None:
    """Press Tab until something is focused whose tag and name match."""
    seen = []
    for _ in range(most):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(_FOCUSED))
        if re.search(what, seen[-1]):
            return
    raise AssertionError(f"Tab does not lead to {what}, but to {seen}")


def test_a_feature_is_found_and_opened_by_keys_alone(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    workspace = make_browsed(tmp_path_factory.mktemp("keys") / "workspace")
    with app_process(workspace.url) as app, session(chrome) as (page, _):
        page.goto(app.url)
        heading(page, "RayLens")
        expect(page.get_by_role("link", name="Browse features")).to_be_visible()
        tab_to(page, "(?s)^A .*Browse features")
        page.keyboard.press("Enter")
        heading(page, "Features")
        settled(page)
        tab_to(page, "^INPUT Search")
        page.keyboard.type("requests for the second word")
        page.keyboard.press("Enter")
        page.wait_for_url(re.compile("q=requests"))
        expect(page.get_by_text("1 to 2 of 2 features")).to_be_visible()
        settled(page)
        tab_to(page, "^CANVAS")
        page.keyboard.press("Shift+Space")
        heading(page, "f_3_1")
        settled(page)
        tab_to(page, "(?s)^BUTTON .*next")
        page.keyboard.press("Enter")
        heading(page, "f_3_2")
