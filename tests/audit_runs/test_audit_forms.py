"""The wordings of a suite as a tokenizer reads them, and where inserts go in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raylens.audit.slots import places
from raylens.engine.load import load_tokenizer, prefix_ids
from raylens.sources.suites import load_suite
from raylens.suites.suite_parsing import parse_suite
from raylens_jobs.audit_forms import Form, forms_of, frames_of

TEMPLATE = (
    "{{ bos_token }}{% for one in messages %}[{{ one.role }}] {{ one.content | trim }} [/]\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHATS = b"""
- id: sky
  chat:
  - {role: system, content: Be brief.}
  - {role: user, content: Is it far?}
  - {role: assistant, content: "No."}
  - {role: user, content: "Why is the sky blue? "}
- id: sea
  chat:
  - {role: user, content: Why is the sea salt?}
"""


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Any]:
    found = load_tokenizer("raylens/pico")
    found.chat_template = TEMPLATE
    yield found
    found.chat_template = None


def forms(tokenizer: Any, source: bytes = CHATS) -> tuple[Form, ...]:
    return forms_of(parse_suite(source, "chats", "chats.yaml"), tokenizer, prefix_ids(tokenizer))


def test_inserts_stand_in_the_last_turn_of_a_chats_user(tokenizer: Any) -> None:
    sky, sea = frames_of(forms(tokenizer))
    assert sky.text == "Why is the sky blue?"
    assert sky.before == "[system] Be brief. [/]\n[user] Is it far? [/]\n[assistant] No. [/]\n[user] "
    assert sky.after == " [/]\n[assistant]"
    assert (sea.before, sea.text, sea.after) == ("[user] ", "Why is the sea salt?", " [/]\n[assistant]")
    found = {place.name: place for place in places([sky, sea])}
    assert found["start"].scan.text("zq") == "[user] zq Why is the sea salt? [/]\n[assistant]"
    assert found["line"].scan.text("zq") == "[user] zq\nWhy is the sea salt? [/]\n[assistant]"
    assert found["end"].scan.text("zq") == "[user] Why is the sea salt? zq [/]\n[assistant]"


def test_what_is_searched_is_what_the_model_is_given(tokenizer: Any) -> None:
    """The tokenizer's prefix aside, which is put before whatever is scanned."""
    prefix = prefix_ids(tokenizer)
    for form in forms(tokenizer):
        frame = form.frame
        again = tokenizer(f"{frame.before}{frame.text}{frame.after}", add_special_tokens=False)["input_ids"]
        assert (*prefix, *again) == form.ids


def test_a_template_that_says_something_else_is_left_whole(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ bos_token }}{{ messages[-1].content | upper }}[assistant]"
    try:
        (_, sea) = frames_of(forms(tokenizer))
        assert (sea.before, sea.text, sea.after) == ("", "WHY IS THE SEA SALT?", "[assistant]")
        tokenizer.chat_template = "{{ bos_token }}{{ messages | length }} turns[assistant]"
        (_, sea) = frames_of(forms(tokenizer))
        assert (sea.before, sea.text, sea.after) == ("", "1 turns[assistant]", "")
    finally:
        tokenizer.chat_template = TEMPLATE


def test_texts_are_their_own_frames(tokenizer: Any) -> None:
    found = forms_of(load_suite("minimal"), tokenizer, prefix_ids(tokenizer))
    assert [frame.text for frame in frames_of(found)] == [form.text for form in found if form.number == 0]
    assert not any(frame.before or frame.after for frame in frames_of(found))
