"""Phrases of the lexical explainer read back as a person would: the words alone, without the rule behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from raylens.explain.rule import Clause, Rule, Within
from raylens.explain.token_test import CLASSES, TokenTest

LOOK_BACK: Mapping[str, int] = {
    "right after": 1, "at most 2 tokens after": 2, "at most 3 tokens after": 3, "soon after": 8, "some way after": 31,
}  # fmt: skip
"""Tokens that the words are taken to mean, at most."""
_CLASS = {words: name for name, (words, _) in CLASSES.items()}
_NAME = "|".join([r"`[^`]+`(?: in any case)?", *sorted(map(re.escape, _CLASS), key=len, reverse=True)])
_WHERE = re.compile(rf"(?: |, but )({'|'.join(LOOK_BACK)}|after|before|not after) ((?:{_NAME})(?: (?:{_NAME}))*)")
_GROUP = re.compile(rf"(?P<names>(?:{_NAME})(?:(?:, | or )(?:{_NAME}|others))*)(?P<where>(?:{_WHERE.pattern})*)")
_EACH = re.compile(_NAME)


def read_phrase(phrase: str) -> Rule:
    """The rule that the words say; of "others" nothing is known.

    Raises:
        LookupError: They are not the lexical explainer's.
    """
    clauses: list[Clause] = []
    for part in phrase.removesuffix("; or other tokens").split("; or "):
        group = _GROUP.fullmatch(part)
        if group is None:
            raise LookupError(f"cannot be read: {part!r}")
        where = {
            found[1]: [_test(name) for name in _EACH.findall(found[2])] for found in _WHERE.finditer(group["where"])
        }
        clauses += [_clause(_test(name), where) for name in _EACH.findall(group["names"])]
    return Rule(tuple(clauses))


def _test(name: str) -> TokenTest:
    if name in _CLASS:
        return TokenTest("class", _CLASS[name])
    if name.endswith(" in any case"):
        return TokenTest("folded", name.removesuffix(" in any case").strip("`"))
    return TokenTest("stripped", name.strip("`"))


def _clause(token: TokenTest, where: Mapping[str, Sequence[TokenTest]]) -> Clause:
    near = [Within(where[words][0], tokens) for words, tokens in LOOK_BACK.items() if words in where]
    after, not_after = (where[words][0] if words in where else None for words in ("before", "not after"))
    return Clause(token, tuple(where.get("after", ())), near[0] if near else None, after, not_after)
