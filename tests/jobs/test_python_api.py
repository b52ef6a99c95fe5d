"""docs/python-api.md says what works: its examples are run, one after the other, as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cache_runs import Made, lend_map
from fake_llm import Answer, Asked, FakeLlm
from raylens.config import CacheConfig
from raylens_jobs.cache import plan_cache
from reading_judge import Judge

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python-api.md"
ENDPOINT = "http://localhost:8000/v1"
BLOCK = re.compile(r"^## (?P<title>.+?)$|^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, int, str]]:
    """Heading, line and code of each block."""
    title, found = "", []
    text = PAGE.read_text()
    for match in BLOCK.finditer(text):
        if match["title"]:
            title = match["title"]
        else:
            found.append((title, text.count("\n", 0, match.start()) + 1, match["code"]))
    return found


def test_the_examples_of_the_page_run(  # A1.14
    undisturbed: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = examples()
    assert [title for title, _, _ in blocks] == [
        "A latent cache", "Examples of a latent", "A client", "An explainer", "An explainer", "A scorer", "A scorer",
    ]  # fmt: skip
    judge = Judge(mode="coin")

    def respond(asked: Asked) -> Answer:
        return Answer("hello") if asked.prompt == "Say hello." else judge(asked)

    monkeypatch.chdir(tmp_path)
    asked_for = re.search(r"CacheConfig\((.*?)^\)", blocks[0][2], re.MULTILINE | re.DOTALL)
    assert asked_for
    config = eval(f"CacheConfig({asked_for[1]})", {"CacheConfig": CacheConfig})
    lend_map(undisturbed, tmp_path / "raylens-data", plan_cache(config).cache_id)
    names: dict[str, object] = {"__name__": "__main__"}
    printed: dict[int, list[str]] = {}
    with FakeLlm(respond) as llm:
        for _, line, code in blocks:
            capsys.readouterr()
            exec(compile(code.replace(ENDPOINT, llm.base_url), f"{PAGE.name}:{line}", "exec"), names)
            printed[line] = capsys.readouterr().out.splitlines()
    assert judge.refused == []
    assert all(printed.values()), "every example shows something"
    latents, _, client, _, _, detection, exact = printed.values()
    assert len(latents) == 3
    assert client == ["hello 1"]
    assert 0 <= float(detection[0].split()[0]) <= 1
    assert exact[-1].startswith("auc ")
