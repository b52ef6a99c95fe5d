"""A rule said in a few words, for people to read: "`self` after `return`", "digits after `[`"."""

from __future__ import annotations

from raylens.explain.rule import Clause, Rule
from raylens.explain.token_test import CLASSES, TokenTest

MOST = 4
"""Alternatives that a phrase lists; the rest of a longer rule is in the rule."""


def phrase_of(rule: Rule) -> str:
    """``rule`` in words: alternatives that differ in the token only are named together.

    It says what the rule does for most of its clauses, not all of how; for that there is ``str(rule)``.
    """
    tokens: dict[str, list[str]] = {}
    for clause in rule.clauses:
        tokens.setdefault(_surroundings(clause), []).append(words(clause.token))
    groups = [f"{_either(list(dict.fromkeys(names)))}{where}" for where, names in tokens.items()]
    return "; or ".join(groups[:MOST]) + ("; or other tokens" if len(groups) > MOST else "")


def words(test: TokenTest) -> str:
    """``test`` in words: a token as code, a line break by its indentation, a class by its name."""
    text = test.text
    if test.kind == "class":
        return CLASSES[text][0]
    if text == "":
        return "nothing"
    if not text.strip():
        return _space(text)
    name = f"`{_on_one_line(text.strip())}`"
    if test.kind == "folded":
        return f"{name} in any case"
    return name


def _space(text: str) -> str:
    breaks = text.count("\n")
    if not breaks:
        return "a space" if text == " " else "a tab" if text == "\t" else f"{len(text)} spaces"
    indent = len(text) - 1 - text.rindex("\n")
    what = "a blank line" if breaks > 1 else "a line break"
    return f"{what} and indentation by {indent}" if indent else what


def _on_one_line(text: str) -> str:
    return text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r").replace("`", "'")


def _surroundings(clause: Clause) -> str:
    where = ""
    if clause.before:
        where += " after " + " ".join(words(test) for test in clause.before)
    if clause.within is not None:
        what = words(clause.within.test)
        where += f"{_how_far(clause.within.tokens)} after {what}"
    if clause.after is not None:
        where += f" before {words(clause.after)}"
    if clause.not_after is not None:
        where += f", but not after {words(clause.not_after)}"
    return where


def _how_far(tokens: int) -> str:
    if tokens <= 3:  # which decides, and which a reader can count
        return f" at most {tokens} tokens" if tokens > 1 else " right"
    return " soon" if tokens <= 8 else " some way"


def _either(names: list[str]) -> str:
    shown = names[:MOST]
    if len(names) > MOST:
        shown.append("others")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"
