"""A span's features in a real browser, over real services; and a query of one's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from app_process import AppProcess, app_process
from browsed import PICO, make_browsed
from browser import browser, choose_row, heading, session, settled
from gateway_here import TOKEN, Here, gateway_here
from raylens.labels.span_labels import feature_line

EVIL = "<img src=x onerror=\"document.title='owned'\"> \u202eabc"


@dataclass(frozen=True)
class Story:
    """An app over services, with a trace of two spans."""

    app: AppProcess
    here: Here
    spans: tuple[str, ...]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("traces-browser") / "workspace"
    make_browsed(folder)
    with gateway_here(folder, models=[{"model": "raylens/pico", "saes": [str(PICO)]}]) as here:
        spans = here.client.traces.add(
            [
                {"trace_id": "t1", "span_id": "top", "name": "do a sum", "kind": "agent", "input": "go",
                 "output": EVIL},
                {
                    "trace_id": "t1", "span_id": "call", "parent_id": "top", "name": "complete",
                    "model": "raylens/pico", "input": "def area(radius):\n", "output": "    return radius ** 2\n",
                },
            ]
        )  # fmt: skip
        with app_process(folder, RAYLENS_URL=here.url, RAYLENS_API_TOKEN=TOKEN) as app:
            yield Story(app, here, spans)


@pytest.fixture(scope="module")
def chrome(story: Story) -> Iterator[Browser]:
    # After the services: they end in an event loop, and while Playwright runs there can be no other.
    with browser() as found:
        yield found


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


# A0.02: Traces → one trace → one span → SAE tab.
# A0.12: nothing is read before "Extract now"; A0.11: a reload keeps it.
def test_a_span_is_found_extracted_and_still_there_after_a_reload(chrome: Browser, story: Story) -> None:
    with session(chrome) as (page, hosts):
        page.goto(f"{story.app.url}/traces")
        heading(page, "Traces")
        choose_row(page, 0)
        heading(page, "do a sum")
        assert page.title() != "owned"
        choose_row(page, 1)
        page.wait_for_url(re.compile("span=call"))
        page.get_by_role("heading", level=3, name="complete").wait_for()
        page.get_by_role("tab", name="SAE").click()
        page.wait_for_url(re.compile("tab=SAE"))
        expect(page.get_by_role("button", name="Extract now")).to_be_visible()
        assert story.here.client.sae.kept("call") == []
        page.get_by_role("button", name="Extract now").click()
        expect(page.locator(".st-key-strip a")).to_have_count(20)
        (kept,) = story.here.client.sae.kept("call", 20)
        assert re.findall(r"f_\d+_\d+", page.locator(".st-key-strip").inner_text()) == [one.id for one in kept.features]
        expect(page.get_by_text(re.sub(r"\s+", " ", feature_line(kept.features[0])))).to_be_visible()
        page.reload()
        expect(page.get_by_text("ok (cached)")).to_be_visible()
        expect(page.locator(".st-key-strip a")).to_have_count(20)
        number = page.get_by_role("spinbutton", name="features")
        number.fill("5")
        number.press("Enter")
        page.wait_for_url(re.compile("top_k=5"))
        expect(page.locator(".st-key-strip a")).to_have_count(5)
        # Another tab and back: what is looked at is the address's.
        page.get_by_role("tab", name="ablation").click()
        expect(page.get_by_role("button", name="Measure effects")).to_be_visible()
        page.get_by_role("tab", name="SAE").click()
        expect(page.locator(".st-key-strip a")).to_have_count(5)
        page.locator(".st-key-strip a").first.click()
        page.wait_for_url(re.compile("/feature"))
        assert query(page)["id"] == [f"{PICO}/{kept.features[0].index}"]
        assert hosts == {urlsplit(story.app.url).netloc}, "nothing but the app is asked for anything"


def test_back_goes_to_the_span_before(chrome: Browser, story: Story) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{story.app.url}/traces?trace=t1")
        heading(page, "do a sum")
        choose_row(page, 1)
        page.get_by_role("heading", level=3, name="complete").wait_for()
        page.go_back()
        page.get_by_role("heading", level=3, name="do a sum").wait_for()
        settled(page)
        choose_row(page, 1)
        page.get_by_role("heading", level=3, name="complete").wait_for()


def test_a_query_runs_by_ctrl_enter_and_stands_in_the_address(chrome: Browser, story: Story) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{story.app.url}/sql")
        heading(page, "SQL")
        editor = page.get_by_role("textbox", name="Query")
        editor.fill("SELECT span_id, kind FROM spans ORDER BY span_id")
        editor.press("Control+Enter")
        expect(page.get_by_text("2 rows", exact=True)).to_be_visible()
        page.wait_for_url(re.compile("sql=SELECT"))
        link = page.url
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV", exact=True).click()
        assert download.value.path().read_text() == "span_id,kind\ncall,llm\ntop,agent\n"
    with session(chrome) as (page, _):
        page.goto(link)
        expect(page.get_by_text("2 rows", exact=True)).to_be_visible()
        page.get_by_role("tab", name="views").click()
        page.get_by_role("button", name="spans", exact=True).click()
        expect(page.get_by_role("textbox", name="Query")).to_have_value("SELECT *\nFROM spans\nLIMIT 100")
        expect(page.get_by_text("holds another query by now")).to_be_visible()


@pytest.mark.parametrize("path", ["traces", "traces?span=call&tab=SAE", "sql?sql=SELECT+*+FROM+spans"])
def test_a_narrow_window_needs_no_scrolling_to_the_side(chrome: Browser, story: Story, path: str) -> None:
    with session(chrome) as (page, _):
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto(f"{story.app.url}/{path}")
        page.get_by_role("heading", level=1).first.wait_for()
        settled(page)
        main = page.locator('[data-testid="stMain"]')
        assert main.evaluate("one => one.scrollWidth <= one.clientWidth + 1")
