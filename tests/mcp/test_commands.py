"""Commands in processes of their own: what becomes of them when all goes well, and when it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from raylens.errors import BusyError, InputError, RunError
from raylens_app.mcp import jobs
from raylens_app.mcp.desk import Call, Desk
from raylens_app.mcp.jobs import run_command

SLOW = "SELECT count(*) FROM range(100000000) a(i), range(100000000) b(j) WHERE i * j % 7 = 1"
"""Longer than any test waits; DuckDB leaves it at once when it is interrupted."""


@pytest.fixture
def call(desk: Desk) -> Call:
    async def nothing(*_: object) -> None: ...

    return Call(desk, nothing)


def run(call: Call, *words: str, timeout_s: float = 120) -> Any:
    return anyio.run(lambda: run_command(call, words, timeout_s=timeout_s))


def ours() -> list[psutil.Process]:
    """Processes that this one has started, which run RayLens."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "raylens" in one.cmdline()]


def test_what_it_prints_comes_back(call: Call) -> None:
    assert run(call, "sql", "SELECT count(*) AS n FROM audit_runs", "--format", "json") == [{"n": 2}]


def test_its_errors_are_ours(call: Call) -> None:
    with pytest.raises(InputError) as refused:
        run(call, "audit", "show", "nothing", "--json")
    assert refused.value.message == "unknown audit 'nothing'."
    assert "first/plain" in refused.value.hint
    with pytest.raises(InputError, match="No such option"):
        run(call, "audit", "show", "--nothing")


def test_it_sees_neither_the_token_nor_the_folder(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the folder was run')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYLENS_API_TOKEN", "x" * 40)
    seen: dict[str, Any] = {}
    real = anyio.open_process

    async def watched(words: Any, **how: Any) -> Any:
        seen.update(how)
        assert list(Path(how["cwd"]).iterdir()) == []
        return await real(words, **how)

    monkeypatch.setattr(anyio, "open_process", watched)
    assert run(call, "sql", "SELECT 1 AS one", "--format", "json") == [{"one": 1}]
    assert "RAYLENS_API_TOKEN" not in seen["env"]
    assert seen["env"]["RAYLENS_BASE_DIR"] == str(call.desk.base)
    assert not Path(seen["cwd"]).exists()


def test_a_crash_is_said_and_survived(call: Call) -> None:
    async def kill() -> None:
        while not (found := ours()):
            await anyio.sleep(0.02)
        found[0].kill()

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(kill)
            with pytest.raises(RunError, match="ended by signal SIGKILL"):
                await run_command(call, ["sql", SLOW, "--timeout", "600"], timeout_s=120)

    anyio.run(both)
    assert run(call, "sql", "SELECT 1 AS one", "--format", "json") == [{"one": 1}]


def test_what_takes_too_long_is_ended(call: Call) -> None:
    with pytest.raises(RunError, match="stopped after 1 s"):
        run(call, "sql", SLOW, "--timeout", "600", timeout_s=1)
    assert ours() == []


def test_what_is_cancelled_is_ended(call: Call) -> None:
    async def cancelled() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_command(call, ["sql", SLOW, "--timeout", "600"], timeout_s=120))
            while not ours():
                await anyio.sleep(0.02)
            group.cancel_scope.cancel()

    anyio.run(cancelled)
    assert ours() == []


def test_one_at_a_time(call: Call) -> None:
    async def two() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: run_command(call, ["sql", SLOW, "--timeout", "600"], timeout_s=120))
            while not ours():
                await anyio.sleep(0.02)
            with pytest.raises(BusyError, match="another call is running"):
                await run_command(call, ["sql", "SELECT 1"], timeout_s=120)
            group.cancel_scope.cancel()

    anyio.run(two)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("auditing: 12 of 1,040 pieces", (12.0, 1040.0, "auditing")),
        ("auditing: 3 pieces", None),
        ("error: no such thing. hint: none.", None),
        ("run audit-1: auditing x: 1 of 2", None),
    ],
)
def test_progress_is_heard(line: str, told: tuple[float, float, str] | None, desk: Desk) -> None:
    heard: list[tuple[Any, ...]] = []

    async def hear(*what: Any) -> None:
        heard.append(what)

    lines = jobs.deque[str](maxlen=3)
    anyio.run(lambda: jobs._heard(Call(desk, hear), line, lines))
    assert heard == ([told] if told else [])
    assert list(lines) == [line]


def test_results_that_are_none_are_said() -> None:
    outcome: Callable[..., Any] = jobs._result
    assert outcome(0, json.dumps({"a": 1}).encode(), []) == {"a": 1}
    with pytest.raises(RunError, match="printed no result"):
        outcome(0, b"{", [])
    with pytest.raises(RunError, match="with exit code 3: the last words"):
        outcome(3, b"", ["first", "the last words", " "])
    with pytest.raises(RunError, match="it broke"):
        outcome(1, b"", ["error: it broke. hint: mend it."])
