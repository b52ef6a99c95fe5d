"""The scorers by name, and the shape of those that ask a chat model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from raylens.chat import Reply
from raylens.errors import UnknownNameError
from raylens.examples.excerpt import Excerpt
from raylens.score import concept, detection, embedding, fuzz, intruder, recall, rule, simulation, surprisal
from raylens.score.metrics import Metric
from raylens.score.questions import Answered, Answers, Question, ScorerSettings, Unreadable


class ChatScorer(Protocol):
    """A scorer that asks a chat model; modules fulfil it."""

    def build_requests(
        self, explanation: str, test: Sequence[Excerpt], negatives: Sequence[Excerpt], settings: ScorerSettings,
        seed: int,
    ) -> list[Question]:  # fmt: skip
        """What to ask about one feature."""
        ...

    def read_reply(self, question: Question, reply: Reply) -> Answers | Unreadable:
        """What a reply says; never an error, and never an answer that it does not give."""
        ...

    def result(
        self, answered: Sequence[Answered], *, base_rate: float | None = None, seed: int = 0
    ) -> tuple[Metric, ...]:
        """Figures of one feature from all of its questions."""
        ...


CHAT: Mapping[str, ChatScorer] = {
    detection.SCORER: detection,
    fuzz.SCORER: fuzz,
    recall.SCORER: recall,
    simulation.SCORER: simulation,
    intruder.SCORER: intruder,
    concept.SCORER: concept,
}
NAMES = (*CHAT, surprisal.SCORER, embedding.SCORER, rule.SCORER)


def chat_scorer(name: str) -> ChatScorer:
    """The scorer of this name, of those that ask a chat model.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in CHAT:
        raise UnknownNameError.among("chat scorer", name, CHAT)
    return CHAT[name]
