"""The ``raylens`` command: global options, all commands, and how errors leave the process.

Exit codes: 0 fine, 2 the input or configuration is wrong, 1 something failed while running, 130
Ctrl-C. An error is one line on stderr, ``error: <message> hint: <hint>``; a traceback goes to a log
file, and to stderr with ``--verbose``.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final

import typer
from typer.exceptions import TyperException

from raylens import __version__
from raylens.errors import RaylensError
from raylens_app.cli import app as web_app
from raylens_app.cli import (
    audit_group,
    autointerp,
    cache,
    catalog,
    convert,
    demo,
    doctor,
    explain,
    exporting,
    feature,
    features,
    housekeeping,
    importing,
    label,
    labels,
    mcp,
    organisms,
    patches,
    provenance,
    runs,
    score,
    serve,
    sql,
    steer,
    suites,
    traces,
    training,
    up,
)
from raylens_app.cli.output import one_line, printable_lines
from raylens_app.cli.state import DEFAULT_WORKSPACE, State

# In the order of --help.
_GROUPS: Final = (
    demo,
    autointerp,
    cache,
    catalog,
    features,
    feature,
    sql,
    explain,
    score,
    provenance,
    steer,
    patches,
    label,
    labels,
    suites,
    audit_group,
    organisms,
    mcp,
    serve,
    web_app,
    up,
    traces,
    training,
    convert,
    importing,
    exporting,
    runs,
    housekeeping,
    doctor,
)

_EXTRAS: Final = {
    "accelerate": "models",
    "bitsandbytes": "models",
    "datasets": "models",
    "interp_engine": "models",
    "peft": "models",
    "ray": "models",
    "raylens_jobs": "models",
    "sae_lens": "models",
    "safetensors": "models",
    "sentence_transformers": "models",
    "sklearn": "models",
    "tokenizers": "models",
    "torch": "models",
    "transformers": "models",
    "altair": "app",
    "streamlit": "app",
    "s3fs": "s3",
    "fastapi": "serve",
    "mcp": "mcp",
    "raylens_serve": "serve",
    "uvicorn": "serve",
}
_GLOBAL_OPTIONS: Final = ("--workspace", "--verbose", "--version")

app = typer.Typer(
    name="raylens",
    help="What a language model's internal features mean, and whether a fine-tune changed them.",
    rich_markup_mode="rich",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Printable(logging.Formatter):
    """Log lines may quote file names and text: nothing in them steers the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raylens {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    workspace: Annotated[
        str,
        typer.Option(
            metavar="PATH", envvar="RAYLENS_WORKSPACE", help="Where caches and runs are kept: a folder or an s3:// URL."
        ),
    ] = DEFAULT_WORKSPACE,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log details, and show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What a language model's internal features mean, and whether a fine-tune changed them."""
    context.obj = State(workspace=workspace, verbose=verbose)
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    for package in ("raylens", "raylens_jobs", "raylens_serve", "raylens_app"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.WARNING)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for _group in _GROUPS:
    _group.register(app)


def _flow(documentation: str) -> str:
    """A docstring's paragraphs, a line each: a terminal of any width breaks them itself."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(documentation).split("\n\n"))


def _flow_help(group: typer.Typer) -> None:
    for command in group.registered_commands:
        if command.help is None and command.callback is not None:
            command.help = _flow(command.callback.__doc__ or "")
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _flow_help(inner.typer_instance)


_flow_help(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: ``sys.argv``) and return its exit code.

    What nobody expected passes through and meets :func:`_unexpected`, the interpreter's last hook.
    """
    words = autointerp.in_full(sys.argv[1:] if arguments is None else arguments, command_names())
    # The one-command form has a --verbose of its own.
    verbose = "--verbose" in (words[: words.index(autointerp.COMMAND)] if autointerp.COMMAND in words else words)
    sys.excepthook = partial(_unexpected, verbose)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a crash.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        code = _run(words, verbose)
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in {errno.EPIPE, errno.ENOSPC}:
            raise
        _abandon_stdout()
        if error.errno == errno.EPIPE:  # the reader has gone (raylens … | head): leave without a word
            return 1
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"no space is left on a device{where}.", "free some and run it again.", 1, verbose)
    except KeyboardInterrupt:
        code = 130
    if code == 130:
        sys.stderr.write("stopped by Ctrl-C.\n")
    return code


def command_names() -> set[str]:
    """Every command and group of commands."""
    groups = {group.name for group in app.registered_groups if group.name}
    return groups | {command.name for command in app.registered_commands if command.name}


def _run(words: list[str], verbose: bool) -> int:
    try:
        result = typer.main.get_command(app).main(args=words, prog_name="raylens", standalone_mode=False)
    except RaylensError as error:
        return _fail(error.message, error.hint, error.exit_code, verbose)
    except TyperException as error:
        return _fail(error.format_message(), _usage_hint(error), error.exit_code, verbose=False)
    except typer.Abort:
        return _fail("aborted.", "nothing was done.", 1, verbose=False)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        hint = f"run pip install 'raylens[{_EXTRAS[package]}]'."
        return _fail(f"this command needs {package}, which is not installed", hint, 2, verbose)
    except SystemExit as stop:
        # Typer and rich leave this way when the reader of a pipe has gone.
        return stop.code if isinstance(stop.code, int) else 1
    return result if isinstance(result, int) else 0


def _fail(message: str, hint: str, code: int, verbose: bool) -> int:
    if verbose:
        sys.stderr.write(printable_lines(traceback.format_exc()) + "\n")
    sys.stdout.flush()
    end = "" if message.rstrip().endswith((".", "!", "?", ")")) else "."
    sys.stderr.write(one_line(f"error: {message.rstrip()}{end} hint: {hint}") + "\n")
    return code


def _usage_hint(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "raylens"
    option = getattr(error, "option_name", "")
    if option in _GLOBAL_OPTIONS and command != "raylens":
        return f"{option} goes before the command: raylens {option} … {command.removeprefix('raylens ')}."
    return f"{command} --help shows how it is used."


def _unexpected(verbose: bool, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line what failed and where its traceback is; the interpreter then exits with 1."""
    text = "".join(traceback.format_exception(kind, error, trace))
    if verbose:
        sys.stderr.write(printable_lines(text) + "\n")
    where = _write_log(text)
    first = str(error).strip().partition("\n")[0]
    what = f"{kind.__name__}: {first}" if first else kind.__name__
    hint = f"the traceback is in {where}; please report it." if where else "run again with --verbose for the traceback."
    _fail(f"unexpected failure, {what}", hint, 1, verbose=False)


def _write_log(text: str) -> str:
    """Keep a traceback in the temporary folder; the workspace may be remote, read-only or full."""
    try:
        handle, path = tempfile.mkstemp(prefix="raylens-error-", suffix=".log", text=True)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(f"raylens {__version__}, Python {sys.version.split()[0]}: {' '.join(sys.argv)}\n{text}")
    except OSError:
        return ""
    return str(Path(path))


def _abandon_stdout() -> None:
    """What is still buffered can go nowhere; without this the interpreter would try once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
