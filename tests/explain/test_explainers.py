"""What a language model is shown: marks, levels and examples, and what is dropped when there is no room."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import InputError, UnknownNameError
from raylens.examples.excerpt import ExampleSets, Excerpt
from raylens.explain.explainers import EXPLAINERS, FeatureFacts, explainer_for
from raylens.explain.render import MOST_PAIRS, levels, marked, pairs, plain, strong

FACTS = FeatureFacts(density=0.002, promoted=(" self", "\n", " None"))


def excerpt(tokens: list[str], activations: list[float], i: int = 0) -> Excerpt:
    return Excerpt.of(
        i, i, 0, tuple(tokens), np.zeros(len(tokens), dtype=np.int32), np.array(activations, dtype=np.float32)
    )


def sets(n: int = 40, n_negatives: int = 50) -> ExampleSets:
    active = tuple(excerpt(["p", str(i), " x", "."], [0, 1.0, 0, 0], i) for i in range(n))
    silent = tuple(excerpt(["n", str(i), " y", "."], [0, 0, 0, 0], 1000 + i) for i in range(n_negatives))
    return ExampleSets(active, (), silent, (), 1.0)


def test_levels_are_tenths_rounded_up() -> None:
    maximum = float(np.float32(0.7))
    tenths = np.array([k / 10 for k in range(11)], dtype=np.float32) * np.float32(0.7)
    assert levels(tenths, maximum).tolist() == list(range(11))
    assert levels(np.array([0, 1e-9, 0.31, 0.99, 5], dtype=np.float32), 1.0).tolist() == [0, 1, 4, 10, 10]
    assert levels(np.array([0.0, 1.0], dtype=np.float32), 0.0).tolist() == [0, 0]


def test_strong_tokens_are_marked_and_neighbours_share_a_mark() -> None:
    one = excerpt(["if", " self", ".", "x", ":", "\n", " y"], [0, 0.9, 0.31, 0.3, 0, 0.5, 0])
    assert marked(one, strong(one, 1.0)) == "if<< self.>>x:<<↵>> y"
    assert plain(one) == "if self.x:↵ y"
    assert pairs(one, 1.0) == '(" self" : 9), ("." : 4), ("x" : 3), ("↵" : 5)'


def test_an_excerpt_of_weak_activations_has_its_peak_marked_and_a_silent_one_nothing() -> None:
    weak = excerpt(["a", "b", "c"], [0.01, 0.02, 0])
    assert marked(weak, strong(weak, 1.0)) == "a<<b>>c"
    assert marked(excerpt(["a"], [0]), strong(excerpt(["a"], [0]), 1.0)) == "a"


def test_pairs_are_the_strongest_in_reading_order() -> None:
    one = excerpt([str(i) for i in range(20)], [float(i) for i in range(20)])
    assert re.findall(r'"(\d+)"', pairs(one, 19.0)) == [str(i) for i in range(20 - MOST_PAIRS, 20)]


@given(st.lists(st.tuples(st.text("<>\\a↵\n", max_size=4), st.booleans()), max_size=8))
def test_text_cannot_fake_a_mark(parts: list[tuple[str, bool]]) -> None:
    one = excerpt([text for text, _ in parts], [0.0] * len(parts))
    marks = np.array([mark for _, mark in parts], dtype=np.bool_)
    shown = marked(one, marks)
    runs = int((np.diff(np.concatenate([[False], marks]).astype(int)) == 1).sum())
    bare = re.sub(r"\\[\\<>↵]", "_", shown)
    assert bare.count("<<") == bare.count(">>") == runs
    assert "\n" not in shown
    assert re.sub(r"<<|>>", "", bare).count("<<") == 0


@pytest.mark.parametrize("explainer", EXPLAINERS.values(), ids=EXPLAINERS.keys())
def test_a_request_shows_the_examples(explainer) -> None:  # A1.08
    request = explainer.build(FACTS, sets(), explainer.prompts())
    asked = request.messages[-1].content
    shown = re.findall(r"^Example (\d+): (\w)", asked, flags=re.MULTILINE)
    assert [int(number) for number, _ in shown] == list(range(1, len(shown) + 1))
    kinds = [kind for _, kind in shown]
    assert kinds == (["p"] * 15 + ["n"] * 5 if explainer.name == "contrastive" else ["p"] * 40)
    assert ("↵" in asked) == (explainer.name == "logits")
    assert "about one token in 500" in request.messages[0].content
    assert request.temperature == 0
    assert not re.search(r"\{[a-z]+\}", "".join(m.content for m in request.messages))


def test_hard_negatives_choose_the_contrastive_explainer() -> None:  # A1.06 A1.08
    assert explainer_for("default", "faiss") == "contrastive"
    assert explainer_for("default", "random") == "default"
    assert explainer_for("cot", "faiss") == "cot"
    assert explainer_for("lexical", "faiss") == "lexical"
    with pytest.raises(UnknownNameError, match="lexical"):
        explainer_for("lexicl", "random")


def test_what_an_explainer_needs_is_asked_for() -> None:
    for name, facts, given_sets in [
        ("default", FACTS, sets(n=0)),
        ("contrastive", FACTS, sets(n_negatives=0)),
        ("logits", FeatureFacts(), sets()),
    ]:
        with pytest.raises(InputError):
            EXPLAINERS[name].build(facts, given_sets, EXPLAINERS[name].prompts())


def count(text: str) -> int:
    return len(text)


def test_all_is_shown_where_there_is_room() -> None:
    explainer = EXPLAINERS["default"]
    fitted = explainer.fitted(FACTS, sets(), explainer.prompts(), 100_000, count)
    assert not fitted.trimmed
    assert fitted.request == explainer.build(FACTS, sets(), explainer.prompts())


@pytest.mark.parametrize("name", ["default", "contrastive"])
def test_examples_are_dropped_until_the_prompt_fits_and_it_is_said(name: str) -> None:
    explainer = EXPLAINERS[name]
    prompts = explainer.prompts()
    whole = explainer.fitted(FACTS, sets(), prompts, 100_000, count)
    room = whole.n_tokens + whole.request.max_tokens - 100
    fitted = explainer.fitted(FACTS, sets(), prompts, room, count)
    assert fitted.trimmed
    assert room - 250 < fitted.n_tokens + fitted.request.max_tokens <= room
    shown = re.findall(r"^Example \d+: p<<(\d+)>>", fitted.request.messages[-1].content, flags=re.MULTILINE)
    assert shown[0] == "0"
    assert shown[-1] == "39"


def test_a_single_example_is_cut_around_its_peak_and_no_room_is_an_error() -> None:
    explainer = EXPLAINERS["default"]
    prompts = explainer.prompts()
    long = excerpt([f" word{i:05d}" for i in range(32)], [0.0] * 24 + [1.0] + [0.0] * 7)
    one = ExampleSets((long,), (), (), (), 1.0)
    whole = explainer.fitted(FACTS, one, prompts, 100_000, count)
    need = whole.n_tokens + whole.request.max_tokens
    fitted = explainer.fitted(FACTS, one, prompts, need - 200, count)
    shown = fitted.request.messages[-1].content
    assert fitted.trimmed
    assert "<< word00024>>" in shown
    assert len(re.findall(r"word", shown.splitlines()[0])) == 8
    with pytest.raises(InputError, match="context has 900"):
        explainer.fitted(FACTS, one, prompts, 900, count)
