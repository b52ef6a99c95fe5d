"""The one-command form at work: cache, then explain, score and export one SAE after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raylens.errors import RunError
from raylens_app.cli.autointerp.plan import Job, plan
from raylens_app.cli.output import note

if TYPE_CHECKING:
    from raylens.config import ExplainConfig
    from raylens.llm.settings import ChatSettings
    from raylens.store.findings import FindingKind
    from raylens.store.reader import CacheReader
    from raylens.store.selection import Readable
    from raylens.store.workspace import Workspace
    from raylens_app.cli.autointerp.parser import Parsed
    from raylens_jobs.cache import CachePlan


def run(parsed: Parsed, workspace_url: str) -> dict[str, Any]:
    """Everything, with progress on stderr; returns what was made.

    Raises:
        RaylensError: As the commands it stands for, and where the folder of results holds other ones.
    """
    from raylens.store.selection import readables
    from raylens.store.workspace import Workspace
    from raylens_app.cli.cache import run as run_cache
    from raylens_jobs.cluster import cluster

    job = plan(parsed, workspace_url)
    workspace = Workspace.open(workspace_url, create=True)
    config = parsed.config
    cores = None if config.address else min(config.pipeline_num_proc, _cores())
    with cluster(config.address, num_cpus=cores):
        job.tree.begin(job.settings, config.overwrite)
        if "cache" in config.overwrite:
            _forget_cache(workspace, job.plan)
        figures = run_cache(workspace, job.cache)
        held = {one.sae: one for one in readables(workspace, figures["cache_id"])}
        chat, found = job.chat, []
        for word, sae in job.saes:
            done, chat = _one_sae(job, workspace, held[sae], word, chat)
            found.append(done)
    return {
        "name": job.name,
        "results": job.tree.url,
        "cache_id": figures["cache_id"],
        "tokens": figures["tokens_total"],
        "saes": found,
    }


def _one_sae(
    job: Job, workspace: Workspace, one: Readable, word: str, chat: ChatSettings | None
) -> tuple[dict[str, Any], ChatSettings | None]:
    """Explain, score and export one SAE; returns what was found, and what is left to be spent."""
    from raylens.store.findings import passes
    from raylens.store.reader import CacheReader
    from raylens_app.cli.autointerp.chat import what_is_left
    from raylens_app.cli.passes import run_explain, run_score
    from raylens_app.cli.score_card import score_card

    overwrite, cache = job.parsed.config.overwrite, workspace.cache(one.cache_id)
    wanted = _wanted(job.explain, one.d_sae)
    asked_for = frozenset(wanted)
    reader = CacheReader(workspace, one.cache_id)
    latents = job.tree.write_latents(workspace.files, reader, one.sae, word, wanted, job.parsed.config.n_splits)
    job.tree.note(word, {"sae": str(one.sae), "cache_id": one.cache_id, **latents})
    if "neighbours" in overwrite:
        _forget_index(job, workspace, reader)
    if {"neighbours", "explanations"} & set(overwrite):
        _forget_explanations(job, workspace, one)
    explained = run_explain(workspace, one, job.explain, None if job.explain.explainer == "lexical" else chat)
    chat = what_is_left(chat, explained.get("usage", {}))
    pass_ = next(each for each in passes(cache, one.sae, "explanations") if each.pass_id == explained["pass_id"])
    settled = (row["status"] for row in pass_.each(["feature", "status"]) if row["feature"] in asked_for)
    statuses = dict(sorted(Counter(settled).items()))
    rows = (row for row in pass_.each() if row["feature"] in asked_for)
    files = job.tree.write_explanations(word, one.sae, one.cache_id, rows)
    job.tree.note(word, {"explanations": explained["pass_id"], "statuses": statuses})
    unanswered = explained.get("unanswered", 0)
    done: dict[str, Any] = {
        "hookpoint": word,
        "sae": str(one.sae),
        "latents": len(wanted),
        "statuses": statuses | ({"unanswered": unanswered} if unanswered else {}),
        "explanations": files,
        "usage": explained.get("usage", {}),
    }
    if not statuses.get("ok"):
        if unanswered:
            raise RunError(
                f"{unanswered:,} latents of {one.sae} went unexplained: {_who(chat)} did not answer.",
                hint="see whether it runs, then run the same command again.",
            )
        if failed := statuses.get("failed"):
            raise RunError(
                f"{failed:,} latents of {one.sae} went unexplained: no answer of {_who(chat)} could be read.",
                hint="see whether the model is large enough; --overwrite explanations asks it again.",
            )
        note(f"{one.sae}: no latent could be explained, so there is nothing to score.")
        return {**done, "scores": 0, "card": {}}, chat
    if {"neighbours", "explanations", "scores"} & set(overwrite):
        _forget_scores(job, workspace, one, explained["pass_id"])
    score = job.score.model_copy(update={"features": tuple(wanted) if len(wanted) < one.d_sae else None})
    scored = run_score(workspace, pass_, score, chat)
    chat = what_is_left(chat, scored.get("usage", {}))
    scores = next(each for each in passes(cache, one.sae, "scores") if each.pass_id == scored["pass_id"])
    found = (row for row in scores.each() if row["feature"] in asked_for)
    files = job.tree.write_scores(word, one.sae, one.cache_id, found)
    job.tree.note(word, {"scores": scored["pass_id"]})
    usage = Counter(done["usage"])
    usage.update(scored.get("usage", {}))
    done |= {"usage": dict(usage), "lost": scored.get("lost", {})}
    return {**done, "scores": files, "card": score_card(workspace, one, scored["pass_id"])}, chat


def _who(chat: ChatSettings | None) -> str:
    return "nobody" if chat is None else str(getattr(chat, "base_url", chat.model))


def _wanted(config: ExplainConfig, d_sae: int) -> list[int]:
    named = config.features if config.features is not None else range(d_sae)
    return sorted(list(named)[: config.max_latents])


def _forget_cache(workspace: Workspace, planned: CachePlan) -> None:
    """Remove what is stored of these SAEs in this cache, findings included, so that it is made anew."""
    from raylens.store.housekeeping import remove_sae

    cache = workspace.cache(planned.cache_id)
    if not cache.exists():
        return
    manifest = cache.manifest()
    known = {*cache.saes(), *(manifest.saes if manifest else ())}
    for _, spec in planned.saes:
        if spec.id in known:
            remove_sae(workspace, planned.cache_id, spec.id)


def _forget_index(job: Job, workspace: Workspace, reader: CacheReader) -> None:
    """Remove the embeddings and the index that near excerpts would be drawn from."""
    from raylens_jobs.piece_tasks import Corpus, Embedding

    if job.explain.non_activating_source != "faiss":
        return
    embedding, prefix = Embedding.of(job.explain.embedding_model), len(reader.info["prefix_ids"])
    corpus = Corpus(workspace.url, reader.cache_id, embedding, job.explain.example_ctx_len, prefix)
    workspace.files.delete(corpus.vectors().folder, recursive=True)


def _forget_explanations(job: Job, workspace: Workspace, one: Readable) -> None:
    """Remove the passes that explained this SAE as this run would, whatever the cache held then."""
    from raylens_jobs.passes import chat_identity, example_settings

    same: dict[str, Any] = {
        "explainer": job.settings["explainer"],
        "examples": example_settings(job.explain).model_dump(mode="json"),
    }
    if job.chat is not None and job.explain.explainer != "lexical":
        same |= chat_identity(job.chat)
    _forget(workspace, one, "explanations", same)


def _forget_scores(job: Job, workspace: Workspace, one: Readable, explanations: str) -> None:
    _forget(workspace, one, "scores", {"explanations": explanations, "scorers": list(job.score.scorers)})


def _forget(workspace: Workspace, one: Readable, kind: FindingKind, same: Mapping[str, Any]) -> None:
    from raylens.store.findings import passes

    for found in passes(workspace.cache(one.cache_id), one.sae, kind):
        if all(found.settings.get(name) == value for name, value in same.items()):
            found.discard()


def _cores() -> int:
    from raylens_jobs.cluster import available_cpus

    return available_cpus()
