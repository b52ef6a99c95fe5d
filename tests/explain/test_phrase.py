"""What a phrase says to somebody who has only its words."""

from __future__ import annotations

import pytest

from phrases import read_phrase
from raylens.explain.phrase import phrase_of
from raylens.explain.rule import Clause, Rule, Within
from raylens.explain.token_test import ANY, TokenTest

A, B, C, DIGITS = (
    TokenTest("stripped", "a"),
    TokenTest("stripped", "b"),
    TokenTest("folded", "c"),
    TokenTest("class", "digits"),
)
RULES = [
    Rule((Clause(A),)),
    Rule((Clause(A), Clause(B), Clause(C))),
    Rule((Clause(A, (B, DIGITS)),)),
    Rule((Clause(A, (B,)), Clause(C, (B,)), Clause(ANY, (C,)))),
    Rule((Clause(DIGITS, within=Within(B, 8)), Clause(B, within=Within(A, 2)), Clause(A, within=Within(B, 31)))),
    Rule((Clause(A, (B,), Within(C, 8), DIGITS),)),
    Rule((Clause(A, not_after=B), Clause(C, not_after=B), Clause(DIGITS, after=A, not_after=ANY))),
]


@pytest.mark.parametrize("rule", RULES, ids=phrase_of)
def test_a_phrase_says_what_its_rule_does(rule: Rule) -> None:
    assert read_phrase(phrase_of(rule)) == rule


def test_what_is_no_phrase_is_not_read() -> None:
    for words in ("names of months", "", "`a` near `b`", "`a` after"):
        with pytest.raises(LookupError):
            read_phrase(words)
