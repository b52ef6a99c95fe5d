"""Whether two wordings hold the same Python: our own rules are the oracle for yes, every other edit for no."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.suites.python_tokens import lex
from raylens.suites.same_code import continues_python, reads_as_code, same_code
from raylens.suites.shipped import shipped_names, shipped_suite

CODE = '''import os
import sys as system

class Shelf(Base):
    """What is kept."""

    limit = 10

    def __init__(self, books, *, name="a"):
        self.books = books
        self.name = name

    def first(self, key):
        # Look at one.
        for book in self.sorted(key=key):
            if book.name == os.path.join(self.name, "x"):
                return self.first(key=book)

def make(books, path):
    with open(path, encoding="utf-8", mode="r") as stream:
        return Shelf(books, name=path)
'''
TEXTS = [prompt.text or "" for name in shipped_names() for prompt in shipped_suite(name).prompts]


def test_what_our_rules_make_is_the_same_code() -> None:
    stress = shipped_suite("stress")
    pairs = [(prompt.text or "", variant.text or "") for prompt in stress.prompts for variant in prompt.variants]
    assert len(pairs) == 100
    assert [pair for pair in pairs if not same_code(*pair) or not same_code(*pair[::-1])] == []


def test_code_and_prose_of_what_ships_are_told_apart() -> None:
    code = [text for text in TEXTS if reads_as_code(text)]
    assert len(code) == 144
    assert [text for text in TEXTS if not reads_as_code(text) and "def " in text] == []
    assert not any(map(reads_as_code, ("Paris is", "Hello", "Dear John,", "yes, no", "")))
    assert continues_python("Paris is")


@given(st.sampled_from(["books", "path", "key", "book", "stream", "make", "Shelf", "first", "limit"]), st.booleans())
def test_a_name_that_the_code_gives_may_be_another_everywhere(name: str, has_tail: bool) -> None:
    code = CODE + ("\ndef other(a):\n    return " if has_tail else "")
    # Both are names and attributes here; `path` stands in os.path too, which is not ours to rename.
    other = re.sub(rf"(?<!os\.)\b{name}\b", f"{name}_2", code)
    if name == "key":
        other = other.replace("sorted(key_2=", "sorted(key=")
    assert same_code(code, other)
    once = re.sub(rf"(?<!os\.)\b{name}\b", f"{name}_2", code, count=1)
    assert not same_code(code, once) or len(re.findall(rf"\b{name}\b", code)) == 1


@given(st.integers(0, len(lex(CODE)) - 1))
def test_code_that_lacks_a_token_is_other_code(place: int) -> None:
    token = lex(CODE)[place]
    without = CODE[: token.start] + CODE[token.end :]
    says = token.kind not in {"comment", "space", "newline"} and not token.text.startswith('"""')
    # A comma at the end of a line, or a line end that stands alone, changes nothing.
    if says and re.sub(r"[\s,]", "", without) != re.sub(r"[\s,]", "", CODE):
        assert not same_code(CODE, without), token


@pytest.mark.parametrize("text", TEXTS[::7])
def test_where_code_stops_counts(text: str) -> None:
    if not reads_as_code(text):
        return
    assert same_code(text, text)
    indent = re.findall(r"^[ \t]*", text, re.MULTILINE)[-1] or "    "
    assert not same_code(text, f"{text}\n{indent}return None")
    assert not same_code(text, f"{text}\n{indent}pass\n")
    assert not same_code(text, text[: text.rstrip().rfind("\n")] + "\n" + indent + "x = (")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('def f(a):\n    """Return', 'def f(a):\n    """Return it."""'),
        ('def f(a):\n    """Return it."""\n', "def f(a):\n"),
        ("def f(a):\n", "def f(a):\n    pass\n"),
        ("x = f(a", "x = f(a)"),
        ("x = 1  # one", "x = 1\n"),
        ("print('a')", "print('b')"),
        ("range(10)", "range(11)"),
        ("def f(a, b):\n    return a", "def f(a, b):\n    return b"),
        ("def f(a, b):\n    return a, b", "def f(c, d):\n    return c, c"),
        ("import os\nos.remove(x)", "import shutil\nshutil.rmtree(x)"),
        ("os.path.join(a)", "os.walk.join(a)"),
        ("f(a=1)", "f(b=1)"),
        ("x = 1", "not Python at all"),
        ("not Python at all", "not Python at all"),
        ("x = 1", "x = \x001"),
    ],
)
def test_other_code_is_other_code(one: str, other: str) -> None:
    assert not same_code(one, other)
    assert not same_code(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(a):\n    return g(a=a)", "def f(b):\n    return g(a=b)"),
        ("def f(a=1):\n    return f(a=a)", "def g(b=1):\n    return g(b=b)"),
        ("import a\nimport b\nx = f(c=1, d=2)", "import b\nimport a\ny = f(d=2, c=1)"),
        ("try:\n    x()\nexcept E as error:\n    raise error", "try:\n  x()\nexcept E as e:\n  raise e"),
        ("def f(a):\n    global b\n    b = a", "def f(x):\n    global y\n    y = x"),
        ('def f(a):\n    """Return the', "def g(b):\n    '''Gives back the"),
        ("x = f(a, # one\n  b", "x = f(a, b"),
    ],
)
def test_the_same_code_in_other_words(one: str, other: str) -> None:
    assert same_code(one, other)
    assert same_code(other, one)


def test_nesting_without_end_is_no_failure() -> None:
    deep = "(" * 5000
    assert not same_code(deep, deep)
    tower = "x = " + "-" * 3000 + "1"
    assert same_code(tower, tower) in {True, False}
