"""``raylens serve up --detach``: the services in a process of their own, followed until they answer."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raylens.errors import InputError, RunError
from raylens_app.cli.output import note

if TYPE_CHECKING:
    from raylens.store.standing import Standing
    from raylens_app.cli.state import State
    from raylens_serve.config_file import ServeFile

READY: Final = "ready at "
"""How the line begins that says that the services answer."""

_UP_S: Final = 300.0
_POLL_S: Final = 0.2
_ERROR: Final = "error: "
_LONGEST: Final = 500
_WRONG_INPUT: Final = 2


def start_detached(state: State, file: ServeFile, address: str | None, say: Callable[[str], None]) -> Standing:
    """Start ``raylens serve up`` in a process of its own, and wait until it is ready.

    Args:
        state: Of this command.
        file: What to serve, and where.
        address: Of a running Ray cluster; None for one of its own.
        say: Told what that process says on its way.

    Raises:
        InputError, RunError: As that process says, or how it ended where it said nothing.
    """
    import yaml

    from raylens.store.standing import read_standing, require_none
    from raylens.store.workspace import Workspace
    from raylens_serve.config_file import APPLICATION, IMPORT_PATH

    files = Workspace.open(file.settings.workspace_url, create=True).files
    require_none(files)
    folder = Path(tempfile.mkdtemp(prefix="raylens-serve-"))
    args = file.settings.model_dump(mode="json")
    application = {"name": APPLICATION, "import_path": IMPORT_PATH, "args": args}
    written = folder / "serve.yaml"
    written.write_text(yaml.safe_dump({"http_options": file.http, "applications": [application]}), "utf-8")
    words = ["--workspace", state.workspace, *(["--verbose"] if state.verbose else []), "serve", "up"]
    words += ["--config", str(written), "--host", file.host, "--port", str(file.port)]
    words += ["--address", address] if address is not None else []
    log = folder / "serve.log"
    process = _started(words, log)
    until = time.monotonic() + _UP_S
    try:
        with log.open(encoding="utf-8", errors="replace") as said:
            while time.monotonic() < until:
                ended = process.poll()  # before its log is read: it writes no more then
                standing = read_standing(files)
                _pass_on(said.readlines(), say)
                if standing is not None:
                    note(f"what they say goes to {log}")
                    return standing
                if ended is not None:
                    raise why(log, ended)
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        process.terminate()
        raise
    process.terminate()
    raise RunError(f"the services were not up after {_UP_S:g} s.", hint=f"{log} says more.")


def _started(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "raylens", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def _pass_on(lines: Sequence[str], say: Callable[[str], None]) -> None:
    """All but what this process says itself in the end."""
    for line in lines:
        if line.strip() and not line.startswith((READY, _ERROR)):
            say(line)


def why(log: Path, code: int) -> InputError | RunError:
    """The error of a process that ended while the services started.

    Args:
        log: What it said.
        code: How it ended: an exit code, or the negative number of a signal.
    """
    lines = [line for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    said = next((line for line in reversed(lines) if line.startswith(_ERROR)), None)
    if said is None:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        last = f"it last said: {lines[-1].strip()[:_LONGEST]}" if lines else "it said nothing."
        return RunError(f"the services' process {how} while it started; {last}", hint=f"its log is {log}.")
    message, _, hint = said.removeprefix(_ERROR).partition(" hint: ")
    kind = InputError if code == _WRONG_INPUT else RunError
    return kind(message, hint=hint or f"its log is {log}.")
