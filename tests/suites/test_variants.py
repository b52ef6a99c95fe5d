"""Variants by rules: the same program written otherwise, the same one for the same seed, and the text of chats."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.chat import Message
from raylens.errors import UnknownNameError
from raylens.suites.python_prefix import closing
from raylens.suites.suite import ORIGINAL, Prompt, Suite, Variant
from raylens.suites.variants import RULES, rules_named, with_variants

CODE = '''import os
import sys
from pathlib import Path

def read(path, mode='r', *, encoding=None):
    """Read a File.

    Second line.
    """
    # Open it first.
    with open(path, mode=mode, encoding=encoding) as stream:  # then read
        lines = [
            line
            for line in stream
        ]
        return '''
# Strings stay as they are, and what stands in brackets moves along with its statement.
INDENTED = '''import os
import sys
from pathlib import Path

def read(path, mode='r', *, encoding=None):
    """Read a File.

·Second line.
·"""
    # Open it first.
    with open(path, mode=mode, encoding=encoding) as stream:  # then read
        lines = [
        ·line
        ·for line in stream
        ]
        return '''


def variant(rule: str, text: str = CODE, seed: int = 0) -> str:
    changed = RULES[rule](text, seed)
    assert changed is not None
    return changed


def test_each_rule_does_what_it_says() -> None:  # A2.19
    assert {variant("indentation", seed=seed) for seed in range(9)} == {
        INDENTED.replace("    ", unit).replace("·", "    ") for unit in ("  ", "\t")
    }
    assert variant("blank-line").replace("\n\n", "\n") == CODE.replace("\n\n", "\n")
    assert variant("blank-line").count("\n") == CODE.count("\n") + 1
    assert variant("line-endings", CODE.replace("\n", "\r\n")) == CODE
    assert variant("add-comment").count("#") == 3
    assert variant("drop-comments") == CODE.replace("    # Open it first.\n", "").replace("  # then read", "")
    assert variant("import-order").splitlines()[3:] == CODE.splitlines()[3:]
    assert sorted(variant("import-order").splitlines()) == sorted(CODE.splitlines())
    assert variant("keyword-order") == CODE.replace("mode=mode, encoding=encoding)", "encoding=encoding, mode=mode)")
    assert {variant("casing", seed=seed) for seed in range(9)} == {
        CODE.replace("Read a File", low)
        .replace("Second", second)
        .replace("Open", opened)
        .replace("then read", then)
        .replace("line.\n", line)
        .replace("it first.", first)
        for low, second, opened, then, line, first in [
            ("read a file", "second", "open", "then read", "line.\n", "it first."),
            ("READ A FILE", "SECOND", "OPEN", "THEN READ", "LINE.\n", "IT FIRST."),
        ]
    }
    assert variant("quotes") == CODE.replace("'r'", '"r"')
    assert {variant("names", seed=seed).splitlines()[4] != CODE.splitlines()[4] for seed in range(20)} == {True}


CODE_OF_PATH = 'def size(path):\n    """The path of it."""\n    other.path = path\n    return path.path + len("path")\n'


@pytest.mark.parametrize("seed", range(8))
def test_a_renamed_parameter_is_renamed_everywhere_and_nothing_else_is(seed: int) -> None:
    changed = variant("names", CODE_OF_PATH, seed)
    new = changed.partition("(")[2].partition(")")[0]
    if new == "path":
        assert changed == CODE_OF_PATH.replace("def size", changed.partition("(")[0])
    else:
        assert changed == CODE_OF_PATH.replace("size(path)", f"size({new})").replace("= path", f"= {new}").replace(
            "return path", f"return {new}"
        )


@pytest.mark.parametrize(
    "code",
    [
        "def f(a):\n    return locals()\n",
        "def f(a):\n    return f'{a}' + f(1)\n",
        "def f(a):\n    global f\n    import a\n",
        "class A:\n    a = 1\n    def f(self, a):\n        return a\n",
        "class A:\n    def a(self, a):\n        return a\n",
        "def f(self, *args, **kwargs):\n    from g import f\n",
        "def f(a):\n    try:\n        f(1)\n    except E as a:\n        import f\n",
    ],
)
def test_names_that_others_may_read_are_kept(code: str) -> None:
    assert {RULES["names"](code, seed) for seed in range(6)} == {None}


def test_a_parameter_that_is_given_by_name_is_kept() -> None:
    changed = {RULES["names"]("def f(a):\n    return f(a=1)\n", seed) for seed in range(20)}
    assert changed == {f"def {prefix}f(a):\n    return {prefix}f(a=1)\n" for prefix in ("get_", "do_", "make_")}


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("indentation", "x = 1\ny = 2\n"),
        ("line-endings", "x = 1\n"),
        ("drop-comments", "x = 1\n"),
        ("drop-comments", "#!/usr/bin/python\nx = 1  # type: int\n# noqa: here\n"),
        ("drop-comments", "x = 1\n# the end of it is not"),
        ("names", "x = 1\n"),
        ("import-order", "import os\nx = 1\nimport sys\n"),
        ("import-order", "from __future__ import annotations\nimport os\n"),
        ("import-order", "import os\nimport sys"),
        ("keyword-order", "f(a=1, **b)\ng(c=h(), d=2)\n"),
        ("casing", "x = 'Text'\n"),
        ("quotes", "x = f'a' + '\"' + 'a\\n'\n"),
        ("quotes", "x = 'not closed"),
    ],
)
def test_a_rule_that_does_not_apply_says_so(rule: str, text: str) -> None:
    assert RULES[rule](text) is None


@pytest.mark.parametrize("text", ["", "\n", "In the morning the two friends", "x = = 1\n", "x\x0c = 1", "x = 1\ry = 2"])
def test_what_is_no_python_is_left_alone(text: str) -> None:
    assert [name for name, rule in RULES.items() if rule(text)] == []


class Norm(ast.NodeTransformer):
    """A slow way to say what rules may change: names by order of appearance, order, and letter case of docstrings."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.names: dict[str, str] = {}

    def name(self, name: str) -> str:
        return self.names.setdefault(name, f"n{len(self.names)}") if self.rule == "names" else name

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Name):
            node.id = self.name(node.id)
        elif isinstance(node, ast.arg):
            node.arg = self.name(node.arg)
        elif isinstance(node, ast.FunctionDef):
            node.name = self.name(node.name)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and self.rule == "casing":
            node.value = node.value.lower()
        if isinstance(node, ast.Module) and self.rule == "import-order":
            node.body.sort(key=lambda one: ast.dump(one) if isinstance(one, ast.Import | ast.ImportFrom) else "z")
        if isinstance(node, ast.Call) and self.rule == "keyword-order":
            node.keywords.sort(key=lambda one: one.arg or "")
        return self.generic_visit(node)


