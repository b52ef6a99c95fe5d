"""Commands that run models, each in a process of its own: what kills that leaves the server as it was.

The process starts in an empty folder, so that nothing a client wrote can be a path relative to it, and is ended when
the call is cancelled or takes too long: first as by Ctrl-C, upon which a run keeps what is done.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import ByteReceiveStream, Process

from raylens.errors import BusyError, InputError, RunError
from raylens.store.base_dir import VARIABLE
from raylens_app.mcp.answers import clipped
from raylens_app.mcp.desk import Call

TOKEN_VARIABLE: Final = "RAYLENS_API_TOKEN"

_LAST_LINES: Final = 20
_LONGEST_LINE: Final = 100_000
_MOST_OUTPUT: Final = 16 * 2**20
_GRACE_S: Final = 10.0
_DRAIN_S: Final = 2.0
_POLL_S: Final = 0.05
_PROGRESS: Final = re.compile(r"(?P<what>[\w ]+): (?P<done>[\d,]+) of (?P<total>[\d,]+)\b")
_ERROR: Final = re.compile(r"error: (?P<message>.+?) hint: (?P<hint>.+)")

_at_work: set[str] = set()


async def run_command(call: Call, words: Sequence[str], *, timeout_s: float) -> Any:
    """Run ``raylens`` with ``words`` and give the JSON document that it prints.

    Progress that it writes to stderr goes to whoever called. One runs at a time in a workspace: each takes all cores.

    Raises:
        BusyError: Another call's is running.
        InputError: The command says that its input is wrong, or that something it names does not exist.
        RunError: It failed, crashed, or took longer than ``timeout_s``.
    """
    url = call.desk.workspace.url
    if url in _at_work:
        raise BusyError("an audit of another call is running.", hint="wait for it, or cancel that call.")
    _at_work.add(url)
    try:
        with tempfile.TemporaryDirectory(prefix="raylens-mcp-") as folder:
            return await _run(call, ["--workspace", url, *words], Path(folder), timeout_s)
    finally:
        _at_work.discard(url)


async def _run(call: Call, words: Sequence[str], folder: Path, timeout_s: float) -> Any:
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    environment |= {VARIABLE: str(call.desk.base), "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
    process = await anyio.open_process(
        [sys.executable, "-m", "raylens", *words],
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )
    said: deque[str] = deque(maxlen=_LAST_LINES)
    output = bytearray()
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with anyio.move_on_after(timeout_s) as scope:
            async with anyio.create_task_group() as group:
                read = [anyio.Event(), anyio.Event()]
                group.start_soon(_follow, call, process.stderr, said, read[0])
                group.start_soon(_collect, process.stdout, output, read[1])
                await _exit_of(process)
                # Whatever it left behind may hold its pipes open; what was written is read within a moment.
                with anyio.move_on_after(_DRAIN_S):
                    for one in read:
                        await one.wait()
                group.cancel_scope.cancel()
    finally:
        await _end(process)
    if scope.cancelled_caught:
        raise RunError(
            f"it was stopped after {timeout_s:g} s.",
            hint="timeout_s allows more; what is done of an audit is kept, and the same call goes on from there.",
        )
    return _result(process.returncode or 0, bytes(output), said)


async def _exit_of(process: Process) -> None:
    """Wait until it has ended; waiting for it as asyncio does is waiting for all who hold its pipes."""
    while process.returncode is None:
        await anyio.sleep(_POLL_S)


async def _collect(stream: ByteReceiveStream, output: bytearray, done: anyio.Event) -> None:
    async for chunk in stream:
        output += chunk[: _MOST_OUTPUT - len(output)]
    done.set()


async def _follow(call: Call, stream: ByteReceiveStream, said: deque[str], done: anyio.Event) -> None:
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[-_LONGEST_LINE:]
        for line in lines:
            await _heard(call, line.decode(errors="replace"), said)
    if rest:
        await _heard(call, rest.decode(errors="replace"), said)
    done.set()


async def _heard(call: Call, line: str, said: deque[str]) -> None:
    said.append(line)
    if found := _PROGRESS.match(line):
        await call.progress(_number(found["done"]), _number(found["total"]), found["what"])


def _number(text: str) -> float:
    return float(text.replace(",", ""))


async def _end(process: Process) -> None:
    """End it and what it started: as by Ctrl-C, and if that takes too long at once."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            _signal(process, signal.SIGINT)
            with anyio.move_on_after(_GRACE_S):
                await _exit_of(process)
        # Also where it has ended by itself: what it left behind goes with it.
        _signal(process, signal.SIGKILL)
        await _exit_of(process)
        with anyio.move_on_after(_DRAIN_S):
            await process.aclose()


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _result(code: int, output: bytes, said: Sequence[str]) -> Any:
    if code == 0:
        try:
            return json.loads(output)
        except ValueError as error:
            raise RunError("it printed no result.", hint="see the server's log.") from error
    errors = [found for line in said if (found := _ERROR.match(line))]
    if errors:
        kind = InputError if code == 2 else RunError
        raise kind(errors[-1]["message"], hint=errors[-1]["hint"])
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    last = clipped(next((line for line in reversed(said) if line.strip()), ""), 300)
    raise RunError(
        f"its process ended {how}{f': {last}' if last else ''}.",
        hint="the server goes on; an audit goes on from what is done when it is asked for again.",
    )
