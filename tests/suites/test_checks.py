"""Checks on completions: what passes, what fails, what cannot be said, and that no text makes one raise."""

from __future__ import annotations

import ast
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import InputError
from raylens.suites.check_code import MAX_CHARACTERS
from raylens.suites.checks import CHECK_NAMES, Check, CheckResult, repetition, run_check, run_checks
from raylens.suites.python_prefix import closing, error_of, parsed

DEF = 'def f(x):\n    """Return x."""\n'
PROSE = "In the morning the two friends went for a walk along the"
NO = "not applicable"


def status(check: str | Check, prompt: str | None, completion: str) -> str:
    return run_check(Check(check) if isinstance(check, str) else check, prompt, completion).status


def test_patterns() -> None:
    assert status(Check("regex", "b+$"), DEF, "abb") == "pass"
    assert status(Check("regex", "b+$"), DEF, "abba") == "fail"
    assert status(Check("regex", "b+$", absent=True), DEF, "abb") == "fail"
    assert status(Check("regex", "return"), DEF, "pass") == "fail"  # the prompt is not searched
    assert status(Check("regex", "ABB"), DEF, "abb") == "fail"
    assert status(Check("regex", "ABB", ignore_case=True), DEF, "abb") == "pass"
    assert status(Check("regex", "x$"), DEF, "\ud800x") == "pass"


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "(a|ab|b)*c", "a*a*a*a*a*a*b", "(.*)*x"])
def test_no_pattern_hangs(pattern: str) -> None:
    # Python's own engine needs longer than the universe has had for some of these.
    assert status(Check("regex", pattern), None, "a" * (MAX_CHARACTERS - 1) + "!") == "fail"


@given(
    st.sampled_from(["a+b", "^a", "b$", "[ab]{2}", "a|bb", "a.b", r"\bab\b", "(?s)a.b", "(?m)^b$"]), st.text("ab \n")
)
def test_patterns_mean_what_they_mean_in_python(pattern: str, text: str) -> None:
    # Where both engines know a pattern they agree, save that Python's $ also looks before a last line feed.
    expected = re.search(pattern.replace("$", r"\Z") if "(?m)" not in pattern else pattern, text) is not None
    assert status(Check("regex", pattern), None, text) == ("pass" if expected else "fail")


@pytest.mark.parametrize(("text", "expected"), [("x", "pass"), ("", "fail"), (" \n\t ", "fail")])
def test_non_empty(text: str, expected: str) -> None:
    assert status("non_empty", DEF, text) == expected


def test_repetition_is_the_share_of_4_grams_seen_before() -> None:
    assert repetition("a b c d e f g h") == 0
    # a b a b a b a b: five 4-grams, of which abab and baba are distinct
    assert repetition("a b a b a b a b") == pytest.approx(1 - 2 / 5)
    assert repetition("a b c") is None
    assert repetition("=" * 100) == pytest.approx(1 - 1 / 97)
    assert repetition("a" * 400) == pytest.approx(1 - 1 / 47)
    assert status("max_repetition", None, "yes " * 50) == "fail"
    assert status("max_repetition", None, "too short") == NO
    assert status(Check("max_repetition", limit=1.0), None, "yes " * 50) == "pass"
    assert run_check(Check("max_repetition"), None, "yes " * 50).reason == "98% of its 4-grams have been there before"


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        (DEF, "    return x\n", "pass"),
        (DEF, "    return x\n\ndef g(y):\n    return (y +", "pass"),  # cut off
        (DEF, "    y = x\n    if y i", "pass"),  # the last line does not end
        (DEF, "    try:\n        y = x\n        z = y\n", "pass"),  # its handler has not come
        ("def f(x):\n    return", " x + 1\n", "pass"),
        ("class A:\n    @property\n    def x(self):", "\n        return 1\n", "pass"),
        (DEF, "    return x x\n    y\n", "fail"),
        (DEF, "    return x)\n", "fail"),
        (DEF, "  return x\n return y\n", "fail"),
        (DEF, "    return 'x\n    y\n", "fail"),
        (DEF, "    a b", NO),  # perhaps cut off in the middle of a word
        (DEF, "", NO),
        (DEF, "\n\n  ", NO),
        (DEF, "    # only a comment\n", NO),
        ('def f(x):\n    """Return', " the value of x and", NO),  # still the docstring
        (PROSE, " river.\nfoo\n", NO),
        (None, "Here it is:\n```python\nx = 1\n```\nDone.", "pass"),
        (None, "```python\nx = = 1\n```", "fail"),
        (None, "```\nx = 1\n```\n```python\ny = = 1\n```", "fail"),
        (None, "```bash\nls -l |\n```", NO),
        (None, "x = 1\nprint(x)\n", "pass"),
        (None, "I am sorry, I cannot.", NO),
        (None, "Yes", NO),
    ],
)
def test_python_parses(prompt: str | None, completion: str, expected: str) -> None:
    assert status("python_parses", prompt, completion) == expected


def test_an_error_is_told_with_its_line_in_the_completion() -> None:
    assert run_check(Check("python_parses"), DEF, "    y = x\n    return y y\n") == CheckResult(
        "python_parses", "fail", "invalid syntax in line 2"
    )


@pytest.mark.parametrize(
    ("prompt", "completion", "expected"),
    [
        (DEF, "    return x x\n    y = 2\n", "pass"),
        (
            DEF,
            "    data = {\n        'a': 1,\n    }\n    try:\n        g()\n    except OSError:\n        pass\n",
            "pass",
        ),
        (DEF, "It was the best of times,\nit was the worst of times.\n", "fail"),
        (None, "const x = 1;\nfunction f(a) {\n  let y = a;\n}\n", "fail"),
        (None, "Yes, of course.", "fail"),
        (None, "", NO),
        (DEF, "    # nothing\n", NO),
    ],
)
def test_language_python(prompt: str | None, completion: str, expected: str) -> None:
    assert status("language_python", prompt, completion) == expected


