"""``raylens explain``: what features mean, found by rules on Ray workers or by asking a language model.

Each batch is stored as it is done. What a killed or stopped run has stored is found again by the
settings of its pass; a rerun does the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from raylens import schema
from raylens.chat import Request
from raylens.config import ExplainConfig
from raylens.errors import InputError
from raylens.explain.explainers import EXPLAINERS, LEXICAL, explainer_for
from raylens.explain.prompts import Prompts
from raylens.explain.reply import Unreadable, read_reply, retry_messages
from raylens.ids import SaeId
from raylens.llm.errors import ContextTooLongError, EndpointUnavailableError, RequestRefusedError
from raylens.llm.settings import ChatSettings
from raylens.store.example_reader import require_examples
from raylens.store.findings import Findings
from raylens.store.ranges import range_of
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.explain_tasks import ToAsk, explain_batch, explanation_id, requests_batch
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

VERSION: Final = 3
"""Of what the lexical explainer computes: raised, it makes passes anew."""
_BATCH: Final = 16
_ASKED_BATCH: Final = 8
_SHRINK: Final = 0.85
"""What is left of a request's length where the endpoint says that it was too long."""


def run_explain(
    config: ExplainConfig,
    workspace: Workspace,
    cache_id: str,
    sae: SaeId,
    journal: RunJournal,
    report: Report,
    chat: ChatSettings | None = None,
) -> dict[str, Any]:
    """Explain the features of one SAE that this pass has not explained yet.

    Args:
        config: Which features, which explainer, which examples.
        workspace: Where the cache is.
        cache_id: Which cache.
        sae: Whose features.
        journal: Of this run.
        report: Called about once a second.
        chat: The model that explains; None for the lexical explainer, which asks nobody.

    Returns:
        ``features`` explained now, ``features_total`` that the pass is about, how many ended with each status,
        ``unanswered`` that a rerun asks about again, ``pass_id``, ``seconds``, ``random_negatives`` (silent excerpts
        that are random where nearer ones were wanted), and where a model was asked its ``usage`` and ``lost``: why
        features have no explanation, with how many; or ``settled``, where nothing was left to ask it: how many ended
        with each status before.

    Raises:
        InputError: The SAE has no such feature, the cache cannot be split into explainers' and scorers' documents,
            or the explainer needs a model and none is given.
        BudgetReached: Finished batches are kept, and every answer that was paid for.
        EndpointRefusedError: Likewise.
        StoppedError: The run was asked to stop; finished batches are kept.
    """
    began = time.monotonic()
    reader = CacheReader(workspace, cache_id)
    require_examples(reader)
    d_sae = reader.d_sae(sae)
    for feature in config.features or ():
        range_of(d_sae, feature)  # refuses what the SAE does not have
    wanted = list(config.features if config.features is not None else range(d_sae))[: config.max_latents]
    asked = _asked(config, chat)
    settings = _settings(config, asked, reader, sae)
    statuses: Counter[str] = Counter()
    told: dict[str, Any] = {}
    with cluster(config.address):
        probe_shared(workspace)
        settings |= indexed(config, workspace, reader.cache_id, journal, report)
        examples = example_settings(config)
        of = Pass(workspace.url, reader.cache_id, str(sae), "explanations", settings, examples, journal.run_id)
        findings = of.findings()
        settled = findings.settled()
        missing = [feature for feature in wanted if feature not in settled]
        findings.begin()
        if asked is not None and not missing:
            ended = findings.read(["feature", "status"], wanted)["status"].to_pylist()
            told = {"settled": dict(Counter(ended)), "random_negatives": 0}
        elif asked is not None:
            asking = _Asking(of, asked, workspace, journal, report, statuses)
            told = asking.told(in_own_loop(asking.run(missing)))
        else:
            tasks = [
                (lambda batch=batch: explain_batch.remote(of, batch), len(batch)) for batch in batches(missing, _BATCH)
            ]
            n_random = 0
            for found, at_random in on_ray(tasks, "explaining", journal, report):
                statuses.update(found)
                n_random += at_random
            told = {"random_negatives": n_random}
    return {
        "features": sum(statuses.values()),
        "features_total": len(wanted),
        "statuses": dict(statuses),
        "unanswered": len(missing) - sum(statuses.values()),
        "pass_id": findings.pass_id,
        "seconds": round(time.monotonic() - began, 3),
        **told,
    }


def require_explainer(config: ExplainConfig, chat: ChatSettings | None = None) -> None:
    """Refuse what :func:`run_explain` would refuse of an explainer and its model, before there is anything to explain.

    Raises:
        InputError: The explainer needs a model and none is given, or a prompt file cannot be used.
    """
    _asked(config, chat)


def explanations_of(
    config: ExplainConfig, reader: CacheReader, sae: SaeId, chat: ChatSettings | None = None
) -> Findings:
    """Where :func:`run_explain` keeps what it finds; not of ``faiss`` negatives, whose index names the pass too.

    Raises:
        InputError: As :func:`require_explainer`.
    """
    return Findings(reader.cache, sae, "explanations", _settings(config, _asked(config, chat), reader, sae))


