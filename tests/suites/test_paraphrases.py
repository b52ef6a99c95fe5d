"""What a language model is asked for variants, and which of its answers may stand for a prompt (A2.19)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paraphrasing_judge import ParaphrasingJudge, ToVary, written
from raylens.chat import Message, Reply
from raylens.errors import InputError
from raylens.suites.checks import Check
from raylens.suites.paraphrases import (
    KIND,
    PROMPT,
    RETRY_PROMPT,
    paraphrase_prompts,
    paraphrase_request,
    paraphrased_yaml,
    read_paraphrases,
    retry_request,
    with_paraphrases,
)
from raylens.suites.shipped import shipped_suite
from raylens.suites.suite import ORIGINAL, Prompt, Suite, Variant
from raylens.suites.suite_parsing import parse_suite
from reading_judge import wire

CODE = 'def area(radius):\n    """Return the area."""\n    return '
PROSE = "When the queue of {name} is empty, a thread that asks for an item"


def prompt(text: str, name: str = "a", checks: tuple[Check, ...] = ()) -> Prompt:
    return Prompt(name, Variant(text, None, ORIGINAL), checks=checks)


def chat(*turns: str) -> Prompt:
    roles = ("user", "assistant") * len(turns)
    messages = tuple(Message(role, text) for role, text in zip(roles, turns, strict=False))  # type: ignore[arg-type]
    return Prompt("a", Variant(None, messages, ORIGINAL))


def texts(text: str, *wordings: str, ended: str = "stop") -> list[str | None]:
    reply = Reply(written(*wordings), finish_reason=ended)
    return [one.text for one in read_paraphrases(reply, prompt(text)).variants]


def faults(text: str | Prompt, *wordings: str) -> str:
    found = read_paraphrases(Reply(written(*wordings)), prompt(text) if isinstance(text, str) else text)
    assert found.variants == ()
    return found.shortage(1)


def test_it_is_asked_in_the_words_of_a_file_and_once_more_with_the_reason(tmp_path: Path) -> None:
    prompts = paraphrase_prompts()
    request = paraphrase_request(prompt("def f({n}):\n"), 3, prompts)
    system, user = request.messages
    assert (system.role, user.role, request.temperature) == ("system", "user", 0.0)
    assert "<rewrite>" in system.content
    assert user.content.endswith("def f({n}):\n"), "what is filled in is not filled in again"
    assert "3 different versions" in user.content
    assert request == paraphrase_request(prompt("def f({n}):\n"), 3, prompts)
    again = retry_request(request, "I would rather not", "it was {n} late.", 2, prompts)
    assert again.messages[:2] == request.messages
    assert again.messages[2] == Message("assistant", "I would rather not")
    judge = ParaphrasingJudge()
    assert judge.read(wire(request)) == ToVary("def f({n}):\n", 3)
    assert judge.read(wire(again)) == ToVary("def f({n}):\n", 2, "it was {n} late.")
    assert judge.read(wire(retry_request(request, "", "it was empty.", 3, prompts))) is not None
    assert judge.read([{"role": "user", "content": "What is two and two?"}]) is None
    own = "version: 9\n--- user\nSay it {n} times in other words: {text}\n"
    (tmp_path / f"{PROMPT}.txt").write_text(own)
    theirs = paraphrase_prompts(tmp_path)
    assert (theirs[PROMPT].version, theirs[RETRY_PROMPT]) == (9, prompts[RETRY_PROMPT])
    assert theirs.prompt_hash != prompts.prompt_hash
    (tmp_path / f"{PROMPT}.txt").write_text(own.replace("{text}", ""))
    with pytest.raises(InputError, match=r"without \{text\}"):
        paraphrase_prompts(tmp_path)


def test_wordings_are_read_and_what_stands_around_them_is_not() -> None:
    other = CODE.replace("radius", "r")
    assert texts(CODE, other.rstrip()) == [other], "it ends as the original does"
    assert texts(CODE, f"```python\n{other}\n```") == [other]
    assert texts(CODE, f"\n{other}".replace("\n", "\r\n")) == [other]
    assert texts("\r\n" + CODE.replace("\n", "\r\n"), other) == ["\r\n" + other.replace("\n", "\r\n")]
    assert texts("def f(a):\n\n", "def f(b):") == ["def f(b):\n\n"]
    assert texts("The cat sat on", "On it sat the cat, on") == ["On it sat the cat, on"]
    assert texts(CODE, other, ended="length") == [other], "it is whole, whatever came after it"


@pytest.mark.parametrize(
    ("text", "wording", "says"),
    [
        (CODE, " ", "version 1 is empty."),
        (CODE, CODE, "version 1 repeats the original or another version."),
        (CODE, "Return the area of a circle, given its radius, and round it up.", "version 1 is not Python."),
        (CODE, CODE + "3.14 * radius ** 2", "does not stop where the original stops"),
        (CODE, CODE.replace("return", "yield"), "is not the same code"),
        (CODE, "x", "version 1 has 2 characters, and the original 56."),
        (PROSE, PROSE + " " + "has to wait " * 50, "version 1 has 665 characters, and the original 65."),
        (PROSE, "If nothing is in the queue of {title}, a thread that asks for an item", "does not keep {name}"),
        (PROSE, "If nothing is in {the queue} of {name}, a thread that asks for one", "does not keep {the queue}"),
        (PROSE, "A thread has to wait if the queue of {name} is empty.", "ends a sentence"),
        (PROSE, "If the queue of {name} is\u202e empty, a thread that wants an item", "characters that are no text"),
        (PROSE, "If the queue of {name} is\x07 empty, a thread that wants an item", "characters that are no text"),
        (PROSE, "If the queue of {name} is \ud800 empty, a thread that wants an item", "characters that are no text"),
        (PROSE, "Sure: <rewrite> if the queue of {name} is empty, a thread", "holds <rewrite>"),
        (PROSE, "```\nif the queue of {name} is empty\n``` then a thread that", "holds ```"),
    ],
)
def test_a_wording_with_a_fault_is_not_used_and_the_fault_is_said(text: str, wording: str, says: str) -> None:
    assert says in faults(text, wording)


def test_a_reply_without_wordings_says_why() -> None:
    def reading(text: str, ended: str = "stop") -> str:
        return read_paraphrases(Reply(text, finish_reason=ended), prompt(PROSE)).shortage(2)

    assert reading("I cannot do that.") == "nothing stood between <rewrite> and </rewrite>."
    assert reading("") == "nothing stood between <rewrite> and </rewrite>."
    assert reading("<rewrite>If the", "length").startswith("it was cut off before its end; be shorter.")
    one = PROSE.replace("When", "If")
    assert reading(written(one)) == "it held 1 of 2 versions."
    assert reading(written(one, one)) == "version 2 repeats the original or another version."
    assert reading(written(one, PROSE.replace("When", "Once"))) == ""


def test_a_prompt_is_code_where_it_reads_so_or_a_check_asks_for_it() -> None:
    assert texts("Paris is", "A place: Paris is") == ["A place: Paris is"]
    asked = prompt("Paris is", checks=(Check("python_parses"),))
    assert "is not Python" in faults(asked, "A place, Paris, is")


def test_of_a_chat_the_last_turn_is_said_otherwise_and_its_code_is_kept() -> None:
    question = "Is this {right}?\n```python\nx = 'a'\n```\n```json\n{\"a\": 1}\n```"
    asked = chat("Hello.", "Hello!", question)
    assert paraphrase_request(asked, 1, paraphrase_prompts()).messages[-1].content.endswith(question)
    said = question.replace("Is this {right}?", "Would you call this {right}?").replace("x =", "y =")
    (found,) = read_paraphrases(Reply(written(said)), asked).variants
    assert found == Variant(
        None, (Message("user", "Hello."), Message("assistant", "Hello!"), Message("user", said)), KIND
    )
    assert "changes what a code block does" in faults(asked, said.replace("'a'", "'b'"))
    assert "changes what a code block does" in faults(asked, said.replace('"a"', '"b"'))
    assert "has 1 code blocks, and the original 2" in faults(asked, said[: said.index("```json")] + "and so on, please")
    assert texts_of(chat("Is it so? Yes, or no"), "Yes or no: is it so?") == ["Yes or no: is it so?"]
    fenced = chat("```python\nx = 'a'\n```")
    assert texts_of(fenced, "```python\nz = 'a'\n```") == ["```python\nz = 'a'\n```"]


def texts_of(asked: Prompt, *wordings: str) -> list[str]:
    found = read_paraphrases(Reply(written(*wordings)), asked).variants
    return [one.chat[-1].content for one in found if one.chat is not None]


def test_what_a_suite_says_already_is_not_said_again() -> None:
    first, second = prompt("The cat sat on", "a"), prompt("On it sat the cat, on", "b")
    new = Variant("The cat, it sat on", None, KIND)
    suite = Suite("s", (first, second))
    varied = with_paraphrases(suite, {"a": [second.original, new], "b": [new]})
    assert [one.variants for one in varied.prompts] == [(new,), ()]
    assert read_paraphrases(Reply(written("The cat, it sat on")), varied.prompts[0]).variants == ()
    assert read_paraphrases(Reply(written("The cat, it sat on")), first, {new.said}).variants == ()


def test_what_is_written_says_what_it_comes_from_and_is_the_same_suite() -> None:
    suite = shipped_suite("minimal")
    text = paraphrased_yaml(suite, suite, "org/model\n- id: x\u2028y", paraphrase_prompts())
    comments = [line for line in text.split("\n") if line.startswith("#")]
    assert comments[0] == f"# Paraphrases by org/model?- id: x?y, of suite minimal, digest {suite.digest}."
    assert paraphrase_prompts().prompt_hash in comments[1]
    assert parse_suite(text, "again").digest == suite.digest


@given(
    st.lists(st.sampled_from(["<rewrite>", "</rewrite>", "```", "python", "\n", "x", " ", "\r", "\x85", "{", "é"]))
    | st.lists(st.text(st.characters(exclude_categories=[]), max_size=20).map("<rewrite>{}</rewrite>".format)),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(str.strip),
)
def test_whatever_is_answered_what_is_used_stands_in_a_suite_as_it_is(parts: list[str], text: str) -> None:
    asked = prompt(text)
    found = read_paraphrases(Reply("".join(parts)), asked)
    varied = with_paraphrases(Suite("s", (asked,)), {"a": found.variants})
    assert len(varied.prompts[0].variants) == len(found.variants)
    again = parse_suite(paraphrased_yaml(varied, varied, "m", paraphrase_prompts()), "s")
    assert again.prompts == varied.prompts
    assert bool(found.shortage(len(found.variants) + 1))
