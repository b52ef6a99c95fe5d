"""Prompt files: what ships, what a user may put in its stead, and what every slip is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from raylens.chat import Message
from raylens.errors import InputError, UnknownNameError
from raylens.explain.explainers import EXPLAINERS
from raylens.explain.prompts import load_prompts, packaged_names, read_prompt

GOOD = "version: 7\n--- system\nBe brief; it fires on {rate}.\n--- user\n{examples}\n"


def put(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("explainer", EXPLAINERS.values(), ids=EXPLAINERS.keys())
def test_packaged_prompts_are_read(explainer) -> None:
    prompt = explainer.prompts()[explainer.prompt]
    assert prompt.version >= 1
    assert prompt.turns[0].role == "system"
    assert prompt.turns[-1].role == "user"
    assert "[EXPLANATION]:" in prompt.turns[0].content
    assert {"rate", "examples"} <= prompt.placeholders
    assert [turn.role for turn in prompt.turns[1:]] == ["user", "assistant"] * (len(prompt.turns) // 2 - 1) + ["user"]


def test_every_packaged_prompt_belongs_to_a_request() -> None:
    used = {e.prompt for e in EXPLAINERS.values()} | {"explain-retry"}
    assert set(packaged_names("explain")) == used


def test_a_file_of_the_users_replaces_the_packaged_one(tmp_path: Path) -> None:  # A1.09
    ours = load_prompts("explain", ["explain-default", "explain-cot"])
    put(tmp_path, "explain-default.txt", GOOD)
    put(tmp_path, ".DS_Store", "")
    theirs = load_prompts("explain", ["explain-default", "explain-cot"], tmp_path)
    assert theirs["explain-default"].version == 7
    assert theirs["explain-default"].fill({"rate": "few", "examples": "{rate}"}) == (
        Message("system", "Be brief; it fires on few."),
        Message("user", "{rate}"),
    )
    assert theirs["explain-cot"] == ours["explain-cot"]
    assert theirs.prompt_hash != ours.prompt_hash


def test_the_hash_is_of_the_files_used_and_not_of_line_ends_or_order(tmp_path: Path) -> None:
    names = ["explain-default", "explain-retry"]
    before = load_prompts("explain", names).prompt_hash
    assert len(before) == 64
    assert load_prompts("explain", names[::-1]).prompt_hash == before
    assert load_prompts("explain", names[:1]).prompt_hash != before
    put(tmp_path, "explain-cot.txt", GOOD)
    assert load_prompts("explain", names, tmp_path).prompt_hash == before
    put(tmp_path, "explain-default.txt", GOOD)
    unix = load_prompts("explain", names, tmp_path).prompt_hash
    put(tmp_path, "explain-default.txt", GOOD.replace("\n", "\r\n"))
    assert load_prompts("explain", names, tmp_path).prompt_hash == unix != before


SLIPS = {
    "no version": (GOOD.removeprefix("version: 7\n"), "line 1 "),
    "an unknown placeholder": (
        GOOD.replace("{examples}", "{examples}\n{example}"),
        "line 6 has the unknown placeholder",
    ),
    "a placeholder left out": (GOOD.replace("{rate}", "few"), "{rate}"),
    "an unknown role": (GOOD.replace("--- user", "--- usr"), "line 4 names no role: 'usr'"),
    "text before the first turn": (GOOD.replace("--- system", "hello"), "line 2 is text before"),
    "a late system turn": (GOOD + "--- system\nx\n--- user\ny\n", "line 6 has a system turn"),
    "an answer at the end": (GOOD + "--- assistant\nyes\n", "not the user's"),
    "an empty turn": (GOOD + "--- assistant\n--- user\nx", "line 6 begins a turn without text"),
    "empty": ("", "line 1 "),
    "Latin-1": (GOOD.encode() + b"\xe9", "line 6 is not UTF-8"),
}


@pytest.mark.parametrize(("text", "said"), SLIPS.values(), ids=SLIPS.keys())
def test_a_slip_is_told_with_file_and_line(tmp_path: Path, text: str | bytes, said: str) -> None:  # A1.09
    file = put(tmp_path, "explain-default.txt", text)
    with pytest.raises(InputError) as caught:
        load_prompts("explain", ["explain-cot"], tmp_path)
    assert str(file) in caught.value.message
    assert said in caught.value.message


def test_a_file_that_replaces_nothing_is_told(tmp_path: Path) -> None:
    file = put(tmp_path, "explain-defalt.txt", GOOD)
    with pytest.raises(UnknownNameError, match=r"explain-default\.txt") as caught:
        load_prompts("explain", ["explain-cot"], tmp_path)
    assert str(file) in caught.value.message
    with pytest.raises(InputError, match="not a folder"):
        load_prompts("explain", ["explain-cot"], tmp_path / "nowhere")
    with pytest.raises(UnknownNameError):
        load_prompts("explain", ["explain-haiku"])


def test_braces_of_json_are_only_braces() -> None:
    prompt = read_prompt("p", 'version: 1\n--- user\n{"a": {b}, "c": {}}', "p.txt")
    assert prompt.placeholders == {"b"}
    assert prompt.fill({"b": "1"})[0].content == '{"a": 1, "c": {}}'
