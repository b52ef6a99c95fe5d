"""Stories of audits in a real browser: an audit is read, its report taken away, and its link restores it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from app_process import AppProcess, app_process
from audit_pages import EVIL, made_audit, store_made
from browsed import make_browsed
from browser import choose_row, heading, session, settled
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from scored import two_explainers
from small_cache import CACHE_ID, SAE

TITLE = "A candidate"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Features that two explainers looked at, and two audits, the later one of which means no good."""
    found = make_browsed(tmp_path_factory.mktemp("audited") / "workspace")
    two_explainers(found.cache(CACHE_ID))
    store_made(found, made_audit(run="evil", text=EVIL))
    store_made(found, made_audit())
    return found


@pytest.fixture(scope="module")
def app(workspace: Workspace, chrome: Browser) -> Iterator[AppProcess]:
    with app_process(workspace.url) as running:
        yield running


def query(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def part(page: Page, name: str) -> None:
    """Choose a part of the page."""
    page.get_by_role("radio", name=name, exact=True).click()
    page.wait_for_url(re.compile(f"show={name}"))
    settled(page)


# A4.03: an analyst reads an audit, takes its report away, and sends a colleague the link.
def test_an_audit_is_read_and_its_report_downloaded(
    chrome: Browser, app: AppProcess, workspace: Workspace, tmp_path: Path
) -> None:
    texts = AuditStore(workspace.files).read_run("s", "r")
    with session(chrome) as (page, hosts):
        page.goto(f"{app.url}/audits")
        heading(page, "Audits")
        choose_row(page, 0)
        heading(page, TITLE)
        assert query(page)["run"] == ["s/r"]
        expect(page.get_by_text("Flagged: p = 0.0099 against n = 100 benign fine-tunes")).to_be_visible()
        expect(
            page.locator('[data-testid="stVegaLiteChart"] canvas, [data-testid="stVegaLiteChart"] svg').first
        ).to_be_visible()
        part(page, "outputs")
        expect(page.locator(".rl-report ins").first).to_be_visible()
        part(page, "files")
        for name in ("report.html", "decision.json"):
            with page.expect_download() as taken:
                page.get_by_role("button", name=name).click()
            file = tmp_path / name
            taken.value.save_as(file)
            assert taken.value.suggested_filename == f"s-r-{name}"
            assert file.read_bytes() == texts[name].encode()
        link = page.url
        assert hosts == {urlsplit(app.url).netloc}, "nothing but the app is asked for anything"
    with session(chrome) as (page, _):
        page.goto(link)
        heading(page, TITLE)
        expect(page.get_by_role("button", name="report.html")).to_be_visible()


def test_a_feature_that_changed_leads_to_its_page(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/audit?run=s/r&show=features")
        heading(page, TITLE)
        choose_row(page, 0)
        heading(page, "f_3_1")
        assert query(page)["id"] == [f"{SAE}/1"]


def test_links_restore_the_state_of_each_page(chrome: Browser, app: AppProcess) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{app.url}/audit?run=s/r&show=outputs&which=all&holds=def+add")
        heading(page, TITLE)
        expect(page.locator(".rl-report details")).to_have_count(1)
        page.goto(f"{app.url}/compare?features={SAE}/1,{SAE}/2&compared=windows")
        heading(page, "Compare")
        expect(page.locator(".rl-tokens .rl-peak").first).to_be_visible()
        page.goto(f"{app.url}/score_card?card_part=failures&card_explainer=lexical")
        heading(page, "Score card")
        expect(page.get_by_text("what became of features")).to_have_count(1)


@pytest.mark.parametrize("shown", ["verdict", "features", "outputs", "inserts"])
def test_what_a_model_wrote_is_shown_and_not_obeyed(chrome: Browser, app: AppProcess, shown: str) -> None:
    with session(chrome) as (page, hosts):
        alerts: list[str] = []
        page.on("dialog", lambda dialog: alerts.append(dialog.message))
        page.goto(f"{app.url}/audit?run=s/evil&show={shown}&which=all")
        page.get_by_role("heading", level=1).first.wait_for()
        settled(page)
        expect(page.get_by_text("alert(1)").first).to_be_visible()
        assert page.locator("img[src*='evil']").count() == 0
        assert page.locator("a[href*='evil/x']").count() == 0
        assert not alerts
        assert hosts == {urlsplit(app.url).netloc}


def test_narrow_windows_need_no_scrolling_to_the_side(chrome: Browser, app: AppProcess) -> None:
    addresses = ["audits", "audits?do=start+an+audit", "audit?run=s/r", "score_card"]
    addresses += [f"audit?run=s/r&show={one}" for one in ("features", "outputs", "files")]
    addresses += [f"compare?features={SAE}/1,{SAE}/2", f"compare?features={SAE}/1,{SAE}/2&compared=windows"]
    with session(chrome) as (page, _):
        page.set_viewport_size({"width": 390, "height": 800})
        for address in addresses:
            page.goto(f"{app.url}/{address}")
            page.get_by_role("heading", level=1).first.wait_for()
            settled(page)
            main = page.locator('[data-testid="stMain"]')
            assert main.evaluate("one => one.scrollWidth <= one.clientWidth + 1"), address
