"""Debian's Chromium, driven by Playwright; where there is none, browser tests say so and are skipped (not in CI)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ARGUMENTS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
WAIT_MS = 60_000
# Its own five seconds are too few for the first reading of a model on a busy machine.
expect.set_options(timeout=WAIT_MS)


def chromium() -> str | None:
    """Where Chromium is, if it is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser; skips the test where there is none, and fails it in CI."""
    path = chromium()
    if path is None:
        reason = "no Chromium on this machine: make browser installs it"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield found
        finally:
            found.close()


@contextmanager
def session(browser: Browser, **options: str) -> Iterator[tuple[Page, set[str]]]:
    """A session of its own, and the hosts that its pages asked for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, **options)  # pyright: ignore[reportArgumentType]
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]) if "://" in request.url else None)
    try:
        yield page, hosts
    finally:
        context.close()


def settled(page: Page) -> None:
    """Wait until the server has drawn all."""
    page.wait_for_function(
        "() => !document.querySelector('[data-testid=\"stStatusWidget\"]')"
        " && !document.querySelector('[data-stale=\"true\"]')"
    )


def heading(page: Page, text: str) -> Locator:
    """The page's own heading, once it is there."""
    found = page.get_by_role("heading", level=1, name=text)
    found.wait_for()
    settled(page)
    return found


def choose_row(page: Page, number: int) -> None:
    """Choose a row of the page's first table, which is a canvas: by the box at its left edge."""
    grid = page.locator('[data-testid="stDataFrame"] canvas').first
    grid.wait_for()
    settled(page)
    box = grid.bounding_box()
    assert box is not None
    # The head and each row are 35 pixels high.
    page.mouse.move(box["x"] + 17, box["y"] + 35 * (number + 1) + 17, steps=3)
    page.mouse.click(box["x"] + 17, box["y"] + 35 * (number + 1) + 17)
