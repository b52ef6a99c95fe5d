"""``raylens score``: how good explanations are, on excerpts of documents that their explainer did not see."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raylens.config import ScoreConfig, ScorerName
from raylens.errors import InputError
from raylens.ids import digest
from raylens.llm.errors import EndpointUnavailableError, RequestRefusedError
from raylens.llm.settings import ChatSettings
from raylens.score import surprisal
from raylens.score.questions import Answered, Question, ScorerSettings, Unreadable, score_prompts
from raylens.score.scorers import CHAT, chat_scorer
from raylens.score.shuffled import givers
from raylens.store.domains import Domain
from raylens.store.example_reader import require_examples
from raylens.store.findings import Findings
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.lane import Gone, all_of, in_own_loop, result_of
from raylens_jobs.passes import (
    Pass,
    Report,
    batches,
    chat_identity,
    example_settings,
    indexed,
    on_ray,
    shared_settings,
)
from raylens_jobs.questions import Questions
from raylens_jobs.score_tasks import (
    SHUFFLED,
    Asking,
    Losses,
    Reading,
    ToJudge,
    ToScore,
    questions_batch,
    score_batch,
    store_batch,
)

VERSION: Final = 1
"""Of what scorers compute: raised, it makes passes anew."""
_BATCH: Final = 16
_JUDGED_BATCH: Final = 4
_TOP_LOGPROBS: Final = 20
"""Alternatives a token, as many as endpoints give: a level of 0–10 is read from them."""


def run_score(
    config: ScoreConfig,
    workspace: Workspace,
    explanations: Findings,
    journal: RunJournal,
    report: Report,
    chat: ChatSettings | None = None,
) -> dict[str, Any]:
    """Score the explanations of a pass, each beside another feature's (the shuffled control).

    Args:
        config: Which scorers, which examples. How documents are split is taken from the pass.
        workspace: Where the cache is.
        explanations: The pass.
        journal: Of this run.
        report: Called about once a second.
        chat: The model that judges; None where no scorer asks one.

    Returns:
        ``features`` scored now, ``features_total``, ``pass_id``, ``seconds``, ``random_negatives`` (silent excerpts
        that are random where nearer ones were wanted), and where a model judged its ``usage`` and ``lost``: why items
        went unanswered, with how many.

    Raises:
        InputError: The pass has explained nothing, or a scorer needs a model and none is given.
        BudgetReached, EndpointRefusedError, StoppedError: Finished batches are kept.
    """
    began = time.monotonic()
    asks = [name for name in config.scorers if name in CHAT or name == surprisal.SCORER]
    if asks and chat is None:
        raise InputError(
            f"the scorer {asks[0]} asks a language model, and none is named.",
            hint="add --judge-model with --base-url or --provider; the scorers rule and embedding ask nobody.",
        )
    rows = [
        row
        for row in explanations.each(["feature", "status", "explanation_id", "explainer", "explanation", "rule"])
        if row["status"] == "ok" and (config.features is None or row["feature"] in config.features)
    ]
    if not rows:
        raise InputError("there is no explanation to score.", hint="run raylens explain first.")
    # Scorers see the documents that this pass's explainer did not.
    explained = explanations.settings["examples"]
    assert isinstance(explained, dict)
    config = config.model_copy(update={name: explained[name] for name in ("seed", "test_share")})
    sae, reader = explanations.sae, CacheReader(workspace, explanations.cache.cache_id)
    require_examples(reader)
    if config.domain is not None:
        Domain(reader, config.domain)  # refuses one that compares nothing
    settings = {
        "explanations": explanations.pass_id,
        "explained": digest({"ids": [row["explanation_id"] for row in rows]})[:16],
        "scorers": list(config.scorers),
        "shuffled": config.shuffled,
        **({"domain": config.domain} if config.domain is not None else {}),
        "version": VERSION,
        **shared_settings(reader, sae, config),
    }
    judge = _judge(config, chat) if asks else None
    if judge is not None:
        settings |= {**chat_identity(judge.chat), **judge.settings_json()}
    items = _items(rows, config)
    found: dict[str, Any] = {}
    with cluster(config.address):
        probe_shared(workspace)
        settings |= indexed(config, workspace, reader.cache_id, journal, report)
        examples = example_settings(config)
        of = Pass(workspace.url, reader.cache_id, str(sae), "scores", settings, examples, journal.run_id)
        findings = of.findings()
        settled = findings.settled()
        missing = [feature for feature in items if feature not in settled]
        findings.begin()
        if judge is not None and missing:
            judging = _Judging(of, judge, items, workspace, journal, report)
            found = judging.told(in_own_loop(judging.run(missing, judging.questions_a_feature)))
        else:
            tasks = [
                (
                    lambda batch=batch: score_batch.remote(of, _of(items, batch), list(config.scorers), config.domain),
                    len(batch),
                )
                for batch in batches(missing, _BATCH)
            ]
            found = {"random_negatives": sum(on_ray(tasks, "scoring", journal, report))}
    return {
        "features": len(missing),
        "features_total": len(items),
        "unexplained": sorted(set(config.features or ()) - set(items)),
        "pass_id": findings.pass_id,
        "seconds": round(time.monotonic() - began, 3),
        **found,
    }


def _items(rows: Sequence[dict[str, Any]], config: ScoreConfig) -> dict[int, list[ToScore]]:
    """What is scored on each feature's examples: its own explanation and, as a control, another feature's."""
    items: dict[int, list[ToScore]] = {row["feature"]: [_to_score(row["feature"], row)] for row in rows}
    if config.shuffled:
        by_feature = {row["feature"]: row for row in rows}
        given = givers({feature: row["explanation"] for feature, row in by_feature.items()}, config.seed)
        for feature, giver in given.items():
            items[feature].append(_to_score(feature, by_feature[giver], SHUFFLED))
    return items


def _to_score(feature: int, row: dict[str, Any], control: str | None = None) -> ToScore:
    return ToScore(feature, row["explanation_id"], row["explainer"], row["explanation"], row["rule"], control)


def _of(items: dict[int, list[ToScore]], features: Sequence[int]) -> list[ToScore]:
    return [item for feature in features for item in items[feature]]


@dataclass(frozen=True)
class _Judge:
    """Who is asked and how."""

    chat: ChatSettings
    scorers: tuple[ScorerName, ...]
    settings: ScorerSettings
    domain: str | None

    def settings_json(self) -> dict[str, Any]:
        own = self.settings
        return {"prompts": own.prompts.prompt_hash, "per_prompt": own.per_prompt, "top_logprobs": own.top_logprobs}


def _judge(config: ScoreConfig, chat: ChatSettings | None) -> _Judge:
    assert chat is not None
    prompts = score_prompts(Path(config.prompt_dir) if config.prompt_dir is not None else None)
    top = _TOP_LOGPROBS if config.log_probs else 0
    settings = ScorerSettings(prompts, config.num_examples_per_scorer_prompt, top_logprobs=top)
    return _Judge(chat, config.scorers, settings, config.domain)


_Answered = tuple[ToJudge, list[tuple[Asking, list[Answered]]], list[tuple[Reading, Losses, Losses]]]


class _Judging(Questions[_Answered]):
    """Scores, many questions a feature."""

    what = "scoring"
    batch = _JUDGED_BATCH

    def __init__(
        self,
        of: Pass,
        judge: _Judge,
        items: dict[int, list[ToScore]],
        workspace: Workspace,
        journal: RunJournal,
        report: Report,
    ) -> None:
        super().__init__(judge.chat, workspace, journal, report)
        self._of, self._judge, self._items = of, judge, items

    @property
    def questions_a_feature(self) -> float:
        """About as many as detection asks, its control included."""
        config = self._of.config
        return 2 * (config.n_examples_test + config.n_non_activating) / self._judge.settings.per_prompt

    async def ask(self, features: Sequence[int]) -> _Answered:
        items = _of(self._items, features)
        found: ToJudge = await result_of(
            questions_batch.remote(self._of, items, list(self._judge.scorers), self._judge.settings, self._judge.domain)
        )
        self.n_random += found.n_random
        asked: list[Any] = [self._judged(one) for one in found.asking]
        asked += [self._read(one) for one in found.reading]
        answered = await all_of(asked)
        return found, answered[: len(found.asking)], answered[len(found.asking) :]

    async def keep(self, features: Sequence[int], found: _Answered) -> int:
        prepared, judged, read = found
        items = _of(self._items, features)
        return await result_of(store_batch.remote(self._of, items, prepared.rows, judged, read, self._judge.chat.model))

    async def _judged(self, asking: Asking) -> tuple[Asking, list[Answered]]:
        answers = await all_of(self._answer(asking, one) for one in asking.questions)
        silent = asking.silent()
        return silent, list(zip(silent.questions, answers, strict=True))

    async def _answer(self, asking: Asking, question: Question) -> Any:
        try:
            reply = await self._patient.ask(question.request)
        except Gone:
            raise
        except (EndpointUnavailableError, RequestRefusedError) as error:
            answer = Unreadable(error.message)
        else:
            answer = chat_scorer(asking.scorer).read_reply(question, reply)
            if isinstance(answer, Unreadable):
                self.useless[asking.item.feature].append(question.request)
        if isinstance(answer, Unreadable):
            self.lost[f"{asking.scorer}: {answer.reason}"] += len(question.item_ids)
        return answer

    async def _read(self, reading: Reading) -> tuple[Reading, Losses, Losses]:
        pairs = [(context, text) for context in (reading.told, reading.untold) for text in reading.texts]
        found = await all_of(self._losses(context, text) for context, text in pairs)
        return reading, found[: len(reading.texts)], found[len(reading.texts) :]

    async def _losses(self, context: str, text: str) -> Any:
        try:
            return await self._patient.losses(context, text)
        except Gone:
            raise
        except (EndpointUnavailableError, RequestRefusedError) as error:
            self.lost[f"{surprisal.SCORER}: {error.message}"] += 1
            return None
