"""The lexical explainer against planted features: known rules in random text, recovered and right on other text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from raylens.examples.excerpt import ExampleSets, Excerpt
from raylens.explain.lexical import LexicalExplanation, explain_lexically
from raylens.explain.rule import Clause, Rule, Within
from raylens.explain.token_test import TokenTest

LENGTH = 32
VOCABULARY = [
    *(f" w{i}" for i in range(150)), "return", " return", " self", "self", ".", "(", ")", "[", "]", "=", "\n", "\n    ",
    "\n        ", "import", " yield", " raise", " None", '"', " 12", "7", " 305", " The", " MAX", "__", " if", ":",
]  # fmt: skip


def exact(text: str) -> TokenTest:
    return TokenTest("exact", text)


PLANTED = {
    "a token": Rule((Clause(exact(" return")),)),
    "a token after a token": Rule((Clause(exact(" self"), (exact(" return"),)),)),
    "any of three tokens": Rule((Clause(exact(" yield")), Clause(exact(" raise")), Clause(exact(" None")))),
    "a token soon after another": Rule((Clause(exact(" self"), within=Within(exact("import"), 6)),)),
    "a token before another": Rule((Clause(exact("="), after=exact("(")),)),
    "a class": Rule((Clause(TokenTest("class", "digits")),)),
    "a class soon after a token": Rule((Clause(TokenTest("class", "digits"), within=Within(exact("["), 5)),)),
    "whatever follows a token": Rule((Clause(TokenTest("class", "any"), (exact(":"),)),)),
    "a token after either of two": Rule(
        (Clause(exact(" None"), (exact("="),)), Clause(exact(" None"), (exact(" yield"),)))
    ),
    "a token except after another": Rule((Clause(exact(" self"), not_after=exact("(")),)),
    "two tokens before": Rule((Clause(exact("."), (exact(" if"), exact(" self"))),)),
}


def random_tokens(rng: np.random.Generator, rule: Rule) -> tuple[str, ...]:
    """Random text in which the parts of ``rule`` are frequent, together and apart."""
    parts = [
        t for c in rule.clauses for t in (c.token, *c.before, c.after, c.not_after, c.within and c.within.test) if t
    ]
    wanted = [test for test in parts if not test.is_any]
    tokens = rng.choice(VOCABULARY, LENGTH).tolist()
    if len(wanted) > len(rule.clauses):
        for _ in range(2):
            tokens[rng.integers(LENGTH)] = text_for(rng, wanted[rng.integers(len(wanted))])
    if (without := rule.clauses[0].not_after) is not None and rng.random() < 0.5:
        at = int(rng.integers(1, LENGTH))
        tokens[at - 1 : at + 1] = text_for(rng, without), text_for(rng, rule.clauses[0].token)
    if rng.random() < 0.5:
        clause = rule.clauses[rng.integers(len(rule.clauses))]
        at = int(rng.integers(9, LENGTH - 1))
        for offset, test in enumerate((*clause.before, clause.token), start=at - len(clause.before)):
            tokens[offset] = text_for(rng, test)
        if clause.after:
            tokens[at + 1] = text_for(rng, clause.after)
        if clause.within:
            tokens[at - int(rng.integers(1, clause.within.tokens + 1))] = text_for(rng, clause.within.test)
    return tuple(tokens)


def text_for(rng: np.random.Generator, test: TokenTest) -> str:
    return str(rng.choice([text for text in VOCABULARY if test.holds(text)]))


def excerpt(i: int, tokens: tuple[str, ...], activations: np.ndarray) -> Excerpt:
    ids = np.zeros(len(tokens), dtype=np.int32)
    return Excerpt.of(i, i // 2, 0, tokens, ids, activations.astype(np.float32))


def planted(
    rule: Rule,
    seed: int,
    n: int = 40,
    fires: Callable[[np.random.Generator, tuple[str, ...]], np.ndarray] | None = None,
) -> ExampleSets:
    """Sets of ``n`` excerpts each; the feature fires as ``rule`` does, with strengths of 0.2 to 1."""
    rng = np.random.default_rng(seed)
    active: list[Excerpt] = []
    silent: list[Excerpt] = []
    for i in range(60 * n):
        tokens = random_tokens(rng, rule)
        fired = rule.fires(tokens) if fires is None else fires(rng, tokens)
        one = excerpt(i, tokens, np.where(fired, rng.uniform(0.2, 1, LENGTH), 0.0))
        (active if one.is_active else silent).append(one)
        if min(len(active), len(silent)) >= 2 * n:
            break
    else:
        raise AssertionError(f"{len(active)} active and {len(silent)} silent of {60 * n}")
    return ExampleSets(tuple(active[:n]), tuple(active[n : 2 * n]), tuple(silent[:n]), tuple(silent[n : 2 * n]), 1.0)


def token_quality(found: Rule, truth: Rule, excerpts: tuple[Excerpt, ...]) -> tuple[float, float]:
    """Precision and recall over tokens."""
    predicted = np.concatenate([found.fires(e.tokens) for e in excerpts])
    true = np.concatenate([truth.fires(e.tokens) for e in excerpts])
    both = float((predicted & true).sum())
    return both / max(float(predicted.sum()), 1.0), both / float(true.sum())


def explained(sets: ExampleSets) -> LexicalExplanation:
    explanation = explain_lexically(sets)
    assert explanation is not None
    return explanation


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("truth", PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_rule_is_recovered(truth: Rule, seed: int) -> None:
    found = explained(planted(truth, seed)).rule
    other = planted(truth, seed + 100, n=200)
    precision, recall = token_quality(found, truth, (*other.test, *other.test_negatives))
    assert precision >= 0.95, str(found)
    assert recall >= 0.95, str(found)


def test_planted_rules_are_recovered_word_for_word_where_they_are_simple() -> None:
    assert explained(planted(PLANTED["a token"], 5)).phrase == "`return`"
    assert explained(planted(PLANTED["a token"], 5)).rule == PLANTED["a token"]
    assert explained(planted(PLANTED["a token after a token"], 5)).phrase == "`self` after `return`"
    three = explained(planted(PLANTED["any of three tokens"], 5))
    assert set(three.rule.clauses) == set(PLANTED["any of three tokens"].clauses)


def test_a_noisy_feature_gets_its_rule_and_not_its_noise() -> None:
    truth = PLANTED["a token"]

    def noisy(rng: np.random.Generator, tokens: tuple[str, ...]) -> np.ndarray:
        fired = truth.fires(tokens)
        return (fired & (rng.random(LENGTH) < 0.9)) | (~fired & (rng.random(LENGTH) < 0.002))

    found = explained(planted(truth, 7, fires=noisy)).rule
    assert found == truth


def test_strong_activations_decide_over_weak_ones() -> None:
    rng = np.random.default_rng(0)
    words = [f" w{i}" for i in range(100)]
    rows: list[Excerpt] = []
    for i in range(60):
        tokens = [str(w) for w in rng.choice(words, LENGTH)]
        activations = np.zeros(LENGTH)
        if i % 2:
            tokens[5], tokens[20] = "strong", "weak"
            activations[5], activations[20] = 1.0, 0.01
        rows.append(excerpt(2 * i, tuple(tokens), activations))
    sets = ExampleSets(tuple(r for r in rows if r.is_active), (), tuple(r for r in rows if not r.is_active), (), 1.0)
    assert explained(sets).rule.clauses[0] == Clause(exact("strong"))


def test_text_without_a_pattern_gets_no_confident_rule() -> None:
    """Firing at random, it can be told from chance by no rule, and what is said is no better than chance."""
    gaps: list[float] = []
    for seed in range(8):
        sets = planted(PLANTED["a token"], seed, fires=lambda rng, tokens: rng.random(len(tokens)) < 0.02)
        explanation = explain_lexically(sets)
        if explanation is not None:
            hit = np.mean([explanation.rule.matches(e.tokens) for e in sets.test])
            false = np.mean([explanation.rule.matches(e.tokens) for e in sets.test_negatives])
            gaps.append(float(hit - false))
    assert abs(np.mean(gaps)) < 0.15


def test_nothing_is_said_of_a_feature_that_never_fires() -> None:
    silent = planted(PLANTED["a token"], 1).train_negatives
    assert explain_lexically(ExampleSets((), (), silent, (), 0.0)) is None
    assert explain_lexically(ExampleSets((), (), (), (), 0.0)) is None


def test_without_negatives_silent_tokens_of_active_excerpts_serve() -> None:
    sets = planted(PLANTED["a token"], 3)
    assert explained(ExampleSets(sets.train, (), (), (), 1.0)).rule == PLANTED["a token"]


def test_the_answer_depends_on_the_sets_only_and_not_on_their_order_or_the_test_sets() -> None:
    sets = planted(PLANTED["any of three tokens"], 4)
    other = ExampleSets(sets.train[::-1], (), sets.train_negatives[::-1], (), 1.0)
    assert explained(sets) == explained(other)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_excerpts_do_no_harm(n: int) -> None:
    sets = planted(PLANTED["a token"], 1, n=n)
    explanation = explain_lexically(sets)
    assert explanation is None or explanation.phrase
