"""What a judge may know: the examples that questions are made of, or the rules that features follow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from raylens.examples.excerpt import ExampleSets, Excerpt
from raylens.explain.render import marked, plain, strong
from raylens.explain.rule import Rule
from shown import Shown, Span

Mask = NDArray[np.bool_]
_MARK = re.compile("<<(.*?)>>")


class Table:
    """Knows how strongly each feature fires in the texts that it was given, and in no other.

    As an explainer it says ``what feature 17 responds to``, and as a judge it knows such words.

    Args:
        sets: Of each feature.
        names: Other words by which explanations know features: feature → explanation. Several features may share one;
            a text is then judged by the first of them that has it.

    Attributes:
        missed: Texts of which nothing is known under the explanation they were shown with; the answer is silence.
            A shuffled control misses most of its texts, a feature's own explanation none.
        conflicts: Feature → texts that it has twice, with different activations: no judge who sees only the text can
            be right on both. The first counts.
    """

    def __init__(self, sets: Mapping[int, ExampleSets], names: Mapping[int, str] | None = None) -> None:
        self.missed: list[str] = []
        self.conflicts: dict[int, list[str]] = {}
        self._maximum = {feature: one.max_activation for feature, one in sets.items()}
        self._texts: dict[int, dict[str, Excerpt]] = {feature: {} for feature in sets}
        self._named: dict[str, list[int]] = {}
        for feature, name in (names or {}).items():
            self._named.setdefault(name, []).append(feature)
        self._lines: dict[str, set[int]] = {}
        self._plain: dict[int, list[str]] = {}
        for feature, one in sets.items():
            self.add(feature, (*one.test, *one.test_negatives))
            self.add(feature, (*one.train, *one.train_negatives))
            for excerpt in one.train:
                self._lines.setdefault(marked(excerpt, strong(excerpt, one.max_activation)), set()).add(feature)
            self._plain[feature] = [plain(excerpt) for excerpt in one.train]

    def add(self, feature: int, excerpts: Iterable[Excerpt]) -> None:
        """More texts of a feature: the whole windows of recall, say."""
        known = self._texts[feature]
        for one in excerpts:
            other = known.setdefault(one.text, one)
            if other.tokens != one.tokens or not np.array_equal(other.activations, one.activations):
                self.conflicts.setdefault(feature, []).append(one.text)

    def explain(self, shown: Shown) -> str:
        """The feature whose examples these are; an example that was cut shorter is known by its text."""
        votes: dict[int, int] = {}
        for example in shown.examples:
            text = example.line.replace("<<", "").replace(">>", "")
            features = self._lines.get(example.line) or {
                feature for feature, lines in self._plain.items() if any(text in line for line in lines)
            }
            for feature in features:
                votes[feature] = votes.get(feature, 0) + 1
        if not votes:
            raise LookupError("examples of no feature that is known")
        return f"what feature {max(sorted(votes), key=votes.__getitem__)} responds to"

    def values(self, shown: Shown) -> Sequence[float]:
        if shown.prompt == "intruder":
            return self._intruder(shown.texts)
        if shown.prompt == "concept":
            return [1.0]
        features = self._features(shown.explanation)
        found = [self._excerpt(features, text) for text in shown.texts]
        if shown.prompt == "simulation":
            return self._strengths(found[0], shown)
        if shown.prompt == "fuzz":
            pairs = zip(found, shown.marks, strict=True)
            return [float(one is not None and _all_fire(one[1].tokens, one[1].activations > 0, m)) for one, m in pairs]
        return [float(one is not None and one[1].is_active) for one in found]

    def _features(self, explanation: str) -> list[int]:
        own = re.fullmatch(r"what feature (\d+) responds to", explanation)
        found = self._named.get(explanation, []) or ([int(own[1])] if own else [])
        if not found or any(feature not in self._texts for feature in found):
            raise LookupError(f"no feature is explained by {explanation!r}")
        return found

    def _excerpt(self, features: Sequence[int], text: str) -> tuple[int, Excerpt] | None:
        for feature in features:
            if (one := self._texts[feature].get(text)) is not None:
                return feature, one
        self.missed.append(text)
        return None

    def _strengths(self, found: tuple[int, Excerpt] | None, shown: Shown) -> list[float]:
        if found is None or found[1].tokens != shown.tokens:
            return [0.0] * len(shown.tokens)
        return (found[1].activations.astype(np.float64) / self._maximum[found[0]]).tolist()

    def _intruder(self, texts: Sequence[str]) -> list[float]:
        for known in self._texts.values():
            active = [known[text].is_active if text in known else None for text in texts]
            if active.count(False) == 1 and None not in active:
                return [float(one is False) for one in active]
        raise LookupError("windows of no feature that is known")


class Rules:
    """Reads explanations: knows which rule each means, and answers by running that rule on what it is shown.

    So it judges an explanation, its own or another feature's, on any text, by what it says.

    Args:
        rule_of: The rule that an explanation means: a table, or a reader of phrases such as
            :func:`phrases.read_phrase`, which raises LookupError of what it cannot read.
        tokenize: Cuts a text as the tokens of the cache are.
        known: Phrases among which it finds words for examples, and rules among which it finds what an intruder lacks.
            By default those of a table.
    """

    def __init__(
        self,
        rule_of: Mapping[str, Rule] | Callable[[str], Rule],
        tokenize: Callable[[str], Sequence[str]],
        known: Mapping[str, Rule] | None = None,
    ) -> None:
        self._rule_of = rule_of
        self._tokenize = tokenize
        self._known = known or (rule_of if isinstance(rule_of, Mapping) else {})

    def rule(self, explanation: str) -> Rule:
        if not isinstance(self._rule_of, Mapping):
            return self._rule_of(explanation)
        if explanation not in self._rule_of:
            raise LookupError(f"no rule is known for {explanation!r}")
        return self._rule_of[explanation]

    def explain(self, shown: Shown) -> str:
        """The known phrase whose rule fires on the marked tokens and on no others, as nearly as any does."""
        cases = [_marked(example.line, self._tokenize) for example in shown.examples]
        best, phrase = 0.0, ""
        for name, rule in self._known.items():
            fired = [(rule.fires(tokens), marks) for tokens, marks in cases]
            both = sum(int((fires & marks).sum()) for fires, marks in fired)
            either = sum(int((fires | marks).sum()) for fires, marks in fired)
            if either and both / either > best:
                best, phrase = both / either, name
        if best < 0.5:
            raise LookupError("the examples follow no rule that is known")
        return phrase

    def values(self, shown: Shown) -> Sequence[float]:
        if shown.prompt == "intruder":
            return self._intruder(shown.texts)
        if shown.prompt == "concept":
            return [1.0]
        rule = self.rule(shown.explanation)
        if shown.prompt == "simulation":
            return rule.fires(shown.tokens).astype(float).tolist()
        cut = [tuple(self._tokenize(text)) for text in shown.texts]
        if shown.prompt == "fuzz":
            return [float(_all_fire(one, rule.fires(one), m)) for one, m in zip(cut, shown.marks, strict=True)]
        return [float(rule.matches(one)) for one in cut]

    def _intruder(self, texts: Sequence[str]) -> list[float]:
        cut = [tuple(self._tokenize(text)) for text in texts]
        for rule in self._known.values():
            matched = [rule.matches(one) for one in cut]
            if matched.count(False) == 1:
                return [float(not one) for one in matched]
        raise LookupError("windows that no known rule tells apart")


def _all_fire(tokens: Sequence[str], fires: Mask, marks: Sequence[Span]) -> bool:
    """Whether there are marked tokens and the feature fires on each of them."""
    inside = _tokens_in(tokens, marks)
    return bool(inside.any() and fires[inside].all())


def _tokens_in(tokens: Sequence[str], marks: Sequence[Span]) -> Mask:
    ends = np.cumsum([len(token) for token in tokens])
    starts = ends - [len(token) for token in tokens]
    inside = np.zeros(len(tokens), np.bool_)
    for first, last in marks:
        inside |= (starts >= first) & (ends <= last)
    return inside


def _marked(line: str, tokenize: Callable[[str], Sequence[str]]) -> tuple[tuple[str, ...], Mask]:
    """Tokens of an explainer's example, and which of them are marked; of text without angle brackets."""
    spans: list[Span] = []
    for removed, found in enumerate(_MARK.finditer(line)):
        first = found.start() - 4 * removed
        spans.append((first, first + len(found[1])))
    tokens = tuple(tokenize(_MARK.sub(r"\1", line).replace("↵", "\n")))
    return tokens, _tokens_in(tokens, spans)
