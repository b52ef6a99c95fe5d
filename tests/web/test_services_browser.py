"""Stories in a real browser over real services: a span's features, a sentence of one's own, patches; and SQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from app_process import AppProcess, app_process
from browsed import PICO, PICO_CACHE, make_browsed
from browser import browser, choose_row, heading, session, settled
from explained import explanation, write
from gateway_here import TOKEN, Here, gateway_here
from raylens.labels.span_labels import feature_line

TEXT = "def area(self, radius):\n    return self.x * radius ** 2  # an area\n"
EVIL = "<img src=x onerror=\"document.title='owned'\"> \u202eabc"


@dataclass(frozen=True)
class Story:
    """An app over services, with a trace of two spans, and a feature that is explained and fires on :data:`TEXT`."""

    app: AppProcess
    here: Here
    spans: tuple[str, ...]
    feature: int


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("traces-browser") / "workspace"
    workspace = make_browsed(folder)
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
        peaks = {index: here.client.features.activate(f"{PICO}/{index}", TEXT).peak for index in range(12)}
        feature = max(peaks, key=lambda index: peaks[index])
        write(workspace.cache(PICO_CACHE), "one", [explanation(feature, "names of attributes")], sae=PICO)
        with app_process(folder, RAYLENS_URL=here.url, RAYLENS_API_TOKEN=TOKEN) as app:
            yield Story(app, here, spans, feature)


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


# The analyst's story: found by what it means, tried on a sentence.
def test_a_feature_is_found_by_meaning_and_a_sentence_is_tested_on_it(chrome: Browser, story: Story) -> None:
    answer = story.here.client.features.activate(f"{PICO}/{story.feature}", TEXT)
    assert answer.peak > 0
    with session(chrome) as (page, _):
        page.goto(f"{story.app.url}/features?from_cache={PICO_CACHE}")
        heading(page, "Features")
        search = page.get_by_role("textbox", name="Search")
        search.fill("what the fields of objects are called")  # no word of what is said
        search.press("Enter")
        expect(page.get_by_text("1 to 1 of 1 features")).to_be_visible()
        settled(page)
        choose_row(page, 0)
        heading(page, f"f_3_{story.feature}")
        page.get_by_role("radio", name="your text").click()
        page.get_by_role("button", name="Read it").click()
        expect(page.get_by_text("Write a text first.")).to_be_visible()
        page.get_by_role("textbox", name="A text of your own").fill(TEXT)
        page.get_by_role("button", name="Read it").click()
        peak = page.locator(".rl-tokens .rl-peak")
        expect(peak).to_have_count(1)
        expect(peak).to_have_attribute("title", f"{answer.peak:.9g}")


# A3.05, in a browser: a patch is made, switched off and on, taken home and brought to another session.
def test_a_patch_is_toggled_and_the_probabilities_move(chrome: Browser, story: Story, tmp_path: Path) -> None:
    with session(chrome) as (page, _):
        page.goto(f"{story.app.url}/workbench?prompt=def+area(radius):&feature=f_3_{story.feature}")
        page.get_by_role("button", name="Load").click()
        expect(page.get_by_text("no patch is on")).to_be_visible()
        page.get_by_role("button", name="Add patch").click()
        expect(page.get_by_text("1 patch on")).to_be_visible()
        (name,) = query(page)["session"]
        bench = story.here.client.workbench(name)
        on = bench.infer(text="def area(radius):")
        assert max(abs(one.patched - one.baseline) for one in on.next) > 1e-4
        # The switch itself is not to be seen; what is clicked is its label.
        page.locator('[data-testid="stCheckbox"] label').first.click()
        expect(page.get_by_text("no patch is on")).to_be_visible()
        assert not bench.patches()[0].enabled
        off = bench.infer(text="def area(radius):")
        assert [one.patched for one in off.next] == [one.baseline for one in off.next]
        page.locator('[data-testid="stCheckbox"] label').first.click()
        expect(page.get_by_text("1 patch on")).to_be_visible()
        page.get_by_text("Take patches home, or bring some").click()
        with page.expect_download() as taken:
            page.get_by_role("button", name="as JSON").click()
        taken.value.save_as(tmp_path / "patch.json")
    with session(chrome) as (page, _):
        page.goto(f"{story.app.url}/workbench?prompt=def+area(radius):")
        page.get_by_role("button", name="Load").click()
        expect(page.get_by_text("no patch is on")).to_be_visible()
        page.get_by_text("Take patches home, or bring some").click()
        page.locator('input[type="file"]').first.set_input_files(tmp_path / "patch.json")
        page.get_by_role("button", name="Add it").click()
        expect(page.get_by_text("1 patch on")).to_be_visible()
        (other,) = query(page)["session"]
        assert other != name
        brought = story.here.client.workbench(other).infer(text="def area(radius):")
        assert [one.patched for one in brought.next] == [one.patched for one in on.next]
