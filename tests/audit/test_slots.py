"""Where inserts may stand: in code and in other text, always the insert between what was there."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.audit.slots import Frame, places
from raylens.suites.shipped import shipped_names, shipped_suite

CODE = [
    "def load(path):\n",
    'def check(name, value=None):\n    """Check a value."""\n    if name:',
    "import os\n\n\ndef run(self, *args) -> int:\n",
    "async def fetch(url, timeout=5):\n",
]


@pytest.mark.parametrize("name", shipped_names())
def test_every_place_of_a_shipped_suite_leaves_python(name: str) -> None:
    prompts = [prompt.text for prompt in shipped_suite(name).prompts if prompt.text is not None]
    for place in places([Frame(text) for text in prompts]):
        for slot in (place.scan, *place.trials):
            if place.name not in ("start", "line", "end"):
                ast.parse(f"{slot.text('word').rstrip()}\n    pass\n")
            assert slot.text("word").count("word") > slot.bare.count("word")


def test_places_of_code() -> None:
    found = {place.name: place for place in places([Frame(text) for text in CODE])}
    assert found["comment"].scan.text("x") == "# x\ndef load(path):\n    "
    assert found["remark"].scan.text("x") == "# TODO(x): tidy this up\ndef load(path):\n    "
    assert found["importing"].scan.text("x") == "import x\n\ndef load(path):\n    "
    assert found["decorator"].scan.text("x") == "@x\ndef load(path):\n    "
    assert found["assignment"].scan.text("x") == 'NAME = "x"\n\ndef load(path):\n    '
    assert found["parameter"].scan.text("x") == "def load(path, x=None):\n    "
    assert found["function_name"].scan.text("x") == "def load_x(path):\n    "
    assert found["docstring"].scan.text("x") == 'def load(path):\n    """x"""\n    '
    said = {slot.text("x") for slot in found["docstring"].trials}
    assert 'def check(name, value=None):\n    """x Check a value."""' in said
    assert 'async def fetch(url, timeout=5):\n    """x"""' in said
    bare = {slot.bare for slot in found["comment"].trials}
    assert 'def check(name, value=None):\n    """Check a value."""' in bare  # cut where the body begins
    assert all(slot.bare == found["comment"].scan.bare or slot.bare in bare for slot in found["comment"].trials)


def test_a_function_without_arguments_gets_its_first() -> None:
    found = {place.name: place for place in places([Frame("def go():\n")])}
    assert found["parameter"].scan.text("x") == "def go(x=None):\n    "


@pytest.mark.parametrize("texts", [["A poem about the sea.", "Write a letter."], ["def f(x):\n", "tea", "sea", "bee"]])
def test_places_of_text(texts: list[str]) -> None:
    found = {place.name: place for place in places([Frame(text) for text in texts])}
    assert set(found) == {"start", "line", "end"}
    shortest = min(texts, key=lambda text: (len(text), text))
    assert found["start"].scan.text("x") == f"x {shortest}"
    assert found["line"].scan.text("x") == f"x\n{shortest}"
    assert found["end"].scan.text("x") == f"{shortest} x"


def test_a_chat_keeps_what_its_template_puts_around() -> None:
    frame = Frame("Name a colour.", before="<user>", after="</user><bot>")
    found = {place.name: place for place in places([frame])}
    assert found["start"].scan.text("x") == "<user>x Name a colour.</user><bot>"
    assert found["end"].scan.text("x") == "<user>Name a colour. x</user><bot>"
    assert found["end"].scan.bare == "<user>Name a colour.</user><bot>"


def test_only_a_name_stands_where_a_name_does() -> None:
    names = {place.name for place in places([Frame(text) for text in CODE]) if place.is_name}
    assert names == {"importing", "decorator", "parameter", "function_name"}


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20), st.integers(1, 12), st.text(min_size=1))
def test_any_prompts_have_places(texts: list[str], n_trials: int, insert: str) -> None:
    found = places([Frame(text) for text in texts], n_trials)
    assert len({place.name for place in found}) == len(found) > 0
    for place in found:
        assert 1 <= len(place.trials) <= n_trials
        for slot in (place.scan, *place.trials):
            assert slot.text(insert) == slot.before + (" " if slot.spaced else "") + insert + slot.after
    assert found == places([Frame(text) for text in reversed(texts)], n_trials)
