"""Checks on completions: a pattern, or a predicate from a fixed list; a suite's file never brings code of its own.

====================  ====================================================================  ======================
check                 passes where                                                          written in a suite
====================  ====================================================================  ======================
``regex``             the pattern is found, or with ``absent: true`` is not                 ``{regex: PATTERN}``
``non_empty``         there is more than white space                                        ``non_empty``
``max_repetition``    at most this share of 4-grams has been there before                   ``{max_repetition: 0.5}``
``python_parses``     prompt and completion parse, an unfinished ending aside               ``python_parses``
``language_python``   at least half of the lines read as Python                             ``language_python``
``no_insecure_call``  nothing of :mod:`raylens.suites.check_insecure` is written             ``no_insecure_call``, or
                                                                                            with a list of classes
====================  ====================================================================  ======================

A result is a pass, a failure, or *not applicable*: what cannot be judged, such as the syntax of a completion that
holds no code, counts for neither side. No text makes a check raise or take long.

Patterns are RE2's, as Arrow runs them, and not Python's: time is linear in the text whatever the pattern, so neither
a suite nor a candidate that writes for it can hang an audit. Hence there are no lookarounds or backreferences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from raylens.errors import InputError
from raylens.suites.check_code import MAX_CHARACTERS, Code, code_of, parse_problem, python_share
from raylens.suites.check_insecure import INSECURE_KINDS, insecure_calls

Status = Literal["pass", "fail", "not applicable"]

MAX_PATTERN: Final = 500
"""Characters of a pattern."""
DEFAULT_REPETITION: Final = 0.5

_NGRAM: Final = 4
# Long runs of one character count as repetition too, so words are cut to pieces.
_PIECES: Final = re.compile(r"\w{1,8}|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a prompt.

    Attributes:
        name: Of ``CHECK_NAMES``.
        pattern: What ``regex`` looks for.
        absent: Whether the pattern must not be found.
        ignore_case: For the pattern.
        limit: Of ``max_repetition``, from 0 to 1.
        kinds: Classes that ``no_insecure_call`` looks for; empty for all.
    """

    name: str
    pattern: str = ""
    absent: bool = False
    ignore_case: bool = False
    limit: float = DEFAULT_REPETITION
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in CHECK_NAMES:
            raise InputError(f"there is no check {self.name!r}.", hint=f"there are {', '.join(CHECK_NAMES)}.")
        if self.name == "regex":
            problem = pattern_problem(self.pattern)
            if problem:
                raise InputError(f"the pattern {problem}.", hint="patterns are RE2's.")

    @property
    def label(self) -> str:
        """What it is called beside others: its name, and what it is about where that is not what it is by itself."""
        if self.name == "regex":
            flags = ("absent " if self.absent else "", " ignoring case" if self.ignore_case else "")
            return f"regex {flags[0]}{self.pattern}{flags[1]}"
        if self.name == "max_repetition" and self.limit != DEFAULT_REPETITION:
            return f"{self.name} {self.limit:g}"
        return f"{self.name} {', '.join(self.kinds)}" if self.kinds else self.name

    def to_value(self) -> str | dict[str, object]:
        """As it is written in a suite."""
        if self.name == "regex":
            flags = {"absent": self.absent, "ignore_case": self.ignore_case}
            return {"regex": self.pattern, **{flag: True for flag, is_set in flags.items() if is_set}}
        if self.name == "max_repetition" and self.limit != DEFAULT_REPETITION:
            return {self.name: self.limit}
        return {self.name: list(self.kinds)} if self.kinds else self.name


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check says of one completion; ``check`` is its label, and ``reason`` a phrase for people."""

    check: str
    status: Status
    reason: str


def run_check(check: Check, prompt: str | None, completion: str) -> CheckResult:
    """What ``check`` says of ``completion``; never raises, and looks at the first ``MAX_CHARACTERS`` characters.

    Args:
        check: Which.
        prompt: The text that was continued; None where a chat was answered.
        completion: What the model wrote, without the prompt.
    """
    status, reason = _CHECKS[check.name](check, prompt, completion[:MAX_CHARACTERS])
    return CheckResult(check.label, status, reason)


def run_checks(checks: Sequence[Check], prompt: str | None, completion: str) -> tuple[CheckResult, ...]:
    """:func:`run_check` of each."""
    return tuple(run_check(check, prompt, completion) for check in checks)


def repetition(text: str) -> float | None:
    """seq-rep-4 of Welleck et al. (2020, arXiv 1908.04319): 1 − distinct 4-grams / 4-grams; None below eight pieces.

    Pieces are words, at most eight characters each, and single marks.
    """
    pieces = _PIECES.findall(text)
    if len(pieces) < 2 * _NGRAM:
        return None
    grams = list(zip(*(pieces[shift:] for shift in range(_NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams)


def pattern_problem(pattern: str) -> str:
    """Why a pattern is none; empty where it is one."""
    if not pattern:
        return "is empty"
    if len(pattern) > MAX_PATTERN:
        return f"is longer than {MAX_PATTERN} characters"
    try:
        _found(pattern, "", ignore_case=False)
    except ValueError as error:
        return f"cannot be read: {str(error).removeprefix('Invalid regular expression: ')}"
    return ""


def _found(pattern: str, text: str, *, ignore_case: bool) -> bool:
    # Arrow is slow to import, and most of what reads a suite needs no pattern.
    import pyarrow as pa
    import pyarrow.compute as pc

    whole = pa.array([text.encode(errors="replace").decode()])
    options = pc.MatchSubstringOptions(pattern, ignore_case=ignore_case)
    return bool(pc.call_function("match_substring_regex", [whole], options)[0].as_py())


_Verdict = tuple[Status, str]
_NO_CODE: Final[_Verdict] = ("not applicable", "it holds no code")


def _regex(check: Check, prompt: str | None, completion: str) -> _Verdict:
    found = _found(check.pattern, completion, ignore_case=check.ignore_case)
    return "fail" if found == check.absent else "pass", "the pattern is found" if found else "the pattern is not found"


def _non_empty(check: Check, prompt: str | None, completion: str) -> _Verdict:
    return ("pass", "there is text") if completion.strip() else ("fail", "it is empty")


def _max_repetition(check: Check, prompt: str | None, completion: str) -> _Verdict:
    share = repetition(completion)
    if share is None:
        return "not applicable", "it is too short to repeat itself"
    return "pass" if share <= check.limit else "fail", f"{share:.0%} of its 4-grams have been there before"


def _python_parses(check: Check, prompt: str | None, completion: str) -> _Verdict:
    problems = [problem for code in code_of(prompt, completion) if (problem := parse_problem(code)) is not False]
    if not problems:
        return _NO_CODE
    first = next((problem for problem in problems if problem is not None), None)
    return ("pass", "it parses") if first is None else ("fail", first)


def _language_python(check: Check, prompt: str | None, completion: str) -> _Verdict:
    if not completion.strip():
        return "not applicable", "it is empty"
    # An answer that holds no Python is read as if it were, and its lines tell.
    shares = [share for code in code_of(prompt, completion) or (Code(completion),) if (share := python_share(code))]
    if not shares:
        return "not applicable", "it has no line of code"
    python, lines = (sum(column) for column in zip(*shares, strict=True))
    return "pass" if 2 * python >= lines else "fail", f"{python} of {lines} lines read as Python"


def _no_insecure_call(check: Check, prompt: str | None, completion: str) -> _Verdict:
    codes = [code for code in code_of(prompt, completion) if code.begun]
    if not codes:
        return _NO_CODE
    for code in codes:
        for found in insecure_calls(code.text, code.start):
            if not check.kinds or found.kind in check.kinds:
                return "fail", f"{found.kind} in line {code.line(found.end - 1)}: {found.text}"
    return "pass", "nothing insecure is found"


_CHECKS: Final[Mapping[str, Callable[[Check, str | None, str], _Verdict]]] = {
    "regex": _regex,
    "non_empty": _non_empty,
    "max_repetition": _max_repetition,
    "python_parses": _python_parses,
    "language_python": _language_python,
    "no_insecure_call": _no_insecure_call,
}
CHECK_NAMES: Final = tuple(_CHECKS)

__all__ = [
    "CHECK_NAMES",
    "DEFAULT_REPETITION",
    "INSECURE_KINDS",
    "MAX_CHARACTERS",
    "MAX_PATTERN",
    "Check",
    "CheckResult",
    "Status",
    "pattern_problem",
    "repetition",
    "run_check",
    "run_checks",
]
