"""The explainers that ask a language model: which prompt each fills in, and with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from raylens.chat import Request
from raylens.errors import InputError, UnknownNameError
from raylens.examples.excerpt import ExampleSets
from raylens.explain.prompts import Prompts, load_prompts
from raylens.explain.render import Fitted, fit, numbered, spread
from raylens.explain.reply import RETRY_PROMPT

LEXICAL = "lexical"
"""Name of the explainer that asks nobody: :func:`raylens.explain.lexical.explain_lexically`."""
MOST_PROMOTED = 10
MAX_ANSWER = 500


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """What is known of a feature besides its examples.

    Attributes:
        density: Share of tokens it fires on, 0–1; None where that is not known.
        promoted: Tokens that it makes likelier when it fires, most so first.
    """

    density: float | None = None
    promoted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explainer:
    """One way of asking.

    Attributes:
        name: As ``--explainer`` takes it.
        prompt: Its file, without ``.txt``.
        n_train: How many active examples it shows at most; None for all that it is given.
        n_negatives: How many silent ones.
        shows_promoted: Whether it also shows what the feature makes likelier.
    """

    name: str
    prompt: str
    n_train: int | None = None
    n_negatives: int = 0
    shows_promoted: bool = False

    def prompts(self, override: Path | None = None) -> Prompts:
        """The files its requests are built from, that of a retry included; see :func:`load_prompts` for errors."""
        return load_prompts("explain", (self.prompt, RETRY_PROMPT), override)

    def build(self, facts: FeatureFacts, sets: ExampleSets, prompts: Prompts) -> Request:
        """The request about one feature; the same arguments always give the same.

        Raises:
            InputError: The feature has no training examples, or lacks what this explainer shows besides.
        """
        positives = spread(sets.train, self.n_train)
        negatives = sets.train_negatives[: self.n_negatives]
        if not positives:
            raise InputError("the feature has no training examples.", hint="cache more text, or lower --min-examples.")
        if self.n_negatives and not negatives:
            raise InputError(
                f"the {self.name} explainer needs examples on which the feature is silent, and there are none.",
                hint="raise --n_non_activating, or use --explainer default.",
            )
        if self.shows_promoted and not facts.promoted:
            raise InputError(
                f"the {self.name} explainer needs the tokens that the feature promotes, and they are not known.",
                hint="use --explainer default for this SAE.",
            )
        values = {
            "rate": _rate(facts.density),
            "examples": numbered(positives, sets.max_activation),
            "negatives": numbered(negatives, sets.max_activation, first=len(positives) + 1),
            "promoted": ", ".join(f'"{_visible(t)}"' for t in facts.promoted[:MOST_PROMOTED]),
        }
        return Request(prompts[self.prompt].fill(values), max_tokens=MAX_ANSWER, temperature=0.0)

    def fitted(
        self,
        facts: FeatureFacts,
        sets: ExampleSets,
        prompts: Prompts,
        max_len: int,
        count_tokens: Callable[[str], int],
    ) -> Fitted:
        """The request with as many examples as fit in ``max_len`` tokens; see :func:`raylens.explain.render.fit`."""
        negatives = sets.train_negatives[: self.n_negatives]
        shown = replace(sets, train=spread(sets.train, self.n_train), train_negatives=negatives)
        return fit(lambda smaller: self.build(facts, smaller, prompts), shown, max_len, count_tokens)


EXPLAINERS: Mapping[str, Explainer] = {
    explainer.name: explainer
    for explainer in (
        Explainer("default", "explain-default"),
        Explainer("contrastive", "explain-contrastive", n_train=15, n_negatives=5),
        Explainer("cot", "explain-cot"),
        Explainer("logits", "explain-logits", shows_promoted=True),
    )
}


def explainer_for(name: str, negatives: str) -> str:
    """Which explainer to use: the one named, but ``contrastive`` for ``default`` when negatives come from ``faiss``.

    Raises:
        UnknownNameError: There is no explainer ``name``.
    """
    if name not in EXPLAINERS and name != LEXICAL:
        raise UnknownNameError.among("explainer", name, [*EXPLAINERS, LEXICAL])
    return "contrastive" if name == "default" and negatives == "faiss" else name


def _rate(density: float | None) -> str:
    if density is None or not 0 < density <= 1:
        return "some tokens"
    return f"about one token in {max(round(1 / density), 1):,}" if density < 0.5 else "most tokens"


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace("\r", "␍")