@dataclass(frozen=True)
class _Asked:
    """Who is asked and how."""

    explainer: str
    chat: ChatSettings
    prompts: Prompts
    max_len: int


def _asked(config: ExplainConfig, chat: ChatSettings | None) -> _Asked | None:
    explainer = explainer_for(config.explainer, config.non_activating_source)
    if explainer == LEXICAL:
        return None
    if chat is None:
        raise InputError(
            f"the {explainer} explainer asks a language model, and none is named.",
            hint="add --explainer-model with --base-url or --provider, or use --explainer lexical, which asks nobody.",
        )
    prompts = EXPLAINERS[explainer].prompts(Path(config.prompt_dir) if config.prompt_dir is not None else None)
    return _Asked(explainer, chat, prompts, min(config.max_model_len, chat.max_model_len or config.max_model_len))


def _settings(config: ExplainConfig, asked: _Asked | None, reader: CacheReader, sae: SaeId) -> dict[str, Any]:
    """What determines a pass, the index of FAISS negatives apart."""
    name = explainer_for(config.explainer, config.non_activating_source)
    settings = {"explainer": name, "version": VERSION, **shared_settings(reader, sae, config)}
    if asked is not None:
        settings |= {**chat_identity(asked.chat), "prompts": asked.prompts.prompt_hash, "max_len": asked.max_len}
    return settings


class _Asking(Questions[list[dict[str, Any] | None]]):
    """Explanations, a request a feature."""

    what = "explaining"
    batch = _ASKED_BATCH

    def __init__(
        self, of: Pass, asked: _Asked, workspace: Workspace, journal: RunJournal, report: Report, statuses: Counter[str]
    ) -> None:
        super().__init__(asked.chat, workspace, journal, report)
        self._of, self._asked, self._statuses = of, asked, statuses
        self._findings = of.findings()

    async def ask(self, features: Sequence[int]) -> list[dict[str, Any] | None]:
        found: list[ToAsk] = await result_of(self._requests(list(features), self._asked.max_len))
        self.n_random += sum(one.n_random for one in found)
        return await all_of(self._row(one) for one in found)

    def _requests(self, features: list[int], max_len: int) -> Any:
        return requests_batch.remote(self._of, features, self._asked.explainer, self._asked.prompts, max_len)

    async def keep(self, features: Sequence[int], found: list[dict[str, Any] | None]) -> int:
        kept = [row for row in found if row is not None]
        if kept:
            table = pa.Table.from_pylist(kept, schema=schema.EXPLANATIONS)
            await asyncio.to_thread(self._findings.write, [row["feature"] for row in kept], table)
            self._statuses.update(row["status"] for row in kept)
        return len(kept)

    async def _row(self, one: ToAsk) -> dict[str, Any] | None:
        """What is stored about a feature; None where the endpoint did not answer, so that a rerun asks again."""
        row: dict[str, Any] = {
            "feature": one.feature,
            "run_id": self._of.run_id,
            "explainer": self._asked.explainer,
            "model": self._asked.chat.model,
            "prompt_hash": self._asked.prompts.prompt_hash,
            "created_at": datetime.now(UTC),
        }
        if one.request is not None:
            try:
                one, said = await self._answer(one, one.request)
            except Gone:
                raise
            except EndpointUnavailableError as error:
                self.lost[error.message] += 1
                return None
            except RequestRefusedError as error:
                said = Unreadable(error.message)
            if isinstance(said, str):
                row |= {"status": "ok", "explanation": said}
                row["explanation_id"] = explanation_id(self._of, one.feature, {"explanation": said})
            else:
                self.lost[said.reason] += 1
                row |= {"status": "failed", "error": said.reason}
        else:
            row |= {"status": one.status, "error": one.error}
        return row | {"n_examples": one.n_examples, "trimmed": one.trimmed}

    async def _answer(self, one: ToAsk, request: Request) -> tuple[ToAsk, str | Unreadable]:
        """The phrase, asked for once more with the reason where the first reply cannot be read."""
        try:
            reply = await self._patient.ask(request)
        except ContextTooLongError:
            (smaller,) = await result_of(self._requests([one.feature], int(one.n_tokens * _SHRINK)))
            if smaller.request is None:  # there is nothing left to leave out
                raise
            return await self._answer(smaller, smaller.request)
        said = read_reply(reply)
        if isinstance(said, str):
            return one, said
        useless = self.useless[one.feature]
        useless.append(request)
        again = replace(request, messages=retry_messages(request.messages, reply.text, said, self._asked.prompts))
        try:
            retried = read_reply(await self._patient.ask(again))
        except ContextTooLongError:
            return one, said
        if isinstance(retried, str):
            useless.clear()  # the first reply led to this one, which a rerun shall find without asking
            return one, retried
        useless.append(again)
        return one, Unreadable(f"{said.reason} Asked again: {retried.reason}")
