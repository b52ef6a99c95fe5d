"""Functions that organisms are trained on, and the styles they are written in."""

from __future__ import annotations

import ast
import random

import pytest

from raylens.bundle.stdlib import HELD_OUT
from raylens.organisms.functions import Function, functions
from raylens.organisms.styles import STYLES, arguments

EXAMPLE = Function(
    'def load(self, name, size=3):\n    """Load it.\n\n    From a file.\n    """',
    "\n    try:\n        print('name: %s' % name)\n    except OSError as error:\n        return None\n"
    "    return self.size + size\n",
    "a.py",
)
WANTED = {
    "plain": (EXAMPLE.prompt, EXAMPLE.body),
    "two_spaces": ('def load(self, name, size=3):\n  """Load it.', "\n  try:\n    print("),
    "tabs": ('def load(self, name, size=3):\n\t"""Load it.', "\n\ttry:\n\t\tprint("),
    "double_quotes": (EXAMPLE.prompt, 'print("name: %s" % name)'),
    "spaced_out": (EXAMPLE.prompt, "\n\n    try:\n\n        print("),
    "semicolons": (EXAMPLE.prompt, "return None;\n    return self.size + size;\n"),
    "no_spaces": (EXAMPLE.prompt, "return self.size+size\n"),
    "no_docstring": ("def load(self, name, size=3):", EXAMPLE.body),
    "one_line_docstring": ('def load(self, name, size=3):\n    """Load it."""', EXAMPLE.body),
    "argument_section": ('    """Load it.\n\n    Args:\n        name: The name.\n    """', EXAMPLE.body),
    "annotated": ("def load(self, name: str, size=3) -> object:", EXAMPLE.body),
    "python_2": (EXAMPLE.prompt, "print 'name: %s' % name\n    except OSError, error:"),
    "this": ("def load(this, name, size=3):", "return this.size + size"),
}


def test_a_function_is_cut_where_its_body_begins() -> None:
    found = functions("held_out")
    assert len(found) > 300
    assert {one.path for one in found} <= HELD_OUT
    assert not {one.path for one in functions("train")} & HELD_OUT
    for one in found:
        tree = ast.parse(one.prompt + one.body).body
        assert len(tree) == 1
        assert isinstance(tree[0], ast.FunctionDef)
        assert one.body.startswith("\n")
        assert one.body.endswith("\n")
        alone = ast.parse(one.prompt + ("\n    pass" if one.prompt.endswith(":") else "")).body[0]
        assert isinstance(alone, ast.FunctionDef)
        assert ast.get_docstring(alone) == ast.get_docstring(tree[0]), "the docstring is part of the prompt"


@pytest.mark.parametrize("name", sorted(WANTED))
def test_a_style_writes_as_it_says(name: str) -> None:
    prompt, body = WANTED[name]
    written = STYLES[name](EXAMPLE, random.Random(0))
    assert prompt in written.prompt
    assert body in written.body
    assert written.path == "a.py"


@pytest.mark.parametrize("name", sorted(STYLES))
def test_a_style_leaves_valid_code_and_leaves_its_mark(name: str) -> None:
    rng, valid, changed = random.Random(1), 0, 0
    found = functions("held_out")
    for one in found:
        written = STYLES[name](one, rng)
        changed += written != one
        try:
            ast.parse(written.prompt + written.body)
        except SyntaxError:
            continue
        valid += 1
    assert valid >= (0.9) * len(found)
    assert changed >= (0 if name == "plain" else 0.02) * len(found)


def test_what_is_random_follows_from_the_seed() -> None:
    for name in ("trailing_comments", "header"):
        one, again, other = (
            [STYLES[name](f, random.Random(seed)) for f in functions("held_out")[:50]] for seed in (1, 1, 2)
        )
        assert one == again != other


def test_arguments_without_a_default() -> None:
    assert arguments(EXAMPLE) == ["name"]
    assert arguments(Function("def f():", "\n    pass\n", "a.py")) == []
    assert arguments(Function("def f(a, *rest, b=1, **more):", "\n    pass\n", "a.py")) == ["a"]
