"""A language model that reads: it answers every prompt of ours by what it knows, or by what its mode says.

Behind :class:`fake_llm.FakeLlm` it is a chat endpoint over real HTTP::

    judge = Judge(Table(sets))    # of truths.py; or Rules(...), or any object with their two methods
    with FakeLlm(judge) as llm:
        settings = EndpointSettings(base_url=llm.base_url, model="fake")

It is deterministic, whatever the order in which questions come. A chat that is none of our prompts, word for word, is
answered with status 400, and so is one about which nothing is known; both are counted in :attr:`Judge.refused`.
Explainers are answered alike in all modes, scorers as follows:

============  ========================  =========================================  ======================
mode          detection, recall, fuzz   simulation                                 intruder
============  ========================  =========================================  ======================
``perfect``   the truth                 the true strength                          the one
``inverted``  its opposite              10 less it                                 one of the others
``coin``      fair, P(yes) in 0.05–0.95 any level                                  any
``constant``  yes                       5                                          the first
============  ========================  =========================================  ======================

Log-probabilities are sent where they are asked for. Then strengths between two levels are told exactly, as what the
alternatives are expected to be, so that a perfect simulation correlates to 1.0; without them levels are rounded.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from fake_llm import Answer, Asked
from raylens.chat import Request
from shown import Reader, Shown, UnknownChatError

Mode = Literal["perfect", "inverted", "coin", "constant"]
_SURE = 0.98
Row = tuple[str, float, Mapping[str, float]]


class Truth(Protocol):
    """What a judge knows. Both methods raise LookupError of what they do not know."""

    def values(self, shown: Shown) -> Sequence[float]:
        """Of detection and fuzz 1 or 0 a text; of simulation a strength of 0–1 a token; of intruder 1 for the one.

        Of concept 1 or 0.
        """
        ...

    def explain(self, shown: Shown) -> str:
        """A phrase for the examples of an explainer's prompt."""
        ...


class ReadingOnly:
    """Knows nothing and names the tokens that it is shown: for modes that need no truth."""

    def values(self, shown: Shown) -> Sequence[float]:
        raise LookupError("nothing is known of any text")

    def explain(self, shown: Shown) -> str:
        """The up to three tokens whose levels add up to the most: "`self`, `cls`"."""
        levels: dict[str, int] = {}
        for example in shown.examples:
            for token, level in example.pairs:
                levels[token.strip() or token] = levels.get(token.strip() or token, 0) + level
        if not levels:
            raise LookupError("no example shows a token")
        best = sorted(levels, key=lambda token: (-levels[token], token))[:3]
        return ", ".join(f"`{token[:40]}`" for token in best)


