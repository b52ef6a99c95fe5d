"""``raylens provenance``: what causes a feature, in one text, or in the windows of a cache where it fires most.

Edges are stored as each text is done. A rerun works out the texts that are missing, and sums up all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import torch

from raylens.api.provenance import Provenance
from raylens.api.reading import Passage
from raylens.engine.passage import passage_tokens
from raylens.errors import InputError, StoppedError
from raylens.store.edge_summary import summarise
from raylens.store.edges import Edges
from raylens.store.reader import CacheReader
from raylens.store.runs import RunJournal
from raylens.store.workspace import Workspace
from raylens.workbench.provenance import provenance, provenance_id
from raylens_jobs.cluster import available_cpus, cluster, probe_shared
from raylens_jobs.failures import ray_failures
from raylens_jobs.processes import await_exit
from raylens_jobs.provenance_actor import ProvenanceActor
from raylens_jobs.provenance_plan import ProvenancePlan
from raylens_jobs.workers import choose_workers

Report = Callable[[int, int], None]
"""Told how many texts are done, of how many."""


@dataclass(frozen=True, slots=True)
class PeakText:
    """A window of a cache, and the token on which the feature fires most.

    Attributes:
        window_id: Which window.
        ids: Its tokens.
        token: Place in it.
        id: Of the result.
    """

    window_id: int
    ids: tuple[int, ...]
    token: int
    id: str


def follow_text(
    plan: ProvenancePlan,
    workspace: Workspace,
    *,
    text: str | None = None,
    window: int | None = None,
    token: int | None = None,
) -> Provenance:
    """Follow the feature back in one text, in this process, and store the edges.

    Args:
        plan: What is asked.
        workspace: Where edges go.
        text: Any text; None for a window.
        window: Of the plan's cache; None for the one in which the feature fires most.
        token: The feature's; None for the one on which it fires most.

    Raises:
        InputError: The feature does not fire there, or there is no such window or token.
        RaylensError: As :func:`raylens.workbench.provenance.provenance`.
    """
    if text is not None and not text:
        raise InputError("the text is empty.", hint="give some.")
    ids: Sequence[int] = ()
    if text is None:
        window, ids = _window(plan, workspace, window)
    # A core is left for other work: where there is some, torch's last thread is what all others wait for.
    torch.set_num_threads(plan.config.threads or max(1, available_cpus() - 1))
    loaded, saes = plan.load()
    if text is not None:
        ids = passage_tokens(loaded, Passage(text=text)).ids
    found = provenance(loaded, saes, plan.target, ids, token, top=plan.config.top, integrated=plan.config.integrated)
    of_cache = plan.cache_id if text is None else None
    Edges(workspace.files).append(found, cache_id=of_cache, window_id=window)
    return found


def _window(plan: ProvenancePlan, workspace: Workspace, window: int | None) -> tuple[int, list[int]]:
    """The window's number and tokens."""
    if plan.cache_id is None:
        raise InputError(f"{plan.target.sae} is in no cache here.", hint="give --text.")
    reader = CacheReader(workspace, plan.cache_id)
    if window is None:
        strongest = reader.top_windows(plan.target.sae, plan.target.index, 1)
        if not strongest:
            raise InputError(f"{plan.target} fires nowhere in cache {plan.cache_id}.", hint="give --text.")
        window = strongest[0].window_id
    return window, reader.windows([window], ["token_ids"])["token_ids"][0].as_py()


