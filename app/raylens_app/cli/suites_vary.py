"""``raylens suites vary``: a suite with more variants of its prompts, by rules or by a language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError
from raylens_app.cli import chat_options as chat
from raylens_app.cli.output import duration, note, print_json, print_text, printable, progress
from raylens_app.cli.passes import print_notes
from raylens_app.cli.state import state_of
from raylens_app.cli.suite_options import BaseDir, SuiteName

if TYPE_CHECKING:
    from raylens.llm.settings import ChatSettings
    from raylens.llm.spend import Usage
    from raylens.suites.suite import Suite

_BY_RULES: Final = "By rules"
_DEFAULT_BY_RULES: Final = 5
_DEFAULT_BY_MODEL: Final = 2
_NAMED: Final = 10


def vary(
    context: typer.Context,
    name: SuiteName,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the suite here and not to stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace that file if it is there.")] = False,
    per_prompt: Annotated[
        int | None, typer.Option(min=1, max=20, help="Variants for each prompt at most [5 by rules, 2 by a model].")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Leave out the variants that the suite has.")] = False,
    rules: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="RULE", help="Only this rule; again for more.", rich_help_panel=_BY_RULES),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Which of them [0].", rich_help_panel=_BY_RULES)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Ask a language model for paraphrases: its name at the endpoint, or a folder.",
            rich_help_panel=chat.PANEL,
        ),
    ] = None,
    provider: chat.Provider = None,
    base_url: chat.BaseUrl = None,
    prompt_dir: chat.PromptDir = None,
    quantization: chat.Quantization = None,
    max_concurrency: chat.Concurrency = None,
    requests_per_minute: chat.Rate = None,
    timeout: chat.Timeout = None,
    budget_usd: chat.BudgetUsd = None,
    prompt_price: chat.PromptPrice = None,
    answer_price: chat.AnswerPrice = None,
    max_calls: chat.MaxCalls = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, for an offline model.", rich_help_panel=chat.PANEL)
    ] = None,
    base_dir: BaseDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document about the file that is written.")] = False,
) -> None:
    """Write a suite with more variants of its prompts: by rules (layout, comments, names, order, letter case, quotes),
    or with --model paraphrases that a language model writes.

    An audit of that file asks nobody. Replies are kept in the workspace, so that a rerun pays for nothing twice.
    """
    from raylens.sources.suites import load_suite, suite_target

    asked = chat.chat_settings(
        model,
        "--model",
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
    _check(asked, rules, seed, prompt_dir, address, out, as_json)
    suite = load_suite(name, base_dir)
    target = suite_target(out, base_dir, overwrite=force) if out is not None else None
    before = suite.without_variants() if anew else suite
    if asked is not None:
        assert target is not None
        wanted = per_prompt or _DEFAULT_BY_MODEL
        _by_model(context, before, asked, wanted, prompt_dir, address, target, force=force, as_json=as_json)
        return
    _by_rules(before, rules, per_prompt or _DEFAULT_BY_RULES, seed or 0, target, force=force, as_json=as_json)


def _check(
    asked: ChatSettings | None,
    rules: list[str] | None,
    seed: int | None,
    prompt_dir: str | None,
    address: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: The first two that do not.
    """
    if asked is not None and (rules or seed is not None):
        raise InputError(
            f"{'--rule' if rules else '--seed'} is about variants by rules, and --model asks a language model for "
            "paraphrases.",
            hint="make the one, then the other of the file that is written.",
        )
    for flag, value in (("--prompt-dir", prompt_dir), ("--address", address)):
        if value is not None and asked is None:
            raise InputError(f"{flag} is about a language model, and none is named.", hint="add --model.")
    if address is not None and asked is not None and asked.provider != "offline":
        raise InputError("--address is for offline models, and --model is at an endpoint.", hint="leave it out.")
    if out is None and (asked is not None or as_json):
        flag = "--model" if asked is not None else "--json"
        raise InputError(f"{flag} needs a file to write the suite to.", hint="name it with --out FILE.yaml.")


