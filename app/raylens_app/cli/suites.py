"""``raylens suites``: the prompts of fine-tune audits, those that ship and the user's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import UnknownNameError
from raylens_app.cli.output import Column, note, print_json, print_table, print_text
from raylens_app.cli.suite_options import AsJson, BaseDir, SuiteName
from raylens_app.cli.suites_vary import vary

if TYPE_CHECKING:
    from raylens.suites.suite import Prompt, Suite

_SHOWN: Final = 40

group = typer.Typer(no_args_is_help=True, help="Prompts that audits give to reference and candidate.")


def register(app: typer.Typer) -> None:
    """Add the ``suites`` group."""
    app.add_typer(group, name="suites", rich_help_panel="Audit")


@group.command("list")
def list_suites(as_json: AsJson = False) -> None:
    """List the suites that ship."""
    from raylens.suites.shipped import shipped_names, shipped_suite

    rows = [_row(shipped_suite(name)) for name in shipped_names()]
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        [
            Column("name", "suite", style="bold"),
            Column("n_prompts", "prompts", align="right"),
            Column("n_forms", "wordings", align="right"),
            Column("description", wrap=True),
        ],
    )
    note("raylens suites show SUITE lists its prompts; a file of your own is checked by raylens suites check FILE.")


@group.command()
def show(
    name: SuiteName,
    prompt: Annotated[str | None, typer.Option(metavar="ID", help="Show one prompt whole.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every prompt, not the first few.")] = False,
    as_json: AsJson = False,
    base_dir: BaseDir = None,
) -> None:
    """Show a suite's prompts."""
    from raylens.sources.suites import load_suite

    suite = load_suite(name, base_dir)
    if prompt is not None:
        found = next((one for one in suite.prompts if one.id == prompt), None)
        if found is None:
            raise UnknownNameError.among("prompt", prompt, (one.id for one in suite.prompts))
        print_json(found.to_value()) if as_json else _show_prompt(found)
        return
    if as_json:
        print_json({**suite.to_value(), **_row(suite)})
        return
    shown = suite.prompts if every else suite.prompts[:_SHOWN]
    rows = [
        {
            "id": one.id,
            "tags": ", ".join(one.tags),
            "forms": len(one.forms),
            "checks": ", ".join(check.name for check in one.checks),
            "says": _gist(one),
        }
        for one in shown
    ]
    columns = [Column("id", style="bold"), Column("tags"), Column("forms", "wordings", align="right")]
    print_table(rows, [*columns, Column("checks"), Column("says", wrap=True)])
    if len(shown) < len(suite.prompts):
        note(f"{len(suite.prompts) - len(shown)} more: --all.")


@group.command()
def check(
    files: Annotated[list[str], typer.Argument(metavar="SUITE...", help="Suites to read; the first error ends it.")],
    as_json: AsJson = False,
    base_dir: BaseDir = None,
) -> None:
    """Read suites strictly and say what they hold; exit code 2 where one of them is wrong."""
    from raylens.sources.suites import load_suite

    rows = [_row(load_suite(file, base_dir)) for file in files]
    if as_json:
        print_json(rows)
        return
    for file, row in zip(files, rows, strict=True):
        checks = ", ".join(f"{name} {n}" for name, n in row["checks"].items()) or "none"
        print_text(f"{file}: {row['n_prompts']} prompts, {row['n_forms']} wordings; checks: {checks}")


group.command()(vary)


def _row(suite: Suite) -> dict[str, Any]:
    checks = Counter(check.name for prompt in suite.prompts for check in prompt.checks)
    tags = Counter(tag for prompt in suite.prompts for tag in prompt.tags)
    return {
        "name": suite.name,
        "description": suite.description,
        "n_prompts": len(suite.prompts),
        "n_forms": suite.n_forms,
        "checks": dict(checks),
        "tags": dict(tags),
        "digest": suite.digest,
        "inputs_digest": suite.inputs_digest,
    }


def _gist(prompt: Prompt) -> str:
    text = prompt.text if prompt.text is not None else "\n".join(turn.content for turn in prompt.chat or ())
    return text if len(text) <= 200 else text[:199] + "…"


def _show_prompt(prompt: Prompt) -> None:
    for form in prompt.forms:
        print_text(f"── {prompt.id} · {form.kind}")
        turns = [("", form.text)] if form.text is not None else [(one.role, one.content) for one in form.chat or ()]
        for role, content in turns:
            if role:
                print_text(f"{role}:")
            for line in content.split("\n"):
                print_text(line.replace("\t", "    "))
    for check in prompt.checks:
        print_text(f"check: {check.to_value()}")
