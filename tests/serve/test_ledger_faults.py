"""Ledgers killed under load and replaced while they run: what was acknowledged is there, once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter
from trace_samples import MODEL, SAE, an_extraction

_SUPPORT = str(Path(__file__).parents[1] / "support")

# Ten clients, each writing a span and what was read of it, then the next; whoever is told to wait tries again.
_SERVES = """
import asyncio, signal, sys
sys.path.insert(0, sys.argv[1])
from raylens.errors import OverloadedError
from raylens.store import trace_rolling
from raylens_serve import ledger_writer
from raylens_serve.ledger import Ledger
from trace_samples import a_span, an_extraction
trace_rolling.FAN = 3
ledger_writer.LOCK_WAIT_S = 60.0

async def main(url, who, shared):
    ledger, ending = Ledger(url), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)

    async def client(number):
        for turn in range(10_000):
            name = f"{who}-{number}-{turn}"
            try:
                await ledger.add_spans([a_span(name, turn), a_span(shared)])
                (before,) = await ledger.keep([an_extraction(name)])
                (theirs,) = await ledger.keep([an_extraction(shared, number)])
                if isinstance(before, OverloadedError) or isinstance(theirs, OverloadedError):
                    return
            except OverloadedError:
                return
            kept = theirs or an_extraction(shared, number)
            print(name, before is None, kept.peaks.activations[0], theirs is None, flush=True)

    clients = [asyncio.ensure_future(client(number)) for number in range(10)]
    await ending.wait()
    await ledger.close()
    await asyncio.gather(*clients)

asyncio.run(main(*sys.argv[2:]))
"""


def serving(url: str, who: str, shared: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _SERVES, _SUPPORT, url, who, shared], stdout=subprocess.PIPE, text=True
    )


def lines(ledger: subprocess.Popen[str], count: int) -> list[str]:
    assert ledger.stdout is not None
    return [ledger.stdout.readline() for _ in range(count)]


def rest(ledger: subprocess.Popen[str]) -> list[str]:
    """What it said until it ended; a killed process may have begun to say one thing more."""
    assert ledger.stdout is not None
    found = ledger.stdout.read().splitlines(keepends=True)
    return [line for line in found if line.endswith("\n")]


def all_there(url: str, said: list[str], shared: str) -> TraceStore:
    store = TraceStore(Workspace.open(url))
    found = [span.span_id for span in store.spans(SpanFilter(), 100_000)[0]]
    assert len(found) == len(set(found))
    names = [line.split()[0] for line in said]
    assert len(names) == len(set(names))
    assert {*names, shared} <= set(found)
    for name in names:
        assert store.extraction(name, MODEL, SAE) == an_extraction(name)
    kept = store.extraction(shared, MODEL, SAE)
    assert kept is not None
    assert {line.split()[2] for line in said} == {str(kept.peaks.activations[0])}, "everybody got the same"
    assert [line.split()[3] for line in said].count("True") <= 1
    return store


def test_two_at_once_as_when_services_are_replaced(tmp_path: Path) -> None:
    url = str(tmp_path / "w")
    Workspace.open(url, create=True)
    with serving(url, "old", "shared") as old:
        said = lines(old, 30)
        with serving(url, "new", "shared") as new:
            said += lines(old, 30)
            old.send_signal(signal.SIGTERM)
            said += rest(old)
            assert old.wait() == 0
            said += lines(new, 30)
            new.send_signal(signal.SIGTERM)
            said += rest(new)
            assert new.wait() == 0
    assert {line.partition("-")[0] for line in said} == {"old", "new"}
    all_there(url, said, "shared")


@pytest.mark.parametrize("lives", [3])
def test_killed_under_load_and_started_again(tmp_path: Path, lives: int) -> None:
    url = str(tmp_path / "w")
    Workspace.open(url, create=True)
    said: list[str] = []
    for life in range(lives):
        with serving(url, f"life{life}", "shared") as ledger:
            said += lines(ledger, 20 + 13 * life)
            ledger.kill()
            said += rest(ledger)
    all_there(url, said, "shared")
    left = Workspace.open(url).files.scan("traces/segments")
    assert len([one for one in left if one.temporary]) <= lives