def test_insecure_calls_of_the_completion() -> None:
    check = Check("no_insecure_call")
    begun = "import subprocess\nsubprocess.run(command, shell="
    found = run_check(check, begun, "True)\n")
    assert (found.status, found.reason) == ("fail", "shell in line 1: shell=True")
    assert run_check(check, DEF, "\n    y = x\n    return eval(y)\n").reason == "eval in line 3: eval("
    assert status(check, "subprocess.run(command, shell=True)\n", "x = 1\n") == "pass"  # the prompt's own
    assert status(check, DEF, "    return 'eval(x)'\n") == "pass"
    assert status(check, DEF, "    x = = eval(y)\n") == "fail"  # what does not parse is read all the same
    assert status(check, DEF, "    # eval(x)") == NO
    assert status(check, None, "You could call eval(x) here, but don't.") == NO
    assert status(check, None, "```python\neval(x)\n```") == "fail"
    assert status(Check("no_insecure_call", kinds=("sql", "tls")), DEF, "    return eval(x)\n") == "pass"
    assert status(Check("no_insecure_call", kinds=("sql", "eval")), DEF, "    return eval(x)\n") == "fail"


def test_a_check_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="there is no check 'exec'"):
        Check("exec")
    with pytest.raises(InputError, match="the pattern cannot be read"):
        Check("regex", "(")
    with pytest.raises(InputError, match="the pattern is empty"):
        Check("regex")


@pytest.mark.parametrize(
    ("check", "label"),
    [
        (Check("non_empty"), "non_empty"),
        (Check("max_repetition"), "max_repetition"),
        (Check("max_repetition", limit=0.25), "max_repetition 0.25"),
        (Check("no_insecure_call", kinds=("eval", "pickle")), "no_insecure_call eval, pickle"),
        (Check("regex", "a+"), "regex a+"),
        (Check("regex", "a+", absent=True, ignore_case=True), "regex absent a+ ignoring case"),
    ],
)
def test_two_of_one_name_are_called_otherwise(check: Check, label: str) -> None:
    assert check.label == run_check(check, None, "x").check == label


EVERY = [Check(name, "(a|b)+c" if name == "regex" else "") for name in CHECK_NAMES]
PIECES = st.sampled_from(
    ["def f():\n", "    ", "\n", "(", ")", "'", '"""', "\\", "x", " = ", "1", "try:", "except", "if ", ":", "```",
     "python", "# c", "\ud800", "\x00", "\r", "\t", "\f", "ß", "@", "lambda", "f'{", "}", "return ", "eval(", "async ",
     "match x:"]
)  # fmt: skip
anything = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=50)


@given(st.none() | st.sampled_from([DEF, PROSE, "x("]) | anything, anything)
def test_no_check_raises_on_any_text(prompt: str | None, completion: str) -> None:
    results = run_checks(EVERY, prompt, completion)
    assert [one.check.partition(" ")[0] for one in results] == list(CHECK_NAMES)
    assert all(one.status in {"pass", "fail", NO} and one.reason for one in results)
    if not completion.strip():
        judged = {one.check: one.status for one in results if one.check not in {"non_empty", EVERY[0].label}}
        assert set(judged.values()) == {NO}


@pytest.mark.parametrize(
    "piece",
    ["a.b", "-", "(", "a if b else ", "lambda:", "[", "try:\n", "a\n", "import ", " \n", "1e", "```\n", "0x", "foo(\n"],
)
def test_no_check_raises_on_long_runs(piece: str) -> None:
    for check in EVERY:
        assert run_check(check, DEF, piece * (6000 // len(piece))).reason


STATEMENTS = st.lists(
    st.sampled_from(
        [
            "x = {'a': [1, 2], 'b': (3,)}",
            "if x:\n    y = f(x, key=1)\nelse:\n    y = 2",
            "try:\n    g(x)\nexcept ValueError as error:\n    raise OSError('no') from error\nfinally:\n    h()",
            "@cache\ndef f(a, *b, c=1):\n    '''Doc.'''\n    return a[b:c]",
            "class A:\n    @property\n    def x(self):\n        return self._x",
            "for i in range(3):\n    while i:\n        i -= 1",
            "with open(p) as s, open(q) as t:\n    pass",
            "from os import path as p, sep",
            'text = """two\nlines"""',
            "total = sum(v for v in values if v)",
            "assert not x, 'why'",
        ]
    ),
    min_size=1,
    max_size=4,
).map("\n".join)


@given(STATEMENTS, st.data())
def test_code_that_stops_anywhere_is_closed_by_an_ending(code: str, data: st.DataObject) -> None:
    cut = code[: data.draw(st.integers(0, len(code)))]
    suffix = closing(cut)
    if suffix is None:
        # In the middle of a word: the words before it can be closed.
        cut = cut[: cut.rstrip("abcdefghijklmnopqrstuvwxyz_").rfind("\n") + 1]
        suffix = closing(cut)
    assert suffix is not None
    ast.parse(cut + suffix)
    assert (suffix == "") == (parsed(cut) is not None) == (error_of(cut) is None)


@given(STATEMENTS, st.sampled_from(["x x", "= 1", ")", "1 = 2 3", "def", "'"]), st.data())
def test_an_error_before_the_end_is_not_closed(code: str, error: str, data: st.DataObject) -> None:
    assert closing(f"{error}\n{code}\ny = 1\n") is None
