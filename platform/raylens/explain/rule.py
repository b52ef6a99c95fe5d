"""An executable rule about tokens: when a feature should fire, as a few clauses of which one has to hold.

What a person writes as "`self` after `return`, or digits inside brackets" is here two clauses. A rule can be run on
any text, so an explanation that has one is scored exactly, without a judge. :meth:`Rule.fires` asks every clause of
every token as it is defined; :mod:`raylens.explain.matching` does the same for many excerpts at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raylens.errors import InputError
from raylens.explain.token_test import TokenTest


@dataclass(frozen=True, slots=True)
class Within:
    """``test`` holds of at least one of the ``tokens`` tokens before."""

    test: TokenTest
    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"a rule looks back {self.tokens} tokens.", hint="look back at least one.")


@dataclass(frozen=True, slots=True)
class Clause:
    """One way to fire: all that it states has to hold at a token.

    Attributes:
        token: Of the token itself.
        before: Of the tokens immediately before it, in reading order: the last is about the neighbour.
        within: Of some token not far before it; None to ask nothing.
        after: Of the next token; None to ask nothing.
        not_after: Of the token immediately before, which must not satisfy it; None to ask nothing. An exception is
            what sets some features apart: "`self`, but not after `(`".
    """

    token: TokenTest
    before: tuple[TokenTest, ...] = ()
    within: Within | None = None
    after: TokenTest | None = None
    not_after: TokenTest | None = None

    def holds(self, tokens: Sequence[str], at: int) -> bool:
        """Whether it fires on ``tokens[at]``; what lies outside of ``tokens`` satisfies no test."""
        if not self.token.holds(tokens[at]):
            return False
        first = at - len(self.before)
        if first < 0 or not all(test.holds(tokens[first + i]) for i, test in enumerate(self.before)):
            return False
        if self.within is not None:
            near = tokens[max(at - self.within.tokens, 0) : at]
            if not any(self.within.test.holds(token) for token in near):
                return False
        if self.not_after is not None and at > 0 and self.not_after.holds(tokens[at - 1]):
            return False
        return self.after is None or (at + 1 < len(tokens) and self.after.holds(tokens[at + 1]))

    @property
    def n_tests(self) -> int:
        """How many tests a reader has to keep in mind; one of any token is none."""
        context = len(self.before) + sum(one is not None for one in (self.within, self.after, self.not_after))
        return context + (not self.token.is_any)

    def to_value(self) -> dict[str, Any]:
        value: dict[str, Any] = {"token": self.token.to_value()}
        if self.before:
            value["before"] = [test.to_value() for test in self.before]
        if self.within is not None:
            value["within"] = {"test": self.within.test.to_value(), "tokens": self.within.tokens}
        if self.after is not None:
            value["after"] = self.after.to_value()
        if self.not_after is not None:
            value["not_after"] = self.not_after.to_value()
        return value

    def __str__(self) -> str:
        parts = [str(self.token)]
        if self.before:
            parts.append("after " + " ".join(str(test) for test in self.before))
        if self.within is not None:
            parts.append(f"with {self.within.test} among the {self.within.tokens} tokens before")
        if self.after is not None:
            parts.append(f"before {self.after}")
        if self.not_after is not None:
            parts.append(f"not after {self.not_after}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires where one of its clauses holds; without clauses, nowhere."""

    clauses: tuple[Clause, ...]

    def fires(self, tokens: Sequence[str]) -> NDArray[np.bool_]:
        """On which of ``tokens`` it fires: ``[len(tokens)]`` bool."""
        return np.array([any(c.holds(tokens, at) for c in self.clauses) for at in range(len(tokens))], dtype=np.bool_)

    def matches(self, tokens: Sequence[str]) -> bool:
        """Whether it fires on any of ``tokens``: its prediction that the feature is active in them."""
        return any(c.holds(tokens, at) for at in range(len(tokens)) for c in self.clauses)

    def to_json(self) -> str:
        """One line of JSON, the same for equal rules."""
        return json.dumps({"clauses": [c.to_value() for c in self.clauses]}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Rule:
        """Inverse of :meth:`to_json`.

        Raises:
            InputError: ``text`` is not JSON, or has a key or value that no rule has.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"a rule is not JSON: {error}.", hint="store what Rule.to_json returned.") from error
        fields = _fields(value, "a rule", required={"clauses"})
        return cls(tuple(_clause(c, f"clause {i}") for i, c in enumerate(_list(fields["clauses"], "'clauses'"), 1)))

    def __str__(self) -> str:
        return "; or ".join(str(c) for c in self.clauses) or "never"


def _clause(value: object, where: str) -> Clause:
    fields = _fields(
        value, f"{where} of a rule", required={"token"}, optional={"before", "within", "after", "not_after"}
    )
    within = None
    if "within" in fields:
        near = _fields(fields["within"], f"'within' in {where} of a rule", required={"test", "tokens"})
        if type(near["tokens"]) is not int:
            raise InputError(f"{where} of a rule looks back {near['tokens']!r} tokens.", hint="give a whole number.")
        within = Within(TokenTest.from_value(near["test"], f"'within' in {where}"), near["tokens"])
    before = _list(fields.get("before", []), f"'before' in {where}")
    return Clause(
        TokenTest.from_value(fields["token"], f"'token' in {where}"),
        tuple(TokenTest.from_value(test, f"'before' in {where}") for test in before),
        within,
        TokenTest.from_value(fields["after"], f"'after' in {where}") if "after" in fields else None,
        TokenTest.from_value(fields["not_after"], f"'not_after' in {where}") if "not_after" in fields else None,
    )


def _fields(value: object, where: str, required: Set[str], optional: Set[str] = frozenset()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} is not an object: {value!r}.", hint="store what Rule.to_json returned.")
    if not required <= value.keys() <= required | optional:
        wrong = sorted(value.keys() - required - optional) or sorted(required - value.keys())
        what = "has the unknown key" if value.keys() - required - optional else "lacks the key"
        raise InputError(
            f"{where} {what} {wrong[0]!r}.", hint=f"its keys are {', '.join(sorted(required | optional))}."
        )
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where} of a rule is not a list: {value!r}.", hint="store what Rule.to_json returned.")
    return value
