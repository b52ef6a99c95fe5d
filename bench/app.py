"""How the app feels: seconds until a page is there in a browser, and from a click to what it changes.

A real ``raylens app`` on caches of 16 000 and of 1 000 000 features, and Debian's Chromium. A page is there, and a
click is done, with the last change that is made to the page, after which nothing changes for a while. The first page
of a session counts from the address, with the scripts that it loads and the WebSocket; the app has been warmed by one
session before, as it is for all analysts but one. It is measured in a browser that has never seen the app, and
(``again``) in one that has its scripts, as an analyst's has from the second visit on.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from bench.growth import tree_pss
from raylens.store.workspace import Workspace

# The makers of workspaces and the app's process are those of the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

_QUIET_MS = 400
"""Without a change, after which a click is taken to be done."""
# Of what stands in the page itself: Streamlit's sign that it runs stands outside, and goes a while after all is drawn.
# Inside a canvas stands what screen readers are told of a table; it is written a quarter of a second after the picture.
_WATCH = """
window.watched = {clicked: NaN, last: 0};
window.addEventListener("pointerdown", () => { watched.clicked = watched.last = performance.now(); }, true);
new MutationObserver(changes => {
  const main = document.querySelector('[data-testid="stMain"]');
  const told = one => one.target.parentElement?.closest("canvas")
    || (one.target.nodeName === "CANVAS" && one.type === "childList");
  if (main && changes.some(one => main.contains(one.target) && !told(one))) watched.last = performance.now();
}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
"""

_SAYS = """parameter => parameter ? location.search.includes(parameter)
  : !/[?&](windows|part|order)=/.test(location.search)"""
"""The address holds a parameter; none of those that are clicked here, where it is empty."""
_PARTS = (("activations and logits", "part=activations"), ("explanations", "part=explanations"), ("windows", ""))

_SIZES = {"16k": 16_000, "1m": 1_000_000}


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Seconds of first pages, milliseconds of clicks, and bytes of a session."""
    from browser import browser

    found: dict[str, Any] = {}
    with browser() as chrome:
        for name, n in _SIZES.items():
            found |= {f"{key}_{name}": value for key, value in _sized(folder / name, n, chrome, scale).items()}
    clicks = max(found["app_click_p95_ms_16k"], found["app_click_p95_ms_1m"])
    pages = max(found["app_page_p50_s_16k"], found["app_page_p50_s_1m"])
    again = max(found["app_again_p50_s_16k"], found["app_again_p50_s_1m"])
    return {"app_click_p95_ms": clicks, "app_page_s": pages, "app_page_again_s": again, **found}


def _sized(folder: Path, n: int, chrome: Any, scale: float) -> dict[str, Any]:
    from app_process import app_process
    from wide_cache import WIDE, make_wide_cache

    workspace = Workspace.open(folder, create=True)
    make_wide_cache(workspace, n)
    sessions = max(2, int(8 * scale))
    with app_process(workspace.url) as app:
        with _Many(chrome, 1) as (page,):
            _first(page, f"{app.url}/features")
        before = tree_pss(app.process.pid)
        pages, again, on_a_feature, on_the_list = [], [], [], []
        with _Many(chrome, sessions) as opened:
            for page in opened:
                pages.append(_first(page, f"{app.url}/features"))
            held = tree_pss(app.process.pid) - before
            for page in opened:
                page.goto("about:blank")
                again.append(_first(page, f"{app.url}/features"))
            n = max(3, int(10 * scale))
            for page in opened[:2]:
                on_a_feature += _on_a_feature(page, f"{app.url}/feature?id={WIDE}/0", n)
                on_the_list += _on_the_list(page, f"{app.url}/features", n)
    return {
        "app_page_p50_s": round(float(np.median(pages)), 3),
        "app_page_max_s": round(max(pages), 3),
        "app_again_p50_s": round(float(np.median(again)), 3),
        "app_click_p50_ms": _ms([*on_a_feature, *on_the_list], 0.5),
        "app_click_p95_ms": _ms([*on_a_feature, *on_the_list], 0.95),
        "app_click_on_a_feature_p95_ms": _ms(on_a_feature, 0.95),
        "app_click_on_the_list_p95_ms": _ms(on_the_list, 0.95),
        "app_session_mb": round(held / sessions / 1e6, 2),
        "app_process_mb": round(before / 1e6, 1),
    }


def _ms(seconds: list[float], share: float) -> float:
    return round(float(np.quantile(seconds, share)) * 1e3, 1)


class _Many:
    """Sessions that are open at the same time."""

    def __init__(self, chrome: Any, n: int) -> None:
        self._contexts = [chrome.new_context(viewport={"width": 1280, "height": 900}) for _ in range(n)]
        for context in self._contexts:
            context.add_init_script(_WATCH)

    def __enter__(self) -> list[Any]:
        return [context.new_page() for context in self._contexts]

    def __exit__(self, *_: object) -> None:
        for context in self._contexts:
            context.close()


def _first(page: Any, url: str) -> float:
    """Seconds from the address to the last change of the page of features, by the browser's own clock."""
    page.goto(url)
    page.get_by_role("heading", level=1, name="Features").wait_for()
    page.locator('[data-testid="stDataFrame"] canvas').first.wait_for()
    _quiet(page)
    return page.evaluate("() => watched.last / 1000")


def _on_a_feature(page: Any, url: str, n: int) -> list[float]:
    """Seconds of clicks on a feature's page: to the next feature, and to other windows and parts of it."""
    _open(page, url)
    found: list[float] = []
    for _ in range(n):
        title = page.get_by_role("heading", level=1).first.inner_text()
        changed = "title => document.querySelector('h1').innerText !== title"
        found.append(_timed(page, page.get_by_role("button", name="next"), changed, title))
        for name, parameter in (("quantile", "windows=quantile"), ("top", ""), *_PARTS):
            found.append(_timed(page, page.get_by_role("radio", name=name, exact=True), _SAYS, parameter))
    return found


def _on_the_list(page: Any, url: str, n: int) -> list[float]:
    """Seconds of clicks on the list of features: to another order and back, and to the next page."""
    _open(page, url)
    found: list[float] = []
    for at in range(n):
        order = ("up", "order=up") if at % 2 == 0 else ("down", "")
        found.append(_timed(page, page.get_by_role("radio", name=order[0], exact=True), _SAYS, order[1]))
        found.append(_timed(page, page.get_by_role("button", name="Next page"), _SAYS, "page=2"))
    return found


def _open(page: Any, url: str) -> None:
    page.goto(url)
    page.get_by_role("heading", level=1).first.wait_for()
    _quiet(page)


def _timed(page: Any, control: Any, changed: str, argument: str) -> float:
    """Seconds from the click to the last change that it made to the page, likewise."""
    control.click()
    page.wait_for_function(changed, arg=argument)
    _quiet(page)
    return page.evaluate("() => (watched.last - watched.clicked) / 1000")


def _quiet(page: Any) -> None:
    """Wait until all is drawn, and nothing has changed since for a while."""
    from browser import settled

    settled(page)
    page.wait_for_function(f"() => performance.now() - watched.last > {_QUIET_MS}", polling=20)
