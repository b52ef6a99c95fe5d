"""Going back in a real browser: each page comes back as it was left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from app_process import AppProcess, app_process
from browsed import make_browsed
from browser import choose_row, heading, session, settled
from raylens.bundle.traces import sample_spans
from small_cache import SAE
from span_pages import write_traces


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    workspace = make_browsed(tmp_path_factory.mktemp("back") / "workspace")
    write_traces(workspace, sample_spans())
    with app_process(workspace.url) as running:
        yield running


def navigate(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    heading(page, name)
    settled(page)


def test_from_a_feature_to_the_search_that_found_it(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/features?q=harmful&fires=yes")
        expect(page.get_by_text("1 to 2 of 2 features")).to_be_visible()
        settled(page)
        left = page.url
        choose_row(page, 0)
        heading(page, "f_3_2")
        page.go_back()
        heading(page, "Features")
        expect(page.get_by_text("1 to 2 of 2 features")).to_be_visible()
        expect(page.get_by_role("textbox", name="Search")).to_have_value("harmful")
        assert page.url == left
        page.go_forward()
        heading(page, "f_3_2")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"feature?id={SAE}/1&part=explanations", "0.75 (0.50–0.90)"),
        (f"compare?features={SAE}/1,{SAE}/2&compared=windows", "The 5 strongest windows"),
        ("score_card?card_part=failures", "questions that nobody answered"),
    ],
)
def test_from_another_page_to_the_part_that_was_read(
    chrome: Browser, app: AppProcess, address: str, shown: str
) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/{address}")
        expect(page.get_by_text(shown).first).to_be_visible()
        settled(page)
        left = page.url
        navigate(page, "Traces")
        page.go_back()
        expect(page.get_by_text(shown).first).to_be_visible()
        assert page.url == left
        navigate(page, "Features")
        navigate(page, "SQL")
        page.go_back()
        heading(page, "Features")
        page.go_back()
        expect(page.get_by_text(shown).first).to_be_visible()


def test_from_a_trace_to_all_traces_and_back(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/traces?span=e522a28ce2a409c8&tab=attributes")
        heading(page, "answer a customer")
        settled(page)
        page.get_by_role("button", name="All traces").click()
        heading(page, "Traces")
        settled(page)
        assert "?" not in page.url
        search = page.get_by_role("textbox", name="Search")
        search.fill("ORDER 1042")
        search.press("Enter")
        page.wait_for_url("**/traces?holding=*")
        heading(page, "Traces")
        choose_row(page, 0)
        heading(page, "answer a customer")
        page.go_back()
        heading(page, "Traces")
        expect(page.get_by_role("textbox", name="Search")).to_have_value("ORDER 1042")
