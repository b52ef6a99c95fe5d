"""Stories in a real browser against a real ``raylens app``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from app_process import AppProcess, app_process
from browsed import make_browsed
from browser import choose_row, heading, session, settled
from explained import explanation, write
from small_cache import CACHE_ID

EVIL = "<img src=x onerror=\"document.title='owned'\"> ![x](http://127.0.0.1:9/x.png)"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, chrome: Browser) -> Iterator[AppProcess]:
    workspace = make_browsed(tmp_path_factory.mktemp("browser") / "workspace")
    write(workspace.cache(CACHE_ID), "evil", [explanation(3, EVIL)])
    with app_process(workspace.url) as running:
        yield running
        assert running.end() == 0, "browsers that are still connected do not hold it up"
    assert len(running.said) == 2, "its address, and that it has ended"


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


# A4.03: a Streamlit front end browses features and scores.
def test_a_feature_is_found_by_a_search_and_opened_and_its_link_restores_it(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, hosts):
        page.goto(app.url)
        heading(page, "RayLens")
        page.get_by_role("link", name="Browse features").click()
        heading(page, "Features")
        search = page.get_by_role("textbox", name="Search")
        search.fill("requests for the second word")
        search.press("Enter")
        page.wait_for_url(re.compile("q=requests"))
        expect(page.get_by_text("1 to 2 of 2 features")).to_be_visible()
        choose_row(page, 0)
        heading(page, "f_3_1")
        expect(page.get_by_text("word two", exact=True)).to_be_visible()
        assert page.locator(".rl-tokens .rl-peak").first.get_attribute("title") == "4"
        page.get_by_role("radio", name="explanations").click()
        page.wait_for_url(re.compile("part=explanations"))
        expect(page.get_by_text("0.75 (0.50–0.90)")).to_be_visible()
        link = page.url
        assert hosts == {urlsplit(app.url).netloc}, "nothing but the app is asked for anything"
    with session(chrome) as (page, _):
        page.goto(link)
        heading(page, "f_3_1")
        expect(page.get_by_text("0.75 (0.50–0.90)")).to_be_visible()


def test_previous_next_and_back_go_through_features(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/feature?id=tiny-res/layer_3/1")
        heading(page, "f_3_1")
        page.get_by_role("button", name="next").click()
        heading(page, "f_3_2")
        assert query(page)["id"] == ["tiny-res/layer_3/2"]
        page.get_by_role("button", name="previous").click()
        heading(page, "f_3_1")
        page.go_back()
        heading(page, "f_3_2")


def test_a_list_is_restored_by_its_address(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/features?from_cache={CACHE_ID}&sort=index&order=up&rows=25&fires=yes")
        heading(page, "Features")
        expect(page.get_by_text("1 to 4 of 4 features")).to_be_visible()
        page.get_by_role("radio", name="scatter").click()
        page.wait_for_url(re.compile("view=scatter"))
        assert query(page)["fires"] == ["yes"]


@pytest.mark.parametrize("view", ["map", "scatter"])
def test_a_point_that_is_chosen_leads_to_its_feature(chrome: Browser, app: AppProcess, view: str) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/features?from_cache={CACHE_ID}&view={view}")
        point = page.locator('[data-testid="stVegaLiteChart"] .mark-symbol.role-mark path').first
        expect(point).to_be_visible()
        settled(page)
        point.hover()
        tip = page.locator("#vg-tooltip-element.visible")
        expect(tip).to_be_visible()
        name = re.search(r"f_3_\d+", tip.inner_text())
        assert name is not None
        point.click()
        heading(page, name[0])


def test_two_sessions_do_not_see_each_others_state(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (one, _), session(chrome) as (other, _):
        for page in (one, other):
            page.goto(f"{app.url}/features?from_cache={CACHE_ID}")
            heading(page, "Features")
        search = one.get_by_role("textbox", name="Search")
        search.fill("harmful")
        search.press("Enter")
        one.wait_for_url(re.compile("q=harmful"))
        settled(one)
        other.get_by_role("radio", name="up").click()
        other.wait_for_url(re.compile("order=up"))
        expect(other.get_by_text("1 to 12 of 12 features")).to_be_visible()
        assert "q" not in query(other)


@pytest.mark.parametrize("part", ["windows", "explanations"])
def test_text_of_others_is_shown_and_not_obeyed(chrome: Browser, app: AppProcess, part: str) -> None:
    with session(chrome) as (page, hosts):
        page.goto(f"{app.url}/feature?id=tiny-res/layer_3/3&part={part}")
        heading(page, "f_3_3")
        expect(page.get_by_text("onerror=").first).to_be_visible()
        assert page.title() != "owned"
        assert page.locator("img[src='x']").count() == 0
        assert hosts == {urlsplit(app.url).netloc}


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(16, 21, 27)")])
def test_light_and_dark_follow_the_browser(chrome: Browser, app: AppProcess, scheme: str, ground: str) -> None:
    with session(chrome, color_scheme=scheme) as (page, _):
        page.goto(f"{app.url}/feature?id=tiny-res/layer_3/1")
        heading(page, "f_3_1")
        assert page.locator(".stApp").evaluate("one => getComputedStyle(one).backgroundColor") == ground
        shade = page.locator(".rl-tokens .rl-peak").first.evaluate("one => getComputedStyle(one).backgroundColor")
        assert shade == ("rgb(255, 176, 56)" if scheme == "dark" else "rgb(233, 114, 16)")


def test_a_narrow_window_needs_no_scrolling_to_the_side(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, _):
        page.set_viewport_size({"width": 390, "height": 800})
        for path in ("", "features", "feature?id=tiny-res/layer_3/1"):
            page.goto(f"{app.url}/{path}")
            page.get_by_role("heading", level=1).first.wait_for()
            settled(page)
            main = page.locator('[data-testid="stMain"]')
            assert main.evaluate("one => one.scrollWidth <= one.clientWidth + 1"), path


def test_a_login_is_asked_for_elsewhere_and_a_deep_link_survives_it(chrome: Browser, tmp_path: Path) -> None:
    workspace = make_browsed(tmp_path / "workspace")
    token = "a-token-of-more-than-sixteen-characters"
    with app_process(workspace.url, "--host", "0.0.0.0", RAYLENS_API_TOKEN=token) as app, session(chrome) as (page, _):
        page.goto(f"{app.url}/feature?id=tiny-res/layer_3/1&part=explanations")
        field = page.get_by_role("textbox", name="API token")
        field.fill(token)
        page.get_by_role("button", name="Sign in").click()
        heading(page, "f_3_1")
        expect(page.get_by_text("0.75 (0.50–0.90)")).to_be_visible()
