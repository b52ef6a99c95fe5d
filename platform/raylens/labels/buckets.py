"""Five buckets by which features of a span are told apart at a glance (A0.18), and a colour of each.

A bucket is read off a label's words, and nothing else: it sorts a list, and says nothing that the label does not say.
A word counts where it stands whole; one that ends in ``*`` counts for every word that begins so. Where words of several
buckets stand in a label, the first of :data:`BUCKETS` counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from raylens.api.extraction import Bucket

BUCKETS: Final[tuple[Bucket, ...]] = ("safety", "tool", "intent", "reasoning", "unknown")
"""In order of precedence: what could do harm must not hide behind another word; a tool is a narrower word than what is
wanted of it, and what is wanted a narrower one than how it is thought about."""

KEYWORDS: Final[Mapping[Bucket, tuple[str, ...]]] = {
    # What a reviewer looks for first: harm and who does it, lies, refusals, and what must stay secret.
    "safety": (
        *("harm", "harms", "harmful", "harming", "danger*", "unsafe", "safety", "risk*", "threat*"),
        *("violen*", "weapon*", "bomb*", "explosive*", "kill*", "murder*", "attack*", "abus*", "assault*", "terroris*"),
        *("suicid*", "self-harm", "drug", "drugs", "poison*", "illegal*", "crime*", "criminal*", "fraud*", "scam*"),
        *("hate", "hateful", "hatred", "racis*", "sexis*", "slur*", "toxic*", "harass*", "discriminat*", "sexual*"),
        *("decept*", "deceiv*", "deceit*", "lie", "lies", "lying", "dishonest*", "sabotage*", "sycophan*"),
        *("refus*", "jailbreak*", "disclaimer*", "malicious*", "malware", "exploit*", "vulnerab*", "backdoor*"),
        *("insecure", "injection*", "hack*", "phishing", "password*", "credential*", "secret*", "privacy"),
    ),
    # What an agent does to the world outside of its text: calls, commands, and the formats that carry them.
    "tool": (
        *("tool", "tools", "api", "apis", "function call*", "method call*", "tool call*", "calls to", "invok*"),
        *("command*", "shell", "bash", "terminal", "subprocess*", "script", "scripts", "execut*", "plugin*"),
        *("json", "xml", "yaml", "sql", "database*", "quer*", "http*", "url", "urls", "endpoint*", "request object*"),
        *("file", "files", "file path*", "directory", "directories", "import", "imports", "importing", "module*"),
        *("argument*", "parameter*", "code", "programming", "python", "javascript", "browser*", "download*", "search*"),
    ),
    # What somebody wants: requests, questions, goals, instructions.
    "intent": (
        *("intent*", "intend*", "goal*", "aim", "aims", "purpose*", "plan", "plans", "planning", "want*", "desire*"),
        *("wish*", "request*", "ask", "asks", "asked", "asking", "question*", "instruct*", "prompt*", "demand*"),
        *("offer*", "invit*", "suggest*", "recommend*", "advice", "advis*", "persua*", "promis*", "decid*"),
        *("decision*", "trying", "attempt*", "prefer*", "seek*", "help", "helping", "assist*", "user"),
    ),
    # How a conclusion is come to: causes, conditions, comparison, calculation, doubt.
    "reasoning": (
        *("reason*", "logic*", "infer*", "deduc*", "induc*", "conclu*", "therefore", "thus", "hence", "because"),
        *("cause", "causes", "causal*", "consequen*", "implies", "imply", "implication*", "condition*", "if", "unless"),
        *("compar*", "contrast*", "however", "although", "whereas", "proof*", "prove*", "evidence", "hypothes*"),
        *("math*", "arithmetic", "calculat*", "equation*", "number*", "counts", "counting", "step", "steps"),
        *("explain*", "explanation*", "assum*", "uncertain*", "doubt*", "likel*", "probab*", "contradict*", "negat*"),
    ),
}
"""Words of each bucket but ``unknown``, in small letters."""

_ENOUGH: Final = 2


@dataclass(frozen=True, slots=True)
class Colour:
    """One colour token.

    Attributes:
        name: As style sheets name it.
        light: On a light ground, ``#rrggbb``.
        dark: On a dark ground.
    """

    name: str
    light: str
    dark: str


# Each stands out from its ground by a contrast of 3 (WCAG 2.2, 1.4.11), and any two are 25 apart (CIE76) also as people
# with one kind of cone see them (Machado, Oliveira and Fernandes 2009); a test measures both.
BUCKET_COLOURS: Final[Mapping[Bucket, Colour]] = {
    "safety": Colour("bucket-safety", "#be4c06", "#f77220"),
    "tool": Colour("bucket-tool", "#cf3bff", "#a3529b"),
    "intent": Colour("bucket-intent", "#0a6c9c", "#3dbfff"),
    "reasoning": Colour("bucket-reasoning", "#1b3a2c", "#2b7d50"),
    "unknown": Colour("bucket-unknown", "#8a8a8a", "#d2d2d2"),
}
"""The one place that says which colour a bucket has."""


def bucket_of(label: str | None) -> Bucket:
    """The bucket of what is said of a feature; ``unknown`` where nothing is, or no keyword stands in it."""
    if not label:
        return "unknown"
    text = label.lower()
    for bucket, pattern in _PATTERNS.items():
        if pattern.search(text):
            return bucket
    return "unknown"


def bucket_of_tokens(tokens: Iterable[str]) -> Bucket:
    """A guess from the tokens that a feature promotes, for want of a label (A0.15).

    Two of them at least must be of one bucket, and more than of any other: one alone may be chance.
    """
    counted: Counter[Bucket] = Counter(bucket for token in tokens if (bucket := bucket_of(token.strip())) != "unknown")
    ranked = counted.most_common(2)
    if not ranked or ranked[0][1] < _ENOUGH or (len(ranked) > 1 and ranked[1][1] == ranked[0][1]):
        return "unknown"
    return ranked[0][0]


def _pattern(words: Iterable[str]) -> re.Pattern[str]:
    parts = (re.escape(word.removesuffix("*")) + (r"\w*" if word.endswith("*") else "") for word in words)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(parts)})(?!\w)")


_PATTERNS: Final[Mapping[Bucket, re.Pattern[str]]] = {
    bucket: _pattern(KEYWORDS[bucket]) for bucket in BUCKETS if bucket in KEYWORDS
}
