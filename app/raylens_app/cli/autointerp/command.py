"""``raylens autointerp``, also written ``python -m raylens MODEL SAE …``: the command itself."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any, Final

import typer

from raylens_app.cli.output import print_json, print_text
from raylens_app.cli.state import state_of

COMMAND: Final = "autointerp"
_GLOBAL: Final = ("--workspace",)


def register(app: typer.Typer) -> None:
    """Add the command of this file; its flags, ``--help`` among them, are read by a parser of its own."""
    raw = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    app.command(COMMAND, rich_help_panel="Make", context_settings=raw)(autointerp)


def in_full(words: Sequence[str], commands: Collection[str]) -> list[str]:
    """``MODEL SAE …`` with the command in front that it is short for; any other command line as it is.

    It is the short form if, after global options, the first word is one of the flags that users know from
    elsewhere, or no command and a model: something with a slash, a folder, or a name that the catalogue knows.
    """
    place = 0
    while place < len(words):
        if words[place] in _GLOBAL:
            place += 2
        elif words[place] == "--verbose" or words[place].startswith(tuple(f"{name}=" for name in _GLOBAL)):
            place += 1
        else:
            break
    if place >= len(words) or words[place] in commands or not _begins_short_form(words[place]):
        return list(words)
    return [*words[:place], COMMAND, *words[place:]]


def _begins_short_form(word: str) -> bool:
    if word.startswith("-"):
        from raylens_app.cli.autointerp.flags import ADDED
        from raylens_app.cli.autointerp.parser import flags

        name = "--" + word[2:].partition("=")[0].replace("-", "_")
        return any(name in flag.options and flag.about.group != ADDED for flag in flags())
    if "/" in word or Path(word).is_dir():
        return True
    from raylens.catalog.aliases import Aliases

    return Aliases().knows(word)


def autointerp(context: typer.Context) -> None:
    """Cache, explain and score a model's SAEs in one go, and write results/NAME: raylens autointerp MODEL SAE.

    python -m raylens MODEL SAE is short for it; --help lists its flags.
    """
    from raylens_app.cli.autointerp.parser import help_text, parse
    from raylens_app.cli.autointerp.run import run

    words = context.args
    if not words or "--help" in words or "-h" in words:
        sys.stdout.write(help_text())
        return
    parsed = parse(words)
    config = parsed.config
    with _token(config.hf_token), _told(config.verbose):
        done = run(parsed, config.workspace or state_of(context).workspace)
    if config.as_json:
        print_json(done)
        return
    _print(done)


@contextmanager
def _token(token: str | None) -> Iterator[None]:
    """Give ``token`` to this process and those it starts, for the block; nothing may show it to others.

    Ray keeps the command line of whoever connects to it, so one that holds the token is replaced first, by
    this program again, with the token in its environment alone.
    """
    if token is None:
        yield
        return
    if any(token in word for word in sys.orig_argv):
        sys.stdout.flush()
        sys.stderr.flush()
        words = without_token(sys.orig_argv[1:])
        os.execve(sys.executable, [sys.executable, *words], {**os.environ, "HF_TOKEN": token})
    before = os.environ.get("HF_TOKEN")
    os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_TOKEN"]
        else:
            os.environ["HF_TOKEN"] = before


def without_token(words: Sequence[str]) -> list[str]:
    """A command line without ``--hf_token`` and its value."""
    kept: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if name in ("--hf_token", "--hf-token"):
            if not equals:
                next(rest, None)
            continue
        kept.append(word)
    return kept


def _told(verbose: bool) -> AbstractContextManager[object]:
    """Progress and notes go to stderr, or nowhere; warnings and errors are written past it."""
    return nullcontext() if verbose else redirect_stderr(io.StringIO())


def _print(done: Mapping[str, Any]) -> None:
    from raylens_app.cli.passes import print_notes
    from raylens_app.cli.score_card import print_card

    print_text(f"cache {done['cache_id']}: {done['tokens']:,} tokens")
    for one in done["saes"]:
        counts = ", ".join(f"{count:,} {status}" for status, count in one["statuses"].items()) or "none"
        print_text(f"{one['sae']} at {one['hookpoint']}, {one['latents']:,} latents: {counts}")
        if one["card"]:
            print_card(one["card"])
        if one["usage"]:
            print_notes(one)
    print_text(f"results in {done['results']}")