def _by_rules(
    suite: Suite,
    rules: list[str] | None,
    per_prompt: int,
    seed: int,
    target: Path | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from raylens.sources.suites import write_suite
    from raylens.suites.variants import RULES, rules_named, with_variants

    varied = with_variants(suite, rules_named(rules or RULES), per_prompt, seed)
    figures = {"n_prompts": len(suite.prompts), "n_variants": varied.n_forms - suite.n_forms}
    if target is None:
        # Tabs are indentation here, and a terminal obeys them harmlessly.
        lines = varied.to_yaml().rstrip("\n").split("\n")
        typer.echo("\n".join("\t".join(map(printable, line.split("\t"))) for line in lines))
    else:
        written = write_suite(target, _named(varied, target).to_yaml(), overwrite=force)
        if as_json:
            print_json({**_about(written, target), **figures})
    note(f"{figures['n_variants']} variants of {figures['n_prompts']} prompts.")


def _by_model(
    context: typer.Context,
    suite: Suite,
    asked: ChatSettings,
    per_prompt: int,
    prompt_dir: str | None,
    address: str | None,
    target: Path,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Ask under a run record, with progress, and write the suite once all is answered."""
    from raylens.sources.suites import write_suite
    from raylens.store.runs import RunJournal
    from raylens.suites.paraphrases import paraphrase_prompts, paraphrased_yaml
    from raylens_jobs.paraphrase import run_paraphrase

    prompts = paraphrase_prompts(Path(prompt_dir) if prompt_dir is not None else None)
    workspace = state_of(context).open_workspace(create=True)
    settings = {
        "suite": suite.name,
        "digest": suite.digest,
        "per_prompt": per_prompt,
        "prompt_hash": prompts.prompt_hash,
        "out": str(target),
        "asked": asked.model_dump(mode="json", exclude_none=True),
    }
    with RunJournal.start(workspace.files, "vary", settings) as journal:
        note(f"run {journal.run_id}: asking {asked.model}")
        with progress("paraphrasing", len(suite.prompts), unit="prompts") as bar:

            def report(done: int, total: int, usage: Usage) -> None:
                bar(done, total, chat.spending(usage))

            varied, figures = run_paraphrase(suite, per_prompt, prompts, workspace, journal, report, asked, address)
        text = paraphrased_yaml(_named(varied, target), suite, asked.model, prompts)
        written = write_suite(target, text, overwrite=force)
        journal.finish(figures)
    figures |= {"model": asked.model, "prompt_hash": prompts.prompt_hash, "run_id": journal.run_id}
    if as_json:
        print_json({**_about(written, target), **figures})
        return
    _print(figures, target)


def _named(suite: Suite, target: Path) -> Suite:
    """The suite under its file's name, where that can be one: a report is not to name the suite it was made of."""
    from raylens.suites.suite_parsing import is_name

    return replace(suite, name=target.stem) if is_name(target.stem) else suite


def _about(suite: Suite, target: Path) -> dict[str, Any]:
    about = {"name": suite.name, "n_forms": suite.n_forms}
    return {"out": str(target), **about, "digest": suite.digest, "inputs_digest": suite.inputs_digest}


def _print(figures: Mapping[str, Any], target: Path) -> None:
    print_text(
        f"{figures['n_variants']:,} paraphrases of {figures['n_prompts']:,} prompts in "
        f"{duration(figures['seconds'])}: {target}"
    )
    counts = [f"{figures['short']:,} have fewer than were asked for"] if figures["short"] else []
    if figures["failed"]:
        counts.append(f"{figures['failed']:,} none, since no answer could be used")
    if figures["unanswered"]:
        counts.append(f"{figures['unanswered']:,} none, since none was answered, which a rerun asks about again")
    if counts:
        print_text(f"of the prompts {'; '.join(counts)}")
    without = figures["without"]
    if without:
        print_text(f"without one: {', '.join(without[:_NAMED])}{' …' if len(without) > _NAMED else ''}")
    print_notes({"usage": figures["usage"]})
    for reason, count in figures["reasons"].items():
        print_text(f"{count:,} × {reason}")
