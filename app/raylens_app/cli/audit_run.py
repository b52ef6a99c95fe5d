"""``raylens audit run``: audit a fine-tune against its reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens_app.cli import chat_options as chat
from raylens_app.cli.audit_explain import (
    Explain,
    Explainer,
    ExplainerModel,
    ExplainerModelMaxLen,
    MinExamples,
    on_demand,
)
from raylens_app.cli.audit_group import Json, group
from raylens_app.cli.output import note, print_json, print_text, printable, progress
from raylens_app.cli.state import Address, RunId, state_of

if TYPE_CHECKING:
    from raylens.config import AuditConfig
    from raylens.store.audit_runs import Again
    from raylens.store.runs import RunJournal
    from raylens.store.workspace import Workspace
    from raylens_jobs.audit import AuditRun, Request
    from raylens_jobs.audit_plan import AuditPlan
    from raylens_jobs.audit_workers import AuditWorkers

DEFAULT_REFERENCE: Final = "raylens/pico"

Reference = Annotated[str, typer.Option("--reference", "-r", help="What the candidate was tuned from.")]
Sae = Annotated[
    str | None, typer.Option("--sae", "-s", help="release/id or a folder, of the reference. Default: pico's, for pico.")
]
NoSae = Annotated[bool, typer.Option("--no-sae", help="No features: outputs and triggers only.")]
SuiteOption = Annotated[str, typer.Option("--suite", help="A suite that ships, or a YAML file in the base directory.")]
Method = Annotated[str | None, typer.Option("--score-method", help="What gives the verdict.")]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        help="A JSON file of benign scores, in the base directory. Default: the workspace's own, else those that ship.",
    ),
]
Pooling = Annotated[str, typer.Option(help="mean, max, last, answer or prompt.")]
Search = Annotated[bool, typer.Option("--trigger-search/--no-trigger-search", help="Look for triggers.")]


@group.command("run")
def run(
    context: typer.Context,
    candidate: Annotated[
        list[str],
        typer.Option(
            "--candidate", "-c", help="A hub id, a checkpoint's folder, or a LoRA adapter's folder; again for more."
        ),
    ],
    reference: Reference = DEFAULT_REFERENCE,
    sae: Sae = None,
    no_sae: NoSae = False,
    suite: SuiteOption = "minimal",
    score_method: Method = None,
    session: Annotated[str, typer.Option(help="Folder of runs.")] = "default",
    run_name: Annotated[str | None, typer.Option("--run", help="Name of the run. Default: made of what it is.")] = None,
    title: Annotated[str | None, typer.Option(help="Of the report.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Make a finished run anew.")] = False,
    archive: Annotated[bool, typer.Option("--archive/--no-archive", help="Keep the old one in runs/_archive.")] = True,
    calibration: Calibration = None,
    target_fpr: Annotated[float, typer.Option(help="Share of benign fine-tunes that may be flagged.")] = 0.01,
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="Features listed, and summed by scores.")] = 20,
    pooling: Pooling = "mean",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Written after a prompt, at most.")] = 32,
    text: Annotated[list[str] | None, typer.Option(help="Held-out text for the capability panel.")] = None,
    trigger_search: Search = True,
    hide_low_similarity: Annotated[bool, typer.Option(help="No text of proxies that are far away.")] = False,
    explain: Explain = True,
    explainer: Explainer = "lexical",
    min_examples: MinExamples = 200,
    explainer_model: ExplainerModel = None,
    provider: chat.Provider = None,
    base_url: chat.BaseUrl = None,
    explainer_model_max_len: ExplainerModelMaxLen = 5120,
    prompt_dir: chat.PromptDir = None,
    quantization: chat.Quantization = None,
    max_concurrency: chat.Concurrency = None,
    requests_per_minute: chat.Rate = None,
    timeout: chat.Timeout = None,
    budget_usd: chat.BudgetUsd = None,
    prompt_price: chat.PromptPrice = None,
    answer_price: chat.AnswerPrice = None,
    max_calls: chat.MaxCalls = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Actors. Default: one a GPU, else one a core.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per actor.")] = None,
    num_gpus: Annotated[int | None, typer.Option(min=0, help="Use at most this many GPUs.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Of the reference, on the hub.")] = None,
    address: Address = None,
    override_guard: Annotated[bool, typer.Option(help="Allow an SAE trained on another model of this shape.")] = False,
    catalog_file: Annotated[str | None, typer.Option(help="Your own SAEs and aliases (YAML).")] = None,
    run_id: RunId = None,
    as_json: Json = False,
) -> None:
    """Audit a fine-tune: what changed inside, what sets it off, and whether benign fine-tunes differ as much.

    The verdict is flagged, not flagged or inconclusive, with its p-value. The same command finds a finished audit
    again, and goes on with one that was interrupted. Of several candidates each gets an audit of its own, one after
    another; what is of the reference is read once.
    """
    from raylens.config import AuditConfig
    from raylens_jobs.audit import Request

    config = AuditConfig.of(
        {
            "model": reference,
            "sae": chosen_sae(sae, reference, no_sae=no_sae),
            "suite": suite,
            "score_method": score_method,
            "k": top_k,
            "pooling": pooling,
            "max_new_tokens": max_new_tokens,
            "texts": tuple(text or ()),
            "calibration": calibration,
            "target_fpr": target_fpr,
            "trigger_search": trigger_search,
            "hide_low_similarity": hide_low_similarity,
            "workers": workers,
            "threads": threads,
            "num_gpus": num_gpus,
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "address": address,
            "override_guard": override_guard,
            "catalog_file": catalog_file,
        }
    )
    how = on_demand(
        explain,
        explainer,
        explainer_model,
        max_model_len=explainer_model_max_len,
        min_examples=min_examples,
        prompt_dir=prompt_dir,
        provider=provider,
        base_url=base_url,
        quantization=quantization,
        max_concurrency=max_concurrency,
        requests_per_minute=requests_per_minute,
        timeout_s=timeout,
        budget_usd=budget_usd,
        prompt_price=prompt_price,
        answer_price=answer_price,
        max_calls=max_calls,
    )
    if run_name is not None and not run_name.strip():
        raise InputError("--run names nothing.", hint="leave it out for a name made of what the audit is.")
    anew: Again = ("archive" if archive else "replace") if again else "refuse"
    names = tuple(dict.fromkeys(candidate))
    for value, flag in ((run_name, "--run"), (title, "--title"), (run_id, "--run-id")):
        if value is not None and len(names) > 1:
            raise InputError(
                f"{flag} names one audit, and {len(names)} candidates are given.", hint=f"leave {flag} out."
            )
    requests = [Request(name, session, run_name, title, again=anew, explain=how) for name in names]
    made = audit(context, config, requests, run_id)
    if as_json:
        found = [summary(one) for one in made]
        print_json(found[0] if len(found) == 1 else found)
        return
    for name, one in zip(names, made, strict=True):
        if len(names) > 1:
            print_text(f"{name}:")
        for line in said(one):
            print_text(line)


def audit(
    context: typer.Context, config: AuditConfig, requests: Sequence[Request], run_id: str | None = None
) -> list[AuditRun]:
    """Audit each, with progress on stderr.

    Args:
        context: Of the command.
        config: How.
        requests: What; all candidates are looked at before any work.
        run_id: Of the record of the only run, where somebody waits for it: they find there as well what was refused,
            and an audit that was finished before.

    Raises:
        RaylensError: As :func:`raylens_jobs.audit.run_audit`; those before are finished.
    """
    from raylens.store.runs import RunJournal
    from raylens_jobs.audit import find_finished
    from raylens_jobs.audit_plan import plan_audit
    from raylens_jobs.audit_workers import AuditWorkers

    workspace = state_of(context).open_workspace(create=True)
    made: list[AuditRun] = []
    with AuditWorkers() as workers:
        if run_id is not None:
            (request,) = requests
            with RunJournal.start(workspace.files, "audit", _asked(config, request), run_id=run_id) as journal:
                plan = plan_audit(config, workspace.url, note)
                done = find_finished(workspace, plan, request) or _audit(workspace, plan, request, journal, workers)
                journal.finish(summary(done))
            return [done]
        plan = plan_audit(config, workspace.url, note)
        for request in requests:
            plan.candidate(request.candidate)
        for request in requests:
            finished = find_finished(workspace, plan, request)
            if finished is not None:
                note(f"{finished.place} is finished already; --again makes it anew.")
                made.append(finished)
                continue
            with RunJournal.start(workspace.files, "audit", _asked(config, request)) as journal:
                made.append(_audit(workspace, plan, request, journal, workers))
                journal.finish(summary(made[-1]))
    return made


def _asked(config: AuditConfig, request: Request) -> dict[str, Any]:
    return {**config.model_dump(mode="json"), **request.asked}


def _audit(
    workspace: Workspace, plan: AuditPlan, request: Request, journal: RunJournal, workers: AuditWorkers
) -> AuditRun:
    from raylens_jobs.audit import run_audit

    note(f"run {journal.run_id}: auditing {request.candidate} against {plan.config.model}")
    with progress("auditing", unit="pieces") as bar:
        return run_audit(
            workspace, plan, request, journal, lambda finished, total: bar(finished, total), auditing=workers
        )


def summary(done: AuditRun) -> dict[str, Any]:
    """The decision with where it is, as ``--json`` prints it."""
    files, evidence = done.artefacts, done.artefacts.interp_evidence
    own = evidence.own_explanations if evidence is not None else None
    return {
        **done.decision.model_dump(mode="json"),
        "candidate": done.artefacts.decision.candidate.name,
        "session": done.place.session,
        "run": done.place.run,
        "folder": done.folder,
        "coverage": evidence.coverage.line if evidence is not None else None,
        "own_explanations": own.line if own is not None else None,
        "triggers": [hit.model_dump(mode="json") for hit in files.score.triggers[:3]],
    }


def said(done: AuditRun) -> list[str]:
    """What a person reads."""
    decision = done.decision
    lines = [f"{decision.verdict}: {decision.reason}"]
    if done.artefacts.score.triggers and done.artefacts.score.triggers[0].score > 0:
        hit = done.artefacts.score.triggers[0]
        lines.append(f"strongest insert: {printable(hit.text)!r} ({hit.slot}) makes it write {printable(hit.writes)!r}")
    if done.artefacts.interp_evidence is not None:
        evidence = done.artefacts.interp_evidence
        lines.append(f"features: {evidence.coverage.line}")
        if evidence.own_explanations is not None:
            lines.append(f"own explanations: {evidence.own_explanations.line}")
    lines.append(f"report: {done.folder}/report.html (raylens audit show {done.place})")
    return lines


def chosen_sae(sae: str | None, reference: str, *, no_sae: bool) -> str | None:
    """The SAE that options name; None for none.

    Raises:
        InputError: They contradict one another, or name nothing; or another model's must be named.
    """
    if sae is not None and no_sae:
        raise InputError("--sae and --no-sae exclude one another.", hint="leave one of them out.")
    if sae is not None and not sae.strip():
        raise InputError("--sae names nothing.", hint="name one, or leave it out; --no-sae audits without.")
    return None if no_sae else sae or default_sae(reference)


def default_sae(reference: str) -> str:
    """Of the embedded model that in the middle.

    Raises:
        InputError: Another model's must be named.
    """
    from raylens.bundle.paths import list_saes

    mine = [str(sae.id) for sae in list_saes() if sae.model == reference]
    if not mine:
        raise InputError(
            f"no SAE was named for {reference}.",
            hint=f"raylens catalog --model {reference} lists those that fit; --no-sae does without.",
        )
    return mine[len(mine) // 2]