class Judge:
    """Answers chats; an instance is what ``FakeLlm(respond=…)`` takes, and can be called with messages alone.

    Args:
        truth: What it knows; needed in the modes ``perfect`` and ``inverted``.
        mode: See the module; may be changed between requests.
        seed: Of ``coin``; each question has a coin of its own, which falls alike whenever it is asked.
        delay_s: Before every answer is sent, as a model takes time; answers are delayed side by side.
        busy_s: Time that the endpoint itself is kept busy for each answer, one after another.
        prompt_dir: The folder that the run was given as ``--prompt-dir``.

    Attributes:
        seen: What every chat showed, in order of arrival.
        refused: Why chats were refused.
    """

    def __init__(
        self,
        truth: Truth | None = None,
        mode: Mode = "perfect",
        *,
        seed: int = 0,
        delay_s: float = 0.0,
        busy_s: float = 0.0,
        prompt_dir: Path | None = None,
    ) -> None:
        self.truth: Truth = truth or ReadingOnly()
        self.mode: Mode = mode
        self.seed, self.delay_s, self.busy_s = seed, delay_s, busy_s
        self.seen: list[Shown] = []
        self.refused: list[str] = []
        self._reader = Reader(prompt_dir)
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answer:
        if not asked.target.endswith("/chat/completions"):
            return self._refusal(f"no such address: {asked.target}", 404)
        return self.answer(asked.body.get("messages", []))

    def answer(self, messages: Sequence[Mapping[str, str]]) -> Answer:
        """The answer to a chat of ``{"role": …, "content": …}``."""
        try:
            shown = self._reader.read(messages)
            if shown.is_explainer:
                rows = [_plain(f"[EXPLANATION]: {self.truth.explain(shown)}")]
            else:
                rows = _written(shown, self._values(shown, messages))
        except (UnknownChatError, LookupError) as error:
            return self._refusal(str(error))
        with self._lock:
            self.seen.append(shown)
        if self.busy_s:
            time.sleep(self.busy_s)
        return Answer("".join(text for text, _, _ in rows), logprobs=rows, delay_s=self.delay_s)

    def _refusal(self, why: str, status: int = 400) -> Answer:
        with self._lock:
            self.refused.append(why)
        return Answer.error(status, f"the judge does not know this: {why}")

    def _values(self, shown: Shown, messages: Sequence[Mapping[str, str]]) -> list[float]:
        """Of detection and fuzz the probability of a yes, of simulation a strength of 0–1, of intruder 1 for one."""
        n = len(shown.tokens) if shown.prompt == "simulation" else len(shown.texts)
        if self.mode == "constant":
            if shown.prompt == "intruder":
                return _one_of(n, 0)
            return [0.5 if shown.prompt == "simulation" else _SURE] * n
        if self.mode == "coin":
            rng = np.random.default_rng(_seed(self.seed, messages))
            if shown.prompt == "simulation":
                return (rng.integers(11, size=n) / 10).tolist()
            if shown.prompt == "intruder":
                return _one_of(n, int(rng.integers(n)))
            return rng.uniform(0.05, 0.95, n).tolist()
        truth = [float(value) for value in self.truth.values(shown)]
        if len(truth) != n:
            raise LookupError(f"{len(truth)} truths for {n} values")
        right = self.mode == "perfect"
        if shown.prompt == "intruder":
            return truth if right else _one_of(n, (int(np.argmax(truth)) + 1) % n)
        if shown.prompt == "simulation":
            return truth if right else [1 - value for value in truth]
        return [_SURE if (value > 0.5) == right else 1 - _SURE for value in truth]


def _seed(seed: int, messages: Sequence[Mapping[str, str]]) -> int:
    text = json.dumps([seed, [[one["role"], one["content"]] for one in messages]])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _one_of(n: int, place: int) -> list[float]:
    return [float(i == place) for i in range(n)]


def _plain(text: str) -> Row:
    return text, 0.0, {text: 0.0}


def _choice(chances: Mapping[str, float]) -> Row:
    """The likeliest of some texts, the others as alternatives."""
    logs = {text: math.log(chance) for text, chance in chances.items() if chance > 0}
    text = max(logs, key=logs.__getitem__)
    return text, logs[text], logs


def _written(shown: Shown, values: Sequence[float]) -> list[Row]:
    """``values`` in the form that the prompt asks for, a row a token."""
    if shown.prompt == "intruder":
        return [_plain("["), _plain(str(int(np.argmax(values)) + 1)), _plain("]")]
    rows: list[Row] = []
    for number, value in enumerate(values, start=1):
        comma = _plain(", " if number < len(values) else "]" if shown.prompt != "simulation" else "}")
        if shown.prompt != "simulation":
            rows += [_choice({"1": value, "0": 1 - value}), comma]
            continue
        tenths = min(max(10 * value, 0.0), 10.0)
        low = math.floor(tenths)
        rows += [_plain(f'"{number}": '), _choice({str(low): low + 1 - tenths, str(low + 1): tenths - low}), comma]
    return [_plain("{" if shown.prompt == "simulation" else "["), *rows]


def wire(request: Request) -> list[dict[str, str]]:
    """The messages of a request as they go over the wire."""
    return [{"role": one.role, "content": one.content} for one in request.messages]
