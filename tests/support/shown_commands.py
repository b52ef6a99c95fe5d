"""Command lines as documents, manifests and images show them, checked against the commands there are. None is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import click
import typer
from typer.exceptions import TyperException

from raylens.errors import InputError
from raylens_app.cli import autointerp
from raylens_app.cli.autointerp.parser import parse
from raylens_app.cli.main import app, command_names

FENCE: Final = re.compile(r"^```(?:sh|bash)?\n(.*?)^```", re.M | re.S)
_ASSIGNMENT: Final = re.compile(r"^[A-Z][A-Z0-9_]*=")


class UnknownCommandError(AssertionError):
    """A command line that does not exist."""


def fenced(markdown: str) -> Iterator[list[str]]:
    """Words of every command line in a document's code blocks."""
    for block in FENCE.findall(markdown):
        yield from command_lines(block)


def command_lines(shell: str) -> Iterator[list[str]]:
    """Words of every command line of a piece of shell; comments and assignments before a command are left out."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();&|"):
                if words:
                    yield words
                words = []
            elif words or not _ASSIGNMENT.match(word):
                words.append(word)


def require_known(words: Sequence[str]) -> bool:
    """Whether a line is one that is known here; its command, options and values then exist.

    Raises:
        UnknownCommandError: It is one of RayLens's, Ray's or Ray Serve's, and wrong.
    """
    words = list(words)
    if words[:3] == ["python", "-m", "raylens"]:
        words = ["raylens", *words[3:]]
    if words[0] == "raylens":
        _require_raylens(words[1:])
    elif words[0] == "ray":
        _require(_ray(), words[1:], "ray")
        if words[1:3] == ["job", "submit"]:
            assert require_known(words[words.index("--") + 1 :]), f"a job of somebody else: {words}"
    elif words[0] == "serve":
        _require(_ray_serve(), words[1:], "serve")
    else:
        return False
    return True


def _require_raylens(words: Sequence[str]) -> None:
    words = autointerp.in_full(words, command_names())
    if autointerp.COMMAND in words:
        place = words.index(autointerp.COMMAND)
        try:
            parse(words[place + 1 :])
        except InputError as error:
            raise UnknownCommandError(f"raylens {' '.join(words)}: {error.message}") from error
        words = words[:place]
    _require(typer.main.get_command(app), words, "raylens")


def _require(command: Any, words: Sequence[str], name: str) -> None:
    """Parse as the command line would; nothing is invoked."""
    parent, shown, rest = None, f"{name} {' '.join(words)}", list(words)
    try:
        while True:
            context = command.make_context(name, list(rest), parent=parent)
            if not hasattr(command, "commands"):
                return
            rest = [*context._protected_args, *context.args]
            if not rest:
                return
            name, found, rest = command.resolve_command(context, rest)
            if found is None:
                raise UnknownCommandError(f"{shown}: no such command")
            command, parent = found, context
    except (click.ClickException, TyperException) as error:
        raise UnknownCommandError(f"{shown}: {error.format_message()}") from error


@cache
def _ray() -> Any:
    from ray.scripts.scripts import cli

    return cli


@cache
def _ray_serve() -> Any:
    from ray.serve.scripts import cli

    return cli
