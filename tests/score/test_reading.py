"""Reading replies: whatever a model writes, nothing raises and nothing is invented."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.chat import Message, Reply, Request, TokenLogprob
from raylens.score import detection, intruder, simulation
from raylens.score.questions import Answers, Question, Unreadable
from raylens.score.yes_no import read_list


def question(scorer: str, n: int) -> Question:
    items = n if scorer == "detection" else 1
    truth = (1.0,) + (0.0,) * (n - 1)
    return Question(scorer, Request((Message("user", ""),)), ("1:0",) * items, (1,) * items, truth, "")


def tokens(*parts: str | tuple[str, dict[str, float]]) -> tuple[TokenLogprob, ...]:
    """Tokens, some with probabilities of alternatives."""
    found = [(part, {part: 1.0}) if isinstance(part, str) else part for part in parts]
    return tuple(
        TokenLogprob(text, math.log(top.get(text, 1e-9)), {t: math.log(p) for t, p in top.items()})
        for text, top in found
    )


def said(*parts: str | tuple[str, dict[str, float]]) -> Reply:
    spelt = tokens(*parts)
    return Reply("".join(token.token for token in spelt), spelt)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 0, 1]",
        " [1,0,1]\n",
        "```json\n[1, 0, 1]\n```",
        "Texts [1] and [3] fit, so:\n[1, 0, 1]",
        "[\n  1,\n  0,\n  1\n]",
        "Antwort: [1, 0, 1] 🙂",
        "[[1, 0, 1]]",
    ],
)
def test_a_list_is_found_within_what_stands_around_it(text: str) -> None:
    assert read_list(Reply(text), 3) == Answers((1.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty reply"),
        (" \n", "an empty reply"),
        ("They all fit.", "no JSON list"),
        ("1, 0, 1", "no JSON list"),
        ("[1, 0", "no JSON list"),
        ("[1, 0]", "a list of 2 for 3 texts"),
        ("[1, 0, 1, 1]", "a list of 4 for 3 texts"),
        ("[]", "a list of 0 for 3 texts"),
        ("[1, 0, 1] or rather [1, 0]", "a list of 2 for 3 texts"),
        ("[1, 0, 2]", "its last list holds something other than 0 and 1"),
        ("[1, 0, 1.0]", "its last list holds something other than 0 and 1"),
        ("[true, false, true]", "its last list holds something other than 0 and 1"),
        ('["1", "0", "1"]', "its last list holds something other than 0 and 1"),
        ("[1, 0, 1,]", "its last list holds something other than 0 and 1"),
        ("[1 0 1]", "its last list holds something other than 0 and 1"),
        ("[yes, no, yes]", "its last list holds something other than 0 and 1"),
    ],
)
def test_anything_else_is_unreadable_and_says_why(text: str, reason: str) -> None:
    assert read_list(Reply(text), 3) == Unreadable(reason)


def test_a_reply_that_was_cut_off_says_so() -> None:
    assert read_list(Reply("[1, 0", finish_reason="length"), 3) == Unreadable(
        "cut off at its length limit, with no JSON list"
    )


@pytest.mark.parametrize(
    "parts",
    [
        ("[", ("1", {"1": 0.6, "0": 0.2, "A": 0.2}), ",", " ", ("0", {"0": 0.9, "1": 0.1}), "]"),
        (("[1", {"[1": 0.6, "[0": 0.2}), ",", (" 0", {" 0": 0.9, " 1": 0.1}), "]"),
        ("Sure: [0] is\n", "[", ("1,", {"1,": 0.6, "0,": 0.2}), (" 0]", {" 0]": 0.9, " 1]": 0.1})),
        ("[", ("1", {"1": 0.5, " 1": 0.1, "0": 0.1, "\n0": 0.1, "01": 1e-9}), ",", ("0", {"0": 0.9, "1": 0.1}), "]"),
        ("[", ("1", {"0": 0.2, "1": 0.6}), ", ", ("0", {"1": 0.1, "0": 0.9}), "]", "\n"),
    ],
)
def test_the_probability_of_one_however_the_list_is_cut_into_tokens(parts) -> None:
    found = read_list(said(*parts), 2)
    assert isinstance(found, Answers)
    assert found.values == (1.0, 0.0)
    assert found.probabilities == pytest.approx((0.75, 0.1), abs=1e-6)


def test_digits_that_share_a_token_are_conditioned_on_those_before() -> None:
    whole = {"[1, 0]": 0.5, "[1, 1]": 0.1, "[0, 1]": 0.3, "[0, 0]": 0.1, "[1]": 0.2}
    found = read_list(said(("[1, 0]", whole)), 2)
    assert isinstance(found, Answers)
    assert found.probabilities == pytest.approx((0.8 / 1.2, 0.1 / 0.6))


def test_the_written_digit_counts_even_where_the_endpoint_does_not_list_it() -> None:
    found = read_list(Reply("[1]", tokens("[", ("1", {"0": 0.25}), "]")), 1)
    assert isinstance(found, Answers)
    assert found.probabilities == pytest.approx((0.0,), abs=1e-6)
    impossible = (
        TokenLogprob("[", 0.0, {}),
        TokenLogprob("1", -math.inf, {"0": -math.inf}),
        TokenLogprob("]", 0.0, {}),
    )
    assert read_list(Reply("[1]", impossible), 1) == Answers((1.0,), (1.0,))
    unknown = (TokenLogprob("[1]", math.nan, {}),)
    assert read_list(Reply("[1]", unknown), 1) == Answers((1.0,), (1.0,))


def test_tokens_that_spell_another_list_give_no_probabilities() -> None:
    assert read_list(Reply("[1, 0]", tokens("[", "0", ", ", "0", "]")), 2) == Answers((1.0, 0.0))
    assert read_list(Reply("[1, 0]", tokens("[", "1")), 2) == Answers((1.0, 0.0))
    assert read_list(Reply("[1, 0]", ()), 2) == Answers((1.0, 0.0))


def test_simulation_reads_levels() -> None:
    three = question("simulation", 3)
    assert simulation.read_reply(three, Reply('so: {"1": 0, "2": 10, "3":4}')) == Answers((0.0, 10.0, 4.0))
    for text, reason in {
        "": "an empty reply",
        "0 10 4": "no JSON object",
        '{"1": 0, "2": 10': "no JSON object",
        '{"1": 0, "2": 10}': "an object whose keys are not 1 to 3 in order",
        '{"1": 0, "3": 10, "2": 4}': "an object whose keys are not 1 to 3 in order",
        '{"1": 0, "1": 0, "2": 10, "3": 4}': "an object whose keys are not 1 to 3 in order",
        '{"1": 0, "2": 11, "3": 4}': "a level that is not a whole number of 0 to 10",
        '{"1": 0, "2": -1, "3": 4}': "a level that is not a whole number of 0 to 10",
        '{"1": 0, "2": true, "3": 4}': "a level that is not a whole number of 0 to 10",
        '{"1": 0, "2": "x", "3": [4]}': "a level that is not a whole number of 0 to 10",
        "{1: 0}": "its last object is not JSON",
        '{"1": ' + "9" * 5000 + "}": "its last object is not JSON",
    }.items():
        assert simulation.read_reply(three, Reply(text)) == Unreadable(reason)


def test_simulation_expects_over_what_might_have_been_written() -> None:
    two = question("simulation", 2)
    one_token = said('{"1": ', ("8", {"8": 0.5, "10": 0.25, "x": 0.25}), ', "2": ', ("0", {"0": 0.75, " 4": 0.25}), "}")
    found = simulation.read_reply(two, one_token)
    assert isinstance(found, Answers)
    assert found.values == pytest.approx((6.5 / 0.75, 1.0))

    # Digit by digit: of "1" 60 % go on as "10", whether or not this one did.
    for tail in ({"0": 0.6, ",": 0.4}, {",": 0.4, "0": 0.6}):
        written = next(iter(tail))
        parts = ['{"1": ', ("1", {"1": 0.5, "3": 0.5}), (written, tail)]
        rest = [", "] if written == "0" else [" "]
        split = said(*parts, *rest, '"2": ', "0", "}")
        found = simulation.read_reply(two, split)
        assert isinstance(found, Answers)
        assert found.values == pytest.approx((0.5 * (0.6 * 10 + 0.4 * 1) + 0.5 * 3, 0.0))

    glued = said('{"1": 8, "2": 0}')
    assert simulation.read_reply(two, glued) == Answers((8.0, 0.0)), "no token of its own: the level as written"


def test_intruder_reads_one_number() -> None:
    five = question("intruder", 5)
    assert intruder.read_reply(five, Reply("The odd one is [3].")) == Answers((0.0, 0.0, 1.0, 0.0, 0.0))
    for text in ("3", "[0]", "[6]", "[3, 4]", "[3.0]", "[true]", "[three]", "[]", ""):
        assert isinstance(intruder.read_reply(five, Reply(text)), Unreadable)


NEAR = st.lists(
    st.sampled_from(
        ["[", "]", "{", "}", "0", "1", "10", "3", ",", ", ", ":", '"', '"1"', '"2"', " ", "\n", "-", ".", "x"]
    ),
    max_size=24,
).map("".join)
TOKENS = st.lists(
    st.builds(
        TokenLogprob,
        st.one_of(NEAR, st.text(max_size=3)),
        st.floats(),
        st.dictionaries(st.one_of(NEAR, st.text(max_size=3)), st.floats(), max_size=4),
    ),
    max_size=12,
).map(tuple)
REPLIES = st.one_of(
    st.builds(
        Reply,
        st.one_of(NEAR, st.text()),
        st.one_of(st.none(), TOKENS),
        finish_reason=st.sampled_from(["stop", "length"]),
    ),
    TOKENS.map(lambda spelt: Reply("".join(token.token for token in spelt), spelt)),
)


@given(REPLIES, st.integers(1, 6))
def test_no_reply_makes_detection_raise_or_invent(reply: Reply, n: int) -> None:
    found = detection.read_reply(question("detection", n), reply)
    if isinstance(found, Unreadable):
        assert found.reason
        return
    last = re.findall(r"\[[^\[\]]*\]", reply.text)[-1]
    assert json.loads(last) == list(found.values)
    assert len(found.values) == n
    assert found.probabilities is None or len(found.probabilities) == n
    assert all(0 <= p <= 1 for p in found.probabilities or ())


@given(st.lists(st.integers(0, 1), min_size=1, max_size=6), st.data())
def test_a_list_cut_anywhere_into_tokens_is_read_with_its_probabilities(values: list[int], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(["", "Answer: ", "[9] "])) + json.dumps(values)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = read_list(said(*parts), len(values))
    assert found == Answers(tuple(map(float, values)), tuple(map(float, values)))


@given(REPLIES, st.integers(1, 3))
def test_no_reply_makes_simulation_or_intruder_raise_or_invent(reply: Reply, n: int) -> None:
    found = simulation.read_reply(question("simulation", n), reply)
    if isinstance(found, Answers):
        assert list(json.loads(re.findall(r"\{[^{}]*\}", reply.text)[-1])) == [str(i + 1) for i in range(n)]
        assert all(0 <= level <= 10 for level in found.values)
    found = intruder.read_reply(question("intruder", n), reply)
    if isinstance(found, Answers):
        (number,) = json.loads(re.findall(r"\[[^\[\]]*\]", reply.text)[-1])
        assert found.values == tuple(float(i + 1 == number) for i in range(n))


@given(st.lists(st.integers(0, 10), min_size=1, max_size=5), st.data())
def test_levels_cut_anywhere_into_tokens_are_read_as_written(levels: list[int], data: st.DataObject) -> None:
    text = json.dumps({str(i): level for i, level in enumerate(levels, start=1)})
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1))))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = simulation.read_reply(question("simulation", len(levels)), said(*parts))
    assert isinstance(found, Answers)
    assert found.values == pytest.approx(tuple(map(float, levels)))
