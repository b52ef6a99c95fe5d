"""One pass over features: what its batches share, how they are cut, and how far they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from raylens.config import ExampleConfig, ExplainConfig, ScoreConfig
from raylens.errors import StoppedError
from raylens.ids import SaeId, digest
from raylens.llm.settings import ChatSettings, EndpointSettings
from raylens.llm.spend import Usage
from raylens.store.findings import FindingKind, Findings
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens_jobs.failures import ray_failures
from raylens_jobs.piece_index import ensure_index


@dataclass(frozen=True, slots=True)
class Pass:
    """What all batches of one pass share; small enough to send with each."""

    url: str
    cache_id: str
    sae: str
    kind: FindingKind
    settings: dict[str, Any]
    config: ExampleConfig
    run_id: str

    def findings(self) -> Findings:
        cache = Workspace.open(self.url).cache(self.cache_id)
        return Findings(cache, SaeId.parse(self.sae), self.kind, self.settings)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass is; counts are of this run.

    Attributes:
        features: Done.
        features_wanted: In all.
        seconds: Since the first was begun.
        usage: What a language model was asked and what that cost; None where none is asked.
        note: What is under way before the first feature, if that takes long.
    """

    features: int
    features_wanted: int
    seconds: float
    usage: Usage | None = None
    note: str = ""


Report = Callable[[Progress], None]


def example_settings(config: ExampleConfig) -> ExampleConfig:
    """Only what decides about examples, so that equal ones are equal whatever run asks for them."""
    return ExampleConfig.model_validate(config.model_dump(include=set(ExampleConfig.model_fields)))


def shared_settings(reader: CacheReader, sae: SaeId, config: ExampleConfig) -> dict[str, Any]:
    """What determines any finding: the examples, and the merged files that they are drawn from."""
    made_of = digest({"files": sorted(entry.path for entry in reader.manifest.of("activations", sae))})
    return {"activations": made_of[:16], "examples": example_settings(config).model_dump(mode="json")}


def indexed(
    config: ExplainConfig | ScoreConfig, workspace: Workspace, cache_id: str, journal: RunJournal, report: Report
) -> dict[str, str]:
    """See to the index that FAISS negatives come from; what identifies it, for the settings of a pass.

    Raises:
        InputError, StoppedError: As :func:`raylens_jobs.piece_index.ensure_index`.
    """
    began = time.monotonic()

    def embedding(done: int, total: int) -> None:
        report(Progress(0, 0, time.monotonic() - began, note=f"embedding text, {done:,} of {total:,} parts"))

    key = ensure_index(config, workspace, cache_id, journal, embedding)
    return {} if key is None else {"index": key}


def chat_identity(chat: ChatSettings) -> dict[str, Any]:
    """What of a chat model determines its answers; limits and prices do not."""
    own = {"base_url"} if isinstance(chat, EndpointSettings) else {"revision", "dtype", "quantization"}
    return chat.model_dump(mode="json", include={"provider", "model"} | own)


def batches(features: Sequence[int], size: int) -> list[list[int]]:
    """``features`` in runs of ``size``."""
    return [list(features[first : first + size]) for first in range(0, len(features), size)]


def on_ray(
    tasks: Sequence[tuple[Callable[[], Any], int]], what: str, journal: RunJournal, report: Report
) -> Iterator[Any]:
    """Results of tasks as they come, each given as what starts it and how many features it is about.

    A few tasks a core are in flight, so that stopping is quick and memory flat. A stop starts no further
    task and waits for those in flight, so that what it reports done is what is stored.

    Raises:
        StoppedError: The run was asked to stop, and some were not begun.
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
        raise stopped_early(journal, done, total)


def stopped_early(journal: RunJournal, done: int, total: int) -> StoppedError:
    """What a run says that was asked to stop."""
    return StoppedError(
        f"run {journal.run_id} was stopped after {done:,} of {total:,} features.",
        hint="run the same command again to go on from there.",
    )
