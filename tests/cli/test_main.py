"""The console entry: exit codes, one-line errors, streams, and nothing left behind on a broken pipe."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import raylens

Cli = Callable[..., subprocess.CompletedProcess[str]]

APP = """
import logging, os, signal, sys
from raylens.errors import DiskFullError, InputError
from raylens_app.cli.main import app, main
from raylens_app.cli.output import progress, print_text

@app.command()
def wrong() -> None:
    raise InputError("text\\n  is \\x1b[31mmissing", hint="name\\na file.")

@app.command()
def full() -> None:
    with progress("writing", 3) as bar:
        bar(1)
        raise DiskFullError("the disk is full.", hint="make room.")

@app.command()
def boom() -> None:
    raise ZeroDivisionError("first line\\nsecond line")

@app.command()
def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()

@app.command()
def missing() -> None:
    raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")

@app.command()
def logs() -> None:
    logging.getLogger("raylens.store").warning("odd file\\x1b[2J")
    logging.getLogger("raylens_jobs").debug("a detail")

@app.command()
def endless(plain: bool = False) -> None:
    for number in range(1_000_000):
        sys.stdout.write(f"line {number}\\n") if plain else print_text(f"line {number}")

sys.exit(main())
"""


@pytest.fixture
def app(tmp_path: Path, environment: dict[str, str]) -> Cli:
    """The real ``main`` with commands that fail in every way there is."""
    script = tmp_path / "app.py"
    script.write_text(APP)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            # A shell starts what runs in the background with Ctrl-C ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return run


def test_an_input_error_is_one_line_and_exit_code_2(app: Cli) -> None:
    done = app("wrong")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: text is ␛[31mmissing. hint: name a file.\n"


def test_a_failure_at_run_time_is_exit_code_1_after_its_progress(app: Cli) -> None:
    done = app("full")
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["writing: 1 of 3", "error: the disk is full. hint: make room."]


def test_what_nobody_expected_is_one_line_and_a_log(app: Cli, environment: dict[str, str]) -> None:
    done = app("boom")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: unexpected failure, ZeroDivisionError: first line. hint: ")
    (log,) = Path(environment["TMPDIR"]).glob("raylens-error-*.log")
    assert str(log) in line
    assert "in boom" in log.read_text()


def test_verbose_shows_the_traceback(app: Cli) -> None:
    for name in ("boom", "wrong"):
        lines = app("--verbose", name).stderr.splitlines()
        assert lines[0].startswith("Traceback")
        assert lines[-1].startswith("error: ")


def test_logs_go_to_stderr_and_details_only_when_asked_for(app: Cli) -> None:
    quiet, loud = app("logs"), app("--verbose", "logs")
    assert quiet.stderr == "WARNING raylens.store: odd file␛[2J\n"
    assert loud.stderr == quiet.stderr + "DEBUG raylens_jobs: a detail\n"
    assert quiet.stdout == loud.stdout == ""


def test_ctrl_c_is_one_line_and_exit_code_130(app: Cli) -> None:
    done = app("interrupted")
    assert done.returncode == 130
    assert done.stderr == "stopped by Ctrl-C.\n"


def test_a_missing_extra_says_what_to_install(app: Cli) -> None:  # A0.23
    done = app("missing")
    assert done.returncode == 2
    assert done.stderr == (
        "error: this command needs torch, which is not installed. hint: run pip install 'raylens[models]'.\n"
    )


@pytest.mark.parametrize("how", [[], ["--plain"]])
def test_a_reader_who_leaves_is_no_error(tmp_path: Path, environment: dict[str, str], app: Cli, how: list[str]) -> None:
    script = tmp_path / "app.py"
    writer = subprocess.Popen(
        [sys.executable, str(script), "endless", *how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    assert writer.stdout.readline() == b"line 0\n"
    writer.stdout.close()
    assert writer.wait(timeout=60) == 1
    assert writer.stderr.read() == b""
    writer.stderr.close()


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["--workspace"]])
def test_usage_errors_have_the_same_form(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("hint: raylens --help shows how it is used.")


def test_version_and_help_and_the_module_say_the_same(cli: Cli, tmp_path: Path, environment: dict[str, str]) -> None:
    version = cli("--version")
    assert (version.returncode, version.stdout) == (0, f"raylens {raylens.__version__}\n")
    shown, bare = cli("--help"), cli()
    assert shown.returncode == bare.returncode == 0
    assert shown.stdout == bare.stdout
    assert "--workspace" in shown.stdout
    assert "\x1b" not in shown.stdout
    command = [sys.executable, "-m", "raylens", "--version"]
    module = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert module.stdout == version.stdout
