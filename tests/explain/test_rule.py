"""Rules: what they fire on, the fast path against the definition, and their JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import InputError
from raylens.explain.matching import TokenBatch
from raylens.explain.phrase import phrase_of
from raylens.explain.rule import Clause, Rule, Within
from raylens.explain.token_test import ANY, CLASSES, TokenTest

TEXTS = ["a", " a", "A", "self", " self", "\n    ", "\n", "\n\n", "12", " 7", "(", "]", '"', " é", "", " ", "_x", "TWO"]
texts = st.sampled_from(TEXTS)
token_tests = st.one_of(
    st.builds(TokenTest, st.just("exact"), texts),
    st.builds(TokenTest, st.just("stripped"), texts.map(str.strip)),
    st.builds(TokenTest, st.just("folded"), texts.map(lambda t: t.strip().casefold())),
    st.builds(TokenTest, st.just("class"), st.sampled_from(sorted(CLASSES))),
)
clauses = st.builds(
    Clause,
    token_tests,
    st.lists(token_tests, max_size=2).map(tuple),
    st.none() | st.builds(Within, token_tests, st.integers(1, 12) | st.just(10**30)),
    st.none() | token_tests,
    st.none() | token_tests,
)
rules = st.lists(clauses, max_size=4).map(lambda c: Rule(tuple(c)))


def exact(text: str) -> TokenTest:
    return TokenTest("exact", text)


TOKENS = ["\n    ", "return", " self", ".", "x", "[", "12", "]"]


@pytest.mark.parametrize(
    ("clause", "expected"),
    [
        (Clause(exact(" self")), [2]),
        (Clause(exact("self")), []),
        (Clause(TokenTest("stripped", "self")), [2]),
        (Clause(TokenTest("folded", "return")), [1]),
        (Clause(TokenTest("class", "digits")), [6]),
        (Clause(TokenTest("class", "indented line")), [0]),
        (Clause(exact(" self"), before=(exact("return"),)), [2]),
        (Clause(exact("."), before=(exact("return"), exact(" self"))), [3]),
        (Clause(exact("."), before=(exact(" self"), exact("return"))), []),
        (Clause(exact("\n    "), before=(ANY,)), []),
        (Clause(ANY, within=Within(exact("return"), 2)), [2, 3]),
        (Clause(ANY, within=Within(exact("["), 99)), [6, 7]),
        (Clause(ANY, after=exact("]")), [6]),
        (Clause(exact("]"), after=ANY), []),
        (Clause(exact(" self"), not_after=exact("return")), []),
        (Clause(exact(" self"), not_after=exact(".")), [2]),
        (Clause(ANY, not_after=ANY), [0]),
        (Clause(exact("12"), before=(exact("["),), not_after=TokenTest("class", "digits")), [6]),
    ],
)
def test_a_clause_fires_where_all_that_it_states_holds(clause: Clause, expected: list[int]) -> None:
    fired = Rule((clause,)).fires(TOKENS)
    assert fired.dtype == np.bool_
    assert np.flatnonzero(fired).tolist() == expected
    assert Rule((clause,)).matches(TOKENS) is bool(expected)


def test_a_rule_fires_where_any_clause_does_and_without_clauses_nowhere() -> None:
    rule = Rule((Clause(exact("x")), Clause(exact("["))))
    assert np.flatnonzero(rule.fires(TOKENS)).tolist() == [4, 5]
    assert not Rule(()).fires(TOKENS).any()
    assert str(Rule(())) == "never"


@given(rules, st.lists(st.lists(texts, max_size=9), max_size=5))
def test_the_fast_path_is_the_definition(rule: Rule, excerpts: list[list[str]]) -> None:
    batch = TokenBatch.of(excerpts)
    assert batch.fires(rule).tolist() == [f for tokens in excerpts for f in rule.fires(tokens).tolist()]
    assert batch.matches(rule).tolist() == [rule.matches(tokens) for tokens in excerpts]


@given(rules)
def test_json_gives_the_same_rule_back(rule: Rule) -> None:
    assert Rule.from_json(rule.to_json()) == rule
    assert str(rule)
    assert isinstance(phrase_of(rule), str)


BAD = {
    "not JSON": "{",
    "a list": "[]",
    "no clauses": "{}",
    "clauses no list": '{"clauses": {}}',
    "unknown key": '{"clauses": [], "weight": 1}',
    "a clause that is no object": '{"clauses": [3]}',
    "unknown key in a clause": '{"clauses": [{"token": {"exact": "a"}, "near": 1}]}',
    "no token": '{"clauses": [{"after": {"exact": "a"}}]}',
    "unknown kind": '{"clauses": [{"token": {"regex": "a"}}]}',
    "unknown class": '{"clauses": [{"token": {"class": "verbs"}}]}',
    "two kinds": '{"clauses": [{"token": {"exact": "a", "folded": "a"}}]}',
    "text that is none": '{"clauses": [{"token": {"exact": 1}}]}',
    "spaces in a stripped text": '{"clauses": [{"token": {"stripped": " a"}}]}',
    "capitals in a folded text": '{"clauses": [{"token": {"folded": "A"}}]}',
    "looks back by none": '{"clauses": [{"token": {"exact": "a"}, "within": {"test": {"exact": ""}, "tokens": 0}}]}',
    "looks back by true": '{"clauses": [{"token": {"exact": "a"}, "within": {"test": {"exact": ""}, "tokens": true}}]}',
    "deep": "[" * 100_000,
    "a huge number": '{"clauses": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Rule.from_json(text)


def test_json_is_as_documented() -> None:
    rule = Rule((Clause(exact("x"), (ANY,), Within(exact("y"), 3), TokenTest("folded", "z"), exact("w")),))
    assert json.loads(rule.to_json()) == {
        "clauses": [
            {
                "token": {"exact": "x"},
                "before": [{"class": "any"}],
                "within": {"test": {"exact": "y"}, "tokens": 3},
                "after": {"folded": "z"},
                "not_after": {"exact": "w"},
            }
        ]
    }


@pytest.mark.parametrize(
    ("rule", "phrase"),
    [
        (Rule((Clause(exact("return")),)), "`return`"),
        (Rule((Clause(exact(" self"), (exact("return"),)),)), "`self` after `return`"),
        (Rule((Clause(exact("(")), Clause(exact("[")), Clause(exact("{")))), "`(`, `[` or `{`"),
        (Rule((Clause(TokenTest("class", "digits"), within=Within(exact("["), 4)),)), "digits soon after `[`"),
        (Rule((Clause(exact("import"), (exact("\n"),)),)), "`import` after a line break"),
        (Rule((Clause(exact("\n        ")),)), "a line break and indentation by 8"),
        (Rule((Clause(exact(" self"), not_after=exact("(")),)), "`self`, but not after `(`"),
        (Rule((Clause(exact("a")), Clause(ANY, (exact("b"),)))), "`a`; or any token after `b`"),
    ],
)
def test_a_phrase_is_short_and_plain(rule: Rule, phrase: str) -> None:
    assert phrase_of(rule) == phrase


@pytest.mark.parametrize(
    ("name", "of_it", "not_of_it"),
    [
        ("digits", ["12", " 7"], ["a1", "", "1.5"]),
        ("identifier", ["self", " x_1"], ["1x", "", "a b"]),
        ("spaced word", [" the"], ["the", " 1", "  the"]),
        ("capitalised", ["Tab", " The"], ["T", "TAB", "tab"]),
        ("capitals", ["TWO"], ["T", "Two"]),
        ("line break", ["\n", "\n  ", "):\n"], [" ", ""]),
        ("indented line", ["\n    "], ["\n", "x"]),
        ("outer line", ["\n", "\n\n"], ["\n  "]),
        ("blank line", ["\n\n  "], ["\n"]),
        ("spaces", [" ", "\t"], ["", "\n", " a"]),
        ("operator", [" ==", "->"], ["a+", "", "()"]),
        ("opening bracket", ["(", "[", "self(", "()["], [")", "", "(x"]),
        ("closing bracket", [")", "]:", " }"], ["x)", ""]),
        ("quote", ['"', "('"], ["x", ""]),
        ("punctuation", [")", " ...", "():"], ["", "_", "a.", " "]),
        ("underscore", ["_x", " __"], ["x_"]),
        ("non-ASCII", ["é"], ["e", ""]),
    ],
)  # fmt: skip
def test_classes(name: str, of_it: list[str], not_of_it: list[str]) -> None:
    test = TokenTest("class", name)
    assert [t for t in of_it if not test.holds(t)] == []
    assert [t for t in not_of_it if test.holds(t)] == []
