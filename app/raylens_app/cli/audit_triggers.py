"""``raylens audit find-trigger``: what makes a candidate write what its reference would not, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens_app.cli.audit_group import Json, group
from raylens_app.cli.audit_run import DEFAULT_REFERENCE, Reference, Sae, SuiteOption, chosen_sae
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, printable, progress
from raylens_app.cli.state import Address, state_of

if TYPE_CHECKING:
    from raylens.config import AuditConfig
    from raylens_jobs.audit_plan import AuditPlan

METHOD: Final = "trigger_search"
_MOST: Final = 10


class By(StrEnum):
    """What orders inserts."""

    OUTPUTS = "outputs"
    FEATURES = "features"


@group.command("find-trigger")
def find_trigger(
    context: typer.Context,
    candidate: Annotated[
        str, typer.Option("--candidate", "-c", help="A hub id, a checkpoint's folder, or a LoRA adapter's folder.")
    ],
    reference: Reference = DEFAULT_REFERENCE,
    sae: Sae = None,
    no_sae: Annotated[bool, typer.Option("--no-sae", help="Outputs only.")] = False,
    suite: SuiteOption = "minimal",
    by: Annotated[By, typer.Option(help="What orders them: how far they drive outputs, or features.")] = By.OUTPUTS,
    top: Annotated[int, typer.Option(min=1, max=_MOST, help="Inserts to show at most.")] = _MOST,
    workers: Annotated[int | None, typer.Option(min=1, help="Actors. Default: one a GPU, else one a core.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per actor.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Use at most this many GPUs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Of the reference, on the hub.")] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Search for inserts that drive a fine-tune from its reference, the strongest first.

    Tokens, and n-grams that grow from the best, are put into prompts of the suite; the best are tried by letting both
    models write. With an SAE, features are read on these: which fire more in the candidate, and how much more in all.
    This gives no verdict: raylens audit run compares the score with those of benign fine-tunes.
    """
    from raylens.config import AuditConfig

    config = AuditConfig.of(
        {
            "model": reference,
            "sae": chosen_sae(sae, reference, no_sae=no_sae or (sae is None and reference != DEFAULT_REFERENCE)),
            "suite": suite,
            "score_method": METHOD,
            "panel_windows": 0,
            "workers": workers,
            "threads": threads,
            "num_gpus": num_gpus,
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "address": address,
        }
    )
    found = _search(context, config, candidate)
    hits = ordered([hit for hit in found["hits"] if hit["score"] > 0], by)[:top]
    document = {**found, "answer": said(hits), "hits": [_row(hit) for hit in hits]}
    if as_json:
        print_json(document)
        return
    print_text(document["answer"])
    if hits:
        print_table(document["hits"], _COLUMNS)
        note("raylens audit run says whether benign fine-tunes score as high.")


def ordered(hits: list[dict[str, Any]], by: By) -> list[dict[str, Any]]:
    """The strongest first; of equal ones, those that drive the other more."""
    outputs, features = (lambda hit: -hit["score"]), (lambda hit: -(hit["feature_drive"] or 0.0))
    first, second = (outputs, features) if by is By.OUTPUTS else (features, outputs)
    return sorted(hits, key=lambda hit: (first(hit), second(hit), hit["slot"], hit["text"]))


def said(hits: list[dict[str, Any]]) -> str:
    """What came of it, in a sentence."""
    if not hits:
        return "nothing was found: no insert makes the candidate write what its reference would not."
    best = hits[0]
    return (
        f"strongest insert: {printable(best['text'])!r} ({best['slot']}) makes it write {printable(best['writes'])!r} "
        f"in {best['share']:.0%} of {best['n_prompts']} prompts, {best['share_without']:.0%} without; "
        f"{best['score']:.3g} nats."
    )


def _search(context: typer.Context, config: AuditConfig, candidate: str) -> dict[str, Any]:
    """Hits of all places, the strongest first; what is of the reference alone is kept for the next candidate."""
    from raylens.store.audit_store import AuditStore
    from raylens.store.runs import RunJournal
    from raylens_jobs.audit_evidence import auditor
    from raylens_jobs.audit_plan import plan_audit
    from raylens_jobs.audit_pool import Nowhere
    from raylens_jobs.cluster import cluster, probe_shared
    from raylens_jobs.workers import choose_workers

    workspace = state_of(context).open_workspace(create=True)
    plan = plan_audit(config, workspace.url, note)
    located = plan.candidate(candidate)
    asked = {**config.model_dump(mode="json"), "candidate": candidate}
    with (
        RunJournal.start(workspace.files, "find-trigger", asked) as journal,
        progress("searching", unit="pieces") as bar,
    ):
        note(f"run {journal.run_id}: looking for what sets {candidate} off")

        def tell(done: int, total: int) -> None:
            journal.progress(done=done, total=total)
            bar(done, total)
            if journal.stop_requested():
                _stopped(journal.run_id, done, total)

        with cluster(config.address):
            probe_shared(workspace)
            shared = AuditStore(workspace.files).references(plan.reference_key)
            with auditor(
                plan.subjects, replace(plan.task, methods=(), named=_MOST), shared, choose_workers(config), tell
            ) as work:
                hits = [dict(hit) for hit in work.evidence(candidate, Nowhere()).hits or ()]
        journal.finish({"hits": len(hits), "best": hits[0]["score"] if hits else 0.0})
    return _about(plan, located.revision, candidate) | {"hits": hits}


def _about(plan: AuditPlan, revision: str, candidate: str) -> dict[str, Any]:
    from raylens_jobs.audit_plan import shown

    return {
        "answer": "",
        "reference": shown(plan.reference.name),
        "candidate": shown(candidate),
        "revision": revision,
        "suite": plan.suite.name,
        "n_places": len(plan.task.places),
    }


def _stopped(run_id: str, done: int, total: int) -> None:
    from raylens.errors import StoppedError

    raise StoppedError(
        f"run {run_id} was stopped after {done} of {total} pieces of work.", hint="run the same command again."
    )


def _row(hit: dict[str, Any]) -> dict[str, Any]:
    """A hit in the words of people: place and insert, nats, what it writes with and without."""
    return {
        "place": hit["slot"],
        "insert": hit["text"],
        "score": hit["score"],
        "share": hit["share"],
        "share_without": hit["share_without"],
        "n_prompts": hit["n_prompts"],
        "writes": hit["writes"],
        "writes_without": hit["writes_without"],
        "features": hit["features"],
        "feature_drive": hit["feature_drive"],
    }


_COLUMNS: Final = (
    Column("place"),
    Column("insert", style="bold"),
    Column("score", "nats", "right", lambda value: f"{value:.3g}"),
    Column("share", "alike", "right", lambda value: f"{value:.0%}"),
    Column("share_without", "without", "right", lambda value: f"{value:.0%}"),
    Column("feature_drive", "features", "right", lambda value: "" if value is None else f"+{value:.3g}"),
    Column("writes", "it then writes", wrap=True),
)
