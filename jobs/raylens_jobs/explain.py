"""``raylens explain`` and ``raylens score``: features in batches over Ray, each batch stored as it is done.

What a killed or stopped run has stored is found again by the settings of its pass; a rerun does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray

from raylens.config import ExampleConfig, ExplainConfig, ScoreConfig
from raylens.errors import InputError, StoppedError
from raylens.ids import SaeId, digest
from raylens.score.shuffled import givers
from raylens.store.findings import Findings
from raylens.store.ranges import range_of
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.cluster import cluster, probe_shared
from raylens_jobs.explain_tasks import SHUFFLED, Pass, ToScore, explain_batch, score_batch
from raylens_jobs.failures import ray_failures

VERSION: Final = 1
"""Of what the lexical explainer and the scorers compute: raised, it makes passes anew."""
_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass is; counts are of this run."""

    features: int
    features_wanted: int
    seconds: float


Report = Callable[[Progress], None]


def run_explain(
    config: ExplainConfig, workspace: Workspace, cache_id: str, sae: SaeId, journal: RunJournal, report: Report
) -> dict[str, Any]:
    """Explain the features of one SAE that this pass has not explained yet.

    Returns:
        ``features`` explained now, how many ended with each status, ``pass_id``, ``seconds``.

    Raises:
        InputError: The SAE has no such feature, or the cache cannot be split into explainers' and scorers' documents.
        StoppedError: The run was asked to stop; finished batches are kept.
    """
    began = time.monotonic()
    reader = CacheReader(workspace, cache_id)
    d_sae = reader.d_sae(sae)
    for feature in config.features or ():
        range_of(d_sae, feature)  # refuses what the SAE does not have
    wanted = list(config.features if config.features is not None else range(d_sae))[: config.max_latents]
    settings = {"explainer": config.explainer, "version": VERSION, **_shared(reader, sae, config)}
    of = Pass(workspace.url, reader.cache_id, str(sae), "explanations", settings, _examples(config), journal.run_id)
    findings = of.findings()
    settled = findings.settled()
    missing = [feature for feature in wanted if feature not in settled]
    statuses: dict[str, int] = {}
    with cluster(config.address):
        probe_shared(workspace)
        findings.begin()
        tasks = [(lambda batch=batch: explain_batch.remote(of, batch), len(batch)) for batch in _batches(missing)]
        for found in _done(tasks, "explaining", journal, report):
            for status, count in found.items():
                statuses[status] = statuses.get(status, 0) + count
    return {
        "features": len(missing),
        "features_total": len(wanted),
        "statuses": statuses,
        "pass_id": findings.pass_id,
        "seconds": round(time.monotonic() - began, 3),
    }


def run_score(
    config: ScoreConfig, workspace: Workspace, explanations: Findings, journal: RunJournal, report: Report
) -> dict[str, Any]:
    """Score the explanations of a pass, each beside another feature's (the shuffled control).

    Raises:
        InputError: The pass has explained nothing.
        StoppedError: As :func:`run_explain`.
    """
    began = time.monotonic()
    rows = [row for row in explanations.read().to_pylist() if row["status"] == "ok"]
    if not rows:
        raise InputError("there is no explanation to score.", hint="run raylens explain first.")
    # Scorers see the documents that this pass's explainer did not.
    explained = explanations.settings["examples"]
    assert isinstance(explained, dict)
    config = config.model_copy(update={name: explained[name] for name in ("seed", "test_share")})
    sae, reader = explanations.sae, CacheReader(workspace, explanations.cache.cache_id)
    settings = {
        "explanations": explanations.pass_id,
        "explained": digest({"ids": [row["explanation_id"] for row in rows]})[:16],
        "scorers": list(config.scorers),
        "version": VERSION,
        **_shared(reader, sae, config),
    }
    of = Pass(workspace.url, reader.cache_id, str(sae), "scores", settings, _examples(config), journal.run_id)
    findings = of.findings()
    settled = findings.settled()
    items: dict[int, list[ToScore]] = {row["feature"]: [_to_score(row["feature"], row)] for row in rows}
    texts = [row["explanation"] for row in rows]
    for row, giver in zip(rows, givers(texts, config.seed).tolist() if len(rows) > 1 else (), strict=len(rows) > 1):
        if texts[giver] != row["explanation"]:  # one that says the same controls nothing
            items[row["feature"]].append(_to_score(row["feature"], rows[giver], SHUFFLED))
    missing = [feature for feature in items if feature not in settled]
    with cluster(config.address):
        probe_shared(workspace)
        findings.begin()
        tasks = [
            (
                lambda batch=batch: score_batch.remote(of, [i for f in batch for i in items[f]], list(config.scorers)),
                len(batch),
            )
            for batch in _batches(missing)
        ]
        for _ in _done(tasks, "scoring", journal, report):
            pass
    return {
        "features": len(missing),
        "features_total": len(items),
        "pass_id": findings.pass_id,
        "seconds": round(time.monotonic() - began, 3),
    }


def _to_score(feature: int, row: dict[str, Any], control: str | None = None) -> ToScore:
    return ToScore(feature, row["explanation_id"], row["explainer"], row["explanation"], row["rule"], control)


def _examples(config: ExampleConfig) -> ExampleConfig:
    """Only what decides about examples, so that equal ones are equal whatever run asks for them."""
    return ExampleConfig.model_validate(config.model_dump(include=set(ExampleConfig.model_fields)))


def _shared(reader: CacheReader, sae: SaeId, config: ExampleConfig) -> dict[str, Any]:
    """What determines any finding: the examples, and the merged files that they are drawn from."""
    made_of = digest({"files": sorted(entry.path for entry in reader.manifest.of("activations", sae))})
    return {"activations": made_of[:16], "examples": _examples(config).model_dump(mode="json")}


def _batches(features: Sequence[int]) -> list[list[int]]:
    return [list(features[first : first + _BATCH]) for first in range(0, len(features), _BATCH)]


def _done(
    tasks: Sequence[tuple[Callable[[], Any], int]], what: str, journal: RunJournal, report: Report
) -> Iterator[Any]:
    """Results as they come; a few tasks a core are in flight, so that stopping is quick and memory flat.

    A stop starts no further task and waits for those in flight, so that what it reports done is what is stored.
    """
    began, total = time.monotonic(), sum(size for _, size in tasks)
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[Any, int] = {}
    queue, done, stopped = list(reversed(tasks)), 0, False
    with ray_failures(what):
        while pending or (queue and not stopped):
            while queue and not stopped and len(pending) < most:
                start, size = queue.pop()
                pending[start()] = size
            ready, _ = ray.wait(list(pending), timeout=1.0)
            for one in ready:
                done += pending.pop(one)
                yield ray.get(one)
            journal.progress(features=done, features_wanted=total)
            report(Progress(done, total, time.monotonic() - began))
            stopped = stopped or journal.stop_requested()
    if stopped and done < total:
        raise StoppedError(
            f"run {journal.run_id} was stopped after {done:,} of {total:,} features.",
            hint="run the same command again to go on from there.",
        )
