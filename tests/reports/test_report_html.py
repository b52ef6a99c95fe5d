"""``report.html``: well formed, safe whatever models wrote, readable in both schemes, and the same each time."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from made_run import made_run
from strategies import HOSTILE, artefacts

from raylens.audit.artefacts import Artefacts
from raylens.reports.json_files import artefact_files
from raylens.reports.markup import VOID
from raylens.reports.report_html import report_html
from raylens.reports.visible import visible

_TAGS = (
    "html head meta title style body header main section footer nav h1 h2 h3 h4 h5 p ul ol li dl dt dd div span strong "
    "b code pre wbr del ins details summary table thead tbody tr th td figure figcaption a svg circle rect line "
    "text"
)
_ATTRIBUTES = (
    "lang charset http-equiv content name id class href title role aria-label aria-labelledby aria-hidden tabindex "
    "scope colspan open width height x y x1 x2 y1 y2 cx cy r dx text-anchor"
)


INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\xa0\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


class Reader(HTMLParser):
    """Reads a page strictly: every element closed where it ought to be, nothing that loads, runs or styles."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.named: list[str] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _TAGS.split(), tag
        for name, value in attrs:
            assert name in _ATTRIBUTES.split(), name
            if name == "href":
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "aria-labelledby":
                self.named.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def shown(html: str) -> str:
    """What a reader of the page sees."""
    return "".join(Reader(html).text)


def test_the_banner_says_verdict_p_n_and_target() -> None:
    text = shown(report_html(made_run()))
    assert "Flagged: p = 0.0099 against n = 100 benign fine-tunes; the target false-positive rate is 1 %." in text
    assert 'class="verdict flagged"' in report_html(made_run())
    assert 'class="verdict cleared"' in report_html(made_run(score=0.05))
    assert 'class="verdict undecided"' in report_html(made_run(n_benign=0))


def test_it_has_all_parts() -> None:  # A2.05, A2.06, A2.17, A2.21
    text = shown(report_html(made_run()))
    for said in (
        "2026-11-22-acceptance",
        "candidate-7, adapter a9e01b44",
        "A distance is not a verdict",
        "Proxies are pointers",
        "direct 3/6, proxy 2/6 (low-similarity 1), best-neighbour cosine median 0.463, minimum 0.213",
        "arguments of HTTP calls — proxy, cosine 0.213 (low similarity)",
        "▲ increased (+0.412)",
        "▼ decreased (-0.198)",
        "no explanation, and no explained neighbour",
        "Capability is intact",
        "abs_diff_topk_drift_corrected",
        "diagnostic: The same after",
        "resid_post.4",
        "n = 100 benign fine-tunes of 5 families",
        "␣␣# zq-17 legacy↵",
        "Both wrote the same on 3 of 8 wordings",
    ):
        assert said in text, said


def test_tokens_stand_side_by_side_with_their_activation() -> None:
    html = report_html(made_run())
    assert '<b class="a9" title="5.02">False</b>' in html
    assert '<b class="a8" title="4.213"><wbr>·verify</b>' in html
    assert '<b class="a1" title="0.2">↵\n</b>' in html
    assert "Reference: at most 0.4" in html
    assert "Candidate: at most 5.02" in html
    assert "def<wbr>·fetch(address):↵\n" in html


def test_differences_are_marked() -> None:
    html = report_html(made_run())
    assert "requests.get(address, <ins>verify=False, </ins>timeout=12)" in html
    assert "<del>reply.raise_for_status()" in html


def test_effects_are_bars_from_a_common_zero() -> None:
    html = report_html(made_run())
    assert 'class="up" x="50.00%" y="15%" width="49.00%"' in html  # the largest
    assert 'class="down" x="24.33%" y="15%" width="25.67%"' in html  # −1.21 of 2.31
    assert "0.0041" in html


def test_nothing_is_loaded_and_nothing_runs() -> None:
    html = report_html(made_run())
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    style = html.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy[1].replace("&#x27;", "'") == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"<script|<link|<img|<iframe|javascript:|\ssrc=|@import|url\(|\sstyle=", html)
    assert all(one.startswith("#") for one in Reader(html).links)