def peak_texts(plan: ProvenancePlan, workspace: Workspace) -> list[PeakText]:
    """The windows in which the feature fires most, the strongest first.

    Raises:
        InputError: It fires nowhere in the cache, or is of none.
    """
    if plan.cache_id is None:
        raise InputError(f"{plan.target.sae} is in no cache here.", hint="give --text.")
    reader = CacheReader(workspace, plan.cache_id)
    activities = reader.top_windows(plan.target.sae, plan.target.index, plan.config.windows)
    if not activities:
        raise InputError(f"{plan.target} fires nowhere in cache {plan.cache_id}.", hint="give --text.")
    rows = reader.windows([one.window_id for one in activities], ["token_ids"])["token_ids"].to_pylist()
    found: list[PeakText] = []
    for activity, ids in zip(activities, rows, strict=True):
        # What every window begins with may fire as strongly, and does not count as the peak.
        n_prefix = len(reader.info.get("prefix_ids") or ())
        places = activity.positions[(activity.activations == np.float32(activity.peak))]
        token = int(next((place for place in places if place >= n_prefix), places[0]))
        id_ = provenance_id(plan.model.revision, ids, plan.target, token, plan.fingerprints, plan.config.integrated)
        found.append(PeakText(activity.window_id, tuple(ids), token, id_))
    return found


def run_provenance(
    plan: ProvenancePlan, workspace: Workspace, journal: RunJournal, report: Report = lambda _done, _total: None
) -> dict[str, Any]:
    """Follow the feature back in every window that is missing, on Ray, and sum all of them up.

    Args:
        plan: What is asked.
        workspace: Where the cache is, and edges go; every node must see it.
        journal: The run's record, which also carries requests to stop.
        report: Called after each text.

    Returns:
        ``texts`` worked out now, ``texts_total``, ``silent`` (the model that was loaded does not have the feature fire
        there), ``seconds``, and what :class:`raylens.store.edge_summary.EdgeSummary` has of all texts.

    Raises:
        InputError: The feature fires nowhere.
        StoppedError: The run was asked to stop; finished texts are kept.
    """
    began = time.monotonic()
    texts, edges = peak_texts(plan, workspace), Edges(workspace.files)
    known = edges.known()
    missing = [one for one in texts if known.get(one.id, 0) < plan.config.top]
    done, silent = 0, 0
    report(len(texts) - len(missing), len(texts))
    if missing:
        with cluster(plan.config.address), ray_failures("following a feature back"):
            probe_shared(workspace)
            for one, found in _followed(plan, missing, journal):
                done += 1
                if found is None:
                    silent += 1
                else:
                    where = {"cache_id": plan.cache_id, "window_id": one.window_id}
                    edges.append(found, run_id=journal.run_id, **where)
                journal.progress(texts=done, texts_wanted=len(missing))
                report(len(texts) - len(missing) + done, len(texts))
            if done < len(missing):
                raise StoppedError(
                    f"run {journal.run_id} was stopped after {done:,} of {len(missing):,} texts.",
                    hint="run the same command again to go on from there.",
                )
    summary = summarise(edges.of({one.id for one in texts}))
    figures = {"texts": done, "texts_total": len(texts), "silent": silent}
    return {**figures, "seconds": round(time.monotonic() - began, 3), **asdict(summary)}


def _followed(
    plan: ProvenancePlan, texts: Sequence[PeakText], journal: RunJournal
) -> Iterator[tuple[PeakText, Provenance | None]]:
    """Texts as they are done; where the run is asked to stop, those under way are the last."""
    workers = choose_workers(plan.config)
    remote: Any = ray.remote(ProvenanceActor)
    options = {"num_cpus": workers.reserved_cpus, "num_gpus": workers.gpus}
    count = min(workers.count, len(texts))
    actors: list[Any] = [remote.options(**options).remote(plan, workers.threads) for _ in range(count)]
    idle, waiting = list(actors), list(texts)
    busy: dict[Any, tuple[PeakText, Any]] = {}
    processes: list[str] = []
    try:
        while busy or (waiting and not journal.stop_requested()):
            while waiting and idle and not journal.stop_requested():
                one, actor = waiting.pop(0), idle.pop(0)
                busy[actor.follow.remote(list(one.ids), one.token)] = (one, actor)
            ready, _ = ray.wait(list(busy), num_returns=1)
            one, actor = busy.pop(ready[0])
            idle.append(actor)
            yield one, ray.get(ready[0])
        processes = ray.get([actor.process.remote() for actor in idle])
    finally:
        for actor in actors:
            ray.kill(actor)
    await_exit(processes)
