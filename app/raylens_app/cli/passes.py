"""Running a pass from the command line: under a run record, with progress, and what it cost at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from raylens.errors import InputError
from raylens_app.cli import chat_options as chat
from raylens_app.cli.output import Progress, duration, note, print_text, progress

_NAMED = 10

if TYPE_CHECKING:
    from raylens.config import ExplainConfig, ScoreConfig
    from raylens.llm.settings import ChatSettings
    from raylens.store.findings import Findings
    from raylens.store.selection import Readable
    from raylens.store.workspace import Workspace
    from raylens_jobs.passes import Progress as PassProgress


def run_explain(
    workspace: Workspace,
    one: Readable,
    config: ExplainConfig,
    asked: ChatSettings | None = None,
    run_id: str | None = None,
) -> dict[str, Any]:
    """Explain under a run record, with progress; returns the run's figures.

    A run that asked a model and came out with nothing has failed by its record, and what follows is up to the caller.
    """
    from raylens.store.runs import RunJournal
    from raylens_jobs.explain import run_explain as run
    from raylens_jobs.explain_outcome import nothing_explained, without_explanation

    settings = {**config.model_dump(mode="json"), "sae": str(one.sae), **_asked(asked)}
    with RunJournal.start(workspace.files, "explain", settings, run_id=run_id, cache_id=one.cache_id) as journal:
        note(f"run {journal.run_id}: starting Ray")
        with progress("explaining", None, unit="features") as bar:
            figures = run(config, workspace, one.cache_id, one.sae, journal, _reporting(bar), asked)
        journal.figures(**figures)
        if in_vain := without_explanation(figures):
            journal.progress(without_explanation=in_vain)
        if nothing := nothing_explained(figures):
            journal.fail(nothing)
    return figures


def run_score(
    workspace: Workspace,
    explanations: Findings,
    config: ScoreConfig,
    asked: ChatSettings | None = None,
    run_id: str | None = None,
) -> dict[str, Any]:
    """Score under a run record, with progress; returns the run's figures."""
    from raylens.store.runs import RunJournal
    from raylens_jobs.score import run_score as run

    settings = {**config.model_dump(mode="json"), "sae": str(explanations.sae), "explanations": explanations.pass_id}
    settings |= _asked(asked)
    cache_id = explanations.cache.cache_id
    with RunJournal.start(workspace.files, "score", settings, run_id=run_id, cache_id=cache_id) as journal:
        note(f"run {journal.run_id}: starting Ray")
        with progress("scoring", None, unit="features") as bar:
            figures = run(config, workspace, explanations, journal, _reporting(bar), asked)
        journal.finish(figures)
    return figures


def _asked(asked: ChatSettings | None) -> dict[str, Any]:
    return {} if asked is None else {"asked": asked.model_dump(mode="json", exclude_none=True)}


def _reporting(bar: Progress) -> Callable[[PassProgress], None]:
    def report(p: PassProgress) -> None:
        said = [p.note, _pace(p), chat.spending(p.usage)]
        bar(p.features, p.features_wanted or None, " · ".join(one for one in said if one))

    return report


def _pace(p: PassProgress) -> str:
    """Features a second, and how long the rest takes at that pace."""
    if not p.features or p.seconds <= 0:
        return ""
    rate = p.features / p.seconds
    left = (p.features_wanted - p.features) / rate
    return f"{rate:,.1f} features/s" + (f", {duration(left)} left" if left >= 1 else "")


def print_notes(figures: Mapping[str, Any]) -> None:
    """Makeshifts there were; what a language model was asked, what that cost, and why items went unanswered."""
    if figures.get("random_negatives"):
        print_text(f"{figures['random_negatives']:,} silent excerpts are random: there were too few nearer ones")
    if unexplained := figures.get("unexplained"):
        named = ", ".join(map(str, unexplained[:_NAMED])) + (" …" if len(unexplained) > _NAMED else "")
        print_text(f"{len(unexplained):,} of the features asked for have no explanation in this pass: {named}")
    usage = figures.get("usage")
    if usage is None:
        return
    text = f"asked {usage['calls']:,} times ({usage['retries']:,} retries)"
    if usage["cached"]:
        text += f", {usage['cached']:,} answers from the cache"
    text += f", {usage['prompt_tokens']:,} + {usage['completion_tokens']:,} tokens"
    if usage["usd"] or usage["lost_usd"]:
        text += f", ${usage['usd'] + usage['lost_usd']:,.4f}"
    print_text(text)
    for reason, count in figures.get("lost", {}).items():
        print_text(f"without an answer: {count:,}, {reason}")


def one_sae(workspace: Workspace, cache: str | None, sae: str | None) -> Readable:
    from raylens.store.selection import of_sae, readables

    found = readables(workspace, cache)
    if sae is not None:
        found = of_sae(found, sae)
    newest = [one for one in found if one.cache_id == found[-1].cache_id]
    if len(newest) > 1:
        raise InputError(
            f"cache {newest[0].cache_id} holds {len(newest)} SAEs.",
            hint=f"add --sae with one of {', '.join(str(one.sae) for one in newest)}.",
        )
    return newest[0]
