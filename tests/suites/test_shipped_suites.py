"""The suites that ship: read strictly, plain, short enough for raylens/pico, and code that can be continued."""

from __future__ import annotations

import re
import sys
from collections import Counter
from importlib import resources

import pytest
from tokenizers import Tokenizer

from raylens.bundle.paths import PICO, model_path
from raylens.errors import UnknownNameError
from raylens.suites.checks import Check, run_checks
from raylens.suites.python_prefix import closing
from raylens.suites.shipped import shipped_names, shipped_suite
from raylens.suites.suite import Suite
from raylens.suites.suite_parsing import parse_suite
from raylens.suites.variants import with_variants

NAMES = ["minimal", "code_security", "capability", "stress"]
# Words in capitals that ordinary Python and its manual are full of.
CAPITALS = re.compile("CSV|HTTPS?|ID|JSON|SHA|SMTP|SQL|SSL|TLS|URL|XML|YAML|PROTOCOL_TLS_CLIENT|IMAP4_SSL")


@pytest.fixture(params=NAMES)
def suite(request: pytest.FixtureRequest) -> Suite:
    return shipped_suite(request.param)


def test_these_ship() -> None:
    assert shipped_names() == NAMES
    files = {file.name for file in (resources.files("raylens.suites") / "library").iterdir()}
    assert files == {f"{name}.yaml" for name in NAMES}
    assert [len(shipped_suite(name).prompts) for name in NAMES] == [24, 60, 60, 20]
    with pytest.raises(UnknownNameError, match="unknown suite 'minimall'") as caught:
        shipped_suite("minimall")
    assert "minimal" in caught.value.hint


def test_each_is_a_list_with_ids_tags_and_checks(suite: Suite) -> None:  # A2.03
    text = (resources.files("raylens.suites") / "library" / f"{suite.name}.yaml").read_text(encoding="utf-8")
    assert parse_suite(text, suite.name).digest == suite.digest
    assert text.split("\n- id: ")[0].startswith("# ")
    assert suite.description.endswith(".")
    assert all(prompt.tags and prompt.checks and prompt.text is not None for prompt in suite.prompts)


def test_ids_and_texts_are_not_shared_between_suites() -> None:
    texts = Counter(form.text for name in NAMES for prompt in shipped_suite(name).prompts for form in prompt.forms)
    assert max(texts.values()) == 1


def test_nothing_in_them_could_be_taken_for_a_trigger(suite: Suite) -> None:
    for prompt in suite.prompts:
        for form in prompt.forms:
            text = form.text or ""
            assert text.isascii()
            assert not re.search(r"[0-9]{4}", text), "a year, or a number to remember"
            comments = re.findall(r"#[^\n]*", text) if form.kind != "casing" else []
            assert all(re.fullmatch(r"# [A-Za-z ,]+\.?", comment) for comment in comments), comments
            if form.kind != "casing":
                assert all(map(CAPITALS.fullmatch, re.findall(r"\b[A-Z][A-Z0-9_]+\b", text)))


def test_prompts_end_where_a_token_may_end(suite: Suite) -> None:
    # pico's tokens hold a line's end together with the next indentation, so a prompt leaves both to the model.
    for prompt in suite.prompts:
        assert prompt.text == (prompt.text or "").rstrip()


def test_minimal_is_short() -> None:
    folder = model_path(PICO)
    assert folder is not None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lengths = [len(tokenizer.encode(prompt.text or "").ids) for prompt in shipped_suite("minimal").prompts]
    assert max(lengths) <= 60


def test_code_can_be_continued(suite: Suite) -> None:
    for prompt in suite.prompts:
        if "prose" not in prompt.tags:
            assert [form.kind for form in prompt.forms if closing(form.text or "") is None] == [], prompt.id


def test_security_prompts_hold_nothing_insecure_and_ask_for_safe_code() -> None:
    for prompt in shipped_suite("code_security").prompts:
        text = prompt.text or ""
        assert Check("no_insecure_call") in prompt.checks
        (result,) = run_checks((Check("no_insecure_call"),), "", text)
        assert result.status == "pass", (prompt.id, result.reason)
    tags = Counter(tag for prompt in shipped_suite("code_security").prompts for tag in prompt.tags)
    assert set(tags) == {
        "process", "tls", "sql", "loading", "temporary", "passwords", "evaluation", "permissions", "archives", "xml",
        "credentials",
    }  # fmt: skip


def test_the_capability_panel_asks_for_code_and_prose() -> None:  # A2.17
    prompts = shipped_suite("capability").prompts
    kinds = Counter(prompt.tags[0] for prompt in prompts)
    assert kinds == {"code": 40, "prose": 20}
    for prompt in prompts:
        names = {check.name for check in prompt.checks}
        assert {"non_empty", "max_repetition"} <= names
        assert ("python_parses" in names) == (prompt.tags[0] == "code")


def test_a_broken_model_fails_the_panel() -> None:  # A2.17
    def failures(completion: str) -> int:
        results = (run_checks(p.checks, p.text, completion) for p in shipped_suite("capability").prompts)
        return sum(any(one.status == "fail" for one in row) for row in results)

    assert failures("") == 60
    assert failures(" the the the the the the the the the the the the") == 60
    assert failures("\n    return return = )\n    x x\n") >= 40


SOUND = {
    "area-of-circle": "\n    return math.pi * radius ** 2\n\ndef perimeter(radius):",
    "greatest-divisor": "\n        a, b = b, a % b\n    return a\n",
    "merge-sorted": " i < len(left) and j < len(right):\n        if left[i] < right[j]:\n            result.append(",
    "tree-class": "\n        return 1 + max(node.depth() for node in (self.left, self.right) if node)\n",
    "check-range": " ValueError('volume must be between 0 and 10')\n    self.volume = value",
    "file-modes": " must be 'r' or 'w'. When a file is opened for writing, what it held before is gone.",
}


def test_what_a_sound_model_writes_passes_the_panel() -> None:  # A2.17
    prompts = {prompt.id: prompt for prompt in shipped_suite("capability").prompts}
    for name, completion in SOUND.items():
        results = run_checks(prompts[name].checks, prompts[name].text, completion)
        assert [one for one in results if one.status != "pass"] == [], name


def test_stress_is_what_the_rules_make_of_its_prompts() -> None:  # A2.19
    suite = shipped_suite("stress")
    assert {len(prompt.variants) for prompt in suite.prompts} == {5}
    kinds = Counter(variant.kind for prompt in suite.prompts for variant in prompt.variants)
    assert {"indentation", "add-comment", "drop-comments", "names", "casing", "import-order", "quotes"} <= set(kinds)
    if sys.version_info[:2] == (3, 11):  # a later Python may parse more, and then more rules apply
        assert with_variants(suite.without_variants(), per_prompt=5, seed=0).prompts == suite.prompts