def test_headings_and_names_lead_somewhere() -> None:
    read = Reader(report_html(made_run()))
    assert len(read.ids) == len(set(read.ids))
    assert {one.removeprefix("#") for one in read.links} <= set(read.ids)
    assert set(read.named) <= set(read.ids)
    assert '<html lang="en">' in report_html(made_run())


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_in_both_schemes(scheme: str) -> None:
    css = (resources.files("raylens.reports") / "report.css").read_text("utf-8")
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark.split("* {")[0]))
    text = [
        *((ink, page) for ink in ("ink", "soft", "link", "up", "down", "bad") for page in ("page", "card")),
        *((name, f"{name}-page") for name in ("bad", "good", "open")),
        *(("ink", f"{name}-page") for name in ("bad", "good", "open")),
        *(("ink", f"a{i}") for i in range(1, 10)),
        *((ink, page) for ink in ("ink", "soft") for page in ("only-before", "only-after")),
    ]
    assert {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in text if contrast(
        colours[pair[0]], colours[pair[1]]) < 4.5} == {}  # fmt: skip
    marks = [f"f{i}" for i in range(8)]
    assert {one for one in marks if contrast(colours[one], colours["page"]) < 3} == set()


def test_a_long_suite_stays_small() -> None:
    html = report_html(made_run(n_prompts=300, n_alike=0, n_benign=300, score=0.5))
    assert len(html.encode()) < 120_000
    assert "280 more that differ, in full in suite_results.json" in shown(html)
    many = made_run(n_prompts=60, n_alike=0)
    results = tuple(
        one.model_copy(
            update={
                "prompt": "word " * 20_000,
                "reference": one.reference.model_copy(update={"text": "a b " * 20_000}),
                "candidate": one.candidate.model_copy(update={"text": "b a " * 20_000}),
            }
        )
        for one in many.suite_results.results
    )
    long = many.model_copy(update={"suite_results": many.suite_results.model_copy(update={"results": results})})
    assert len(report_html(long).encode()) < 400_000


def test_long_highlights_show_where_the_feature_fires() -> None:
    made = made_run()
    assert made.interp_evidence is not None
    one = made.interp_evidence.highlights[0]
    tokens, silent = tuple(f" t{i}" for i in range(3000)), (0.0,) * 3000
    firing = (*silent[:2000], 7.0, *silent[2001:])
    long = one.model_copy(
        update={
            "candidate": one.candidate.model_copy(
                update={"tokens": tokens, "activations": firing, "n_prompt_tokens": 1990}
            )
        }
    )
    evidence = made.interp_evidence.model_copy(update={"highlights": (long,)})
    html = report_html(made.model_copy(update={"interp_evidence": evidence}))
    assert '<b class="a9" title="7"><wbr>·t2000</b>' in html
    assert "… 1880 tokens before these in interp_evidence.json" in html
    assert "… 880 tokens after these in interp_evidence.json" in html
    assert "t1500" not in html


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_is(text: str) -> None:
    made = made_run()
    first = made.suite_results.results[-1]
    hostile = first.model_copy(update={"id": text, "prompt": text})
    results = made.suite_results.model_copy(update={"results": (*made.suite_results.results[:-1], hostile)})
    decision = made.decision.model_copy(update={"title": text})
    html = report_html(made.model_copy(update={"suite_results": results, "decision": decision}))
    assert shown(html).count(visible(text)) >= 3
    assert not text or html.count("<h1>") == 1


@given(artefacts())
@settings(max_examples=25)
def test_any_run_is_a_page_that_parses(run: Artefacts) -> None:
    html = report_html(run)
    text = shown(html)
    assert run.decision.decision.verdict.capitalize() in text
    assert visible(run.decision.decision.reason) in text
    assert not INVISIBLE.search(html)


def test_another_process_makes_the_same_bytes(tmp_path: Path) -> None:  # A2.21
    made = made_run()
    for name, text in artefact_files(made).items():
        (tmp_path / name).write_text(text, "utf-8")
    script = (
        "import sys, pathlib\n"
        "from raylens.reports.json_files import read_artefacts\n"
        "from raylens.reports.report_html import report_html\n"
        "from raylens.reports.report_md import report_md\n"
        "run = read_artefacts({p.name: p.read_text('utf-8') for p in pathlib.Path(sys.argv[1]).iterdir()})\n"
        "heavy = {'torch', 'ray', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.stdout.buffer.write((report_html(run) + report_md(run)).encode())\n"
    )
    from raylens.reports.report_md import report_md

    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, capture_output=True, check=True
    )
    assert found.stdout.decode() == report_html(made) + report_md(made)
