"""Replies: a phrase, or a reason; never a stand-in for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.chat import Message, Reply
from raylens.explain.explainers import EXPLAINERS
from raylens.explain.reply import MAX_CHARACTERS, Unreadable, read_explanation, read_reply, retry_messages

READABLE = {
    "[EXPLANATION]: `self` after `return`": "`self` after `return`",
    "First I look.\n[EXPLANATION]: a draft\nNo.\n[EXPLANATION]:   days  of the week \n\n": "days of the week",
    "**[EXPLANATION]:** numbers": "numbers",
    "**[EXPLANATION]**: numbers": "numbers",
    "[explanation]: numbers": "numbers",
    '[EXPLANATION]: "numbers"': "numbers",
    "[EXPLANATION]: `[` or `{`": "`[` or `{`",
    "[EXPLANATION]: größere Zahlen 数": "größere Zahlen 数",
}
UNREADABLE = {
    "": "empty",
    " \n\t": "empty",
    "It fires on numbers.": "no line began",
    "I would write [EXPLANATION]: numbers": "no line began",
    "[EXPLANATION]:": "nothing stood",
    "[EXPLANATION]: ...": "nothing stood",
    "[EXPLANATION]: numbers\nand words": "text followed",
    '{"explanation": "numbers"}': "JSON",
    '```json\n{"explanation": "numbers"}\n```': "JSON",
    '[EXPLANATION]: {"phrase": "numbers"}': "JSON",
    "```\n[EXPLANATION]: numbers\n```": "code fence",
    "[EXPLANATION]: ```numbers```": "code fence",
    "[EXPLANATION]: " + "x" * (MAX_CHARACTERS + 1): f"{MAX_CHARACTERS + 1} characters",
    "[EXPLANATION]: Explanation could not be parsed.": "said nothing",
    "[EXPLANATION]: none": "said nothing",
    "[EXPLANATION]: <phrase>": "said nothing",
    "[EXPLANATION]: a\x00b": "no text",
    "[EXPLANATION]: a\x9b31mb": "no text",
    "[EXPLANATION]: a\u202eb": "no text",
}


@pytest.mark.parametrize(("text", "phrase"), READABLE.items())
def test_a_phrase_is_read(text: str, phrase: str) -> None:  # A1.08
    assert read_explanation(text) == phrase


@pytest.mark.parametrize(("text", "reason"), UNREADABLE.items())
def test_anything_else_is_a_reason(text: str, reason: str) -> None:
    found = read_explanation(text)
    assert isinstance(found, Unreadable)
    assert reason in found.reason


@given(st.text() | st.text("[EXPLANATION]: \n`{}\"'*x", max_size=60).map(lambda t: f"[EXPLANATION]:{t}"))
def test_reading_never_raises_and_gives_one_line(text: str) -> None:
    found = read_explanation(text)
    if isinstance(found, Unreadable):
        assert found.reason.endswith(".") or found.reason.endswith(":.")
    else:
        assert found == " ".join(found.split()) != ""
        assert len(found) <= MAX_CHARACTERS
        found.encode()


def test_an_answer_cut_off_is_not_read() -> None:
    assert isinstance(read_reply(Reply("[EXPLANATION]: the start of", finish_reason="length")), Unreadable)
    assert read_reply(Reply("[EXPLANATION]: the start of a line")) == "the start of a line"


def test_a_retry_gives_the_reason() -> None:
    prompts = EXPLAINERS["default"].prompts()
    asked = (Message("user", "why?"),)
    chat = retry_messages(asked, "because", Unreadable("no line began with it."), prompts)
    assert [m.role for m in chat] == ["user", "assistant", "user"]
    assert "no line began with it." in chat[-1].content
    # Endpoints refuse an empty turn.
    assert [m.role for m in retry_messages(asked, " ", Unreadable("it was empty."), prompts)] == ["user", "user"]