def normal(code: str, rule: str) -> str:
    suffix = closing(code)
    assert suffix is not None
    return ast.dump(Norm(rule).visit(ast.parse(code + suffix)))


LIBRARY = [
    Path(sysconfig.get_path("stdlib"), name).read_text(encoding="utf-8")
    for name in (
        "textwrap.py",
        "shutil.py",
        "bisect.py",
        "contextlib.py",
        "csv.py",
        "fnmatch.py",
        "heapq.py",
        "shlex.py",
    )
]


@st.composite
def prefixes(draw: st.DrawFn) -> str:
    """The beginning of a function of the standard library, cut anywhere."""
    text = draw(st.sampled_from(LIBRARY))
    starts = [at for at in range(len(text)) if text.startswith(("\ndef ", "\nclass ", "\nimport "), at)]
    start = draw(st.sampled_from(starts)) + 1
    return text[start : start + draw(st.integers(10, 900))]


@given(prefixes(), st.sampled_from(sorted(RULES)), st.integers(0, 3))
def test_a_variant_of_the_standard_library_is_the_same_program(text: str, rule: str, seed: int) -> None:
    changed = RULES[rule](text, seed)
    assert changed == RULES[rule](text, seed)
    if changed is not None:
        assert changed != text
        assert normal(changed, rule) == normal(text, rule)
        # A model goes on within the last line, or with a new one, as before.
        assert bool(changed.rpartition("\n")[2].strip()) == bool(text.rpartition("\n")[2].strip())


@given(st.text("(x'\"\n\t #:=a1)def\\é", max_size=40), st.sampled_from(sorted(RULES)), st.integers(0, 3))
def test_no_text_makes_a_rule_raise(text: str, rule: str, seed: int) -> None:
    changed = RULES[rule](text, seed)
    assert changed is None or (changed != text and changed.strip())


def suite_of(**texts: str) -> Suite:
    return Suite("s", tuple(Prompt(name, Variant(text, None, ORIGINAL)) for name, text in texts.items()))


def test_a_suite_gets_distinct_variants_by_different_rules() -> None:  # A2.19
    suite = suite_of(a=CODE, b="In the morning", c="def f(x):\n    return x\n")
    varied = with_variants(suite, per_prompt=5, seed=3)
    kinds = [[one.kind for one in prompt.variants] for prompt in varied.prompts]
    assert [len(one) for one in kinds][:2] == [5, 0]
    assert len(set(kinds[0])) == 5
    said = [form.said for prompt in varied.prompts for form in prompt.forms]
    assert len(said) == len(set(said))
    assert with_variants(suite, per_prompt=5, seed=3) == varied
    assert with_variants(suite, per_prompt=5, seed=4) != varied
    assert varied.without_variants() == suite
    # A prompt's variants do not depend on which others there are.
    assert with_variants(suite_of(a=CODE), per_prompt=5, seed=3).prompts[0] == varied.prompts[0]
    more = with_variants(varied, per_prompt=2, seed=5)
    assert more.prompts[0].variants[:5] == varied.prompts[0].variants
    assert len(more.prompts[0].variants) == 7


def test_only_the_rules_that_are_named_are_used() -> None:
    varied = with_variants(suite_of(a=CODE), rules_named(["quotes", "casing"]), per_prompt=5)
    assert {one.kind for one in varied.prompts[0].variants} == {"quotes", "casing"}
    with pytest.raises(UnknownNameError, match="unknown rule 'quote'"):
        rules_named(["quote"])


def test_of_a_chat_the_last_turns_code_changes() -> None:
    before = Message("system", "Review x = 'a'.")
    chat = Variant(None, (before, Message("user", "Is it right?\n```python\nx = 'a'\n```\nIt isn't 'b'.")), ORIGINAL)
    varied = RULES["quotes"].vary(chat)
    assert varied == Variant(
        None, (before, Message("user", "Is it right?\n```python\nx = \"a\"\n```\nIt isn't 'b'.")), "quotes"
    )
    assert RULES["quotes"].vary(Variant(None, (Message("user", "x = 'a'"),), ORIGINAL)) is None
