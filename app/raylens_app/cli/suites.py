"""``raylens suites``: the prompts of fine-tune audits, those that ship and the user's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raylens.errors import InputError, UnknownNameError
from raylens_app.cli.output import Column, note, print_json, print_table, print_text, printable

if TYPE_CHECKING:
    from raylens.suites.suite import Prompt, Suite

_SHOWN: Final = 40
_NAME: Final = typer.Argument(metavar="SUITE", help="A suite that ships, or a YAML file inside the base directory.")
_BASE: Final = typer.Option(
    "--base-dir",
    metavar="FOLDER",
    envvar="RAYLENS_BASE_DIR",
    help="Suite files have to lie inside of it. Default: the current folder.",
)
_JSON: Final = typer.Option("--json", help="One JSON document.")

group = typer.Typer(no_args_is_help=True, help="Prompts that audits give to reference and candidate.")


def register(app: typer.Typer) -> None:
    """Add the ``suites`` group."""
    app.add_typer(group, name="suites", rich_help_panel="Audit")


@group.command("list")
def list_suites(as_json: Annotated[bool, _JSON] = False) -> None:
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
    name: Annotated[str, _NAME],
    prompt: Annotated[str | None, typer.Option(metavar="ID", help="Show one prompt whole.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every prompt, not the first few.")] = False,
    as_json: Annotated[bool, _JSON] = False,
    base_dir: Annotated[Path | None, _BASE] = None,
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
    as_json: Annotated[bool, _JSON] = False,
    base_dir: Annotated[Path | None, _BASE] = None,
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


@group.command()
def vary(
    name: Annotated[str, _NAME],
    rules: Annotated[
        list[str] | None, typer.Option("--rule", metavar="RULE", help="Only this rule; again for more.")
    ] = None,
    per_prompt: Annotated[int, typer.Option(min=1, max=20, help="Variants for each prompt at most.")] = 5,
    seed: Annotated[int, typer.Option(help="Which of them.")] = 0,
    anew: Annotated[bool, typer.Option("--anew", help="Leave out the variants that the suite has.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the suite here and not to stdout.")
    ] = None,
    base_dir: Annotated[Path | None, _BASE] = None,
) -> None:
    """Write a suite with variants of its prompts made by rules: layout, comments, names, order, letter case, quotes."""
    from raylens.sources.suites import load_suite
    from raylens.store.base_dir import inside_base
    from raylens.suites.variants import RULES, rules_named, with_variants

    suite = load_suite(name, base_dir)
    if anew:
        suite = suite.without_variants()
    varied = with_variants(suite, rules_named(rules or RULES), per_prompt, seed)
    if out is None:
        # Tabs are indentation here, and a terminal obeys them harmlessly.
        lines = varied.to_yaml().rstrip("\n").split("\n")
        typer.echo("\n".join("\t".join(map(printable, line.split("\t"))) for line in lines))
    else:
        _write(inside_base(out, "suite", base_dir), varied.to_yaml())
    note(f"{varied.n_forms - suite.n_forms} variants of {len(suite.prompts)} prompts.")


def _write(out: Path, text: str) -> None:
    try:
        with out.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise InputError(f"{out} exists already.", hint="name another file; nothing was written.") from None
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise InputError(f"cannot write {out}: {reason}.", hint="name a file in a folder you can write to.") from None


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
