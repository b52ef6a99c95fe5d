"""Who writes traces may be killed or paused at any moment: what it said was written is there, and no other harmed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raylens.store import trace_rolling
from raylens.store.lock import acquire
from raylens.store.trace_rows import extraction_kept, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from raylens.traces.listing import SpanFilter
from trace_samples import MODEL, SAE, a_span, an_extraction

_SUPPORT = str(Path(__file__).parents[1] / "support")

_WRITES = """
import sys
sys.path.insert(0, sys.argv[1])
from raylens.store import trace_rolling
from raylens.store.trace_rows import extraction_kept, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from trace_samples import a_span, an_extraction
trace_rolling.FAN = 3
store = TraceStore(Workspace.open(sys.argv[2]))
for number in range(1000):
    name = f"{sys.argv[3]}-{number}"
    store.write([span_written(a_span(name, number)), extraction_kept(an_extraction(name))], "test")
    print(name, flush=True)
"""


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, _SUPPORT, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_said_was_written_is_there(local_workspace: Workspace) -> None:
    acknowledged: list[str] = []
    chance = random.Random(7)
    for life in range(3):
        with started(_WRITES, local_workspace.url, f"life{life}") as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(2, 8)):
                acknowledged.append(writer.stdout.readline().strip())
            time.sleep(chance.random() * 0.02)  # at whatever it is doing then
            writer.kill()
            acknowledged += writer.stdout.read().split()
    store = TraceStore(local_workspace)
    found = [span.span_id for span in store.spans(SpanFilter(), 10_000)[0]]
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert len(found) <= len(acknowledged) + 3, "each killed one may have written one more than it could say"
    assert all(store.extraction(name, MODEL, SAE) == an_extraction(name) for name in found)
    store.write([span_written(a_span("after"))], "test")
    assert TraceStore(local_workspace).span("after") == a_span("after")


_PAUSES = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from raylens.store import trace_rolling, traces
from raylens.store.trace_rows import extraction_kept, span_written
from raylens.store.traces import TraceStore
from raylens.store.workspace import Workspace
from trace_samples import a_span, an_extraction
trace_rolling.FAN = 3
traces._TRUST_S = float(sys.argv[3])
store = TraceStore(Workspace.open(sys.argv[2]))

def decide(draft):
    reading = extraction_kept(an_extraction("both"))
    drafted = draft.write(span_written(a_span("paused"))), draft.keep(reading, again=False)
    if not paused:
        paused.append(True)
        signal.raise_signal(signal.SIGSTOP)
    return drafted

paused = []
with store.turn("paused"):
    store.transact(lambda draft: draft.put([span_written(a_span("both"))]))
    wrote, there = store.transact(decide)
    store.tidy()
print(wrote, there.peaks.activations[0], flush=True)
"""


@pytest.mark.parametrize("collected", [False, True])
def test_a_paused_writer_that_goes_on_writes_over_nothing(
    local_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, collected: bool
) -> None:
    """Its lock was taken over, and the number that it was about to write used, rolled up, perhaps even collected."""
    monkeypatch.setattr(trace_rolling, "FAN", 3)
    # Collected while it was paused means paused for long: then it makes sure.
    with started(_PAUSES, local_workspace.url, "-1" if collected else "60") as paused:
        os.waitpid(paused.pid, os.WUNTRACED)
        store = TraceStore(local_workspace)
        theirs = an_extraction("both", 40)
        with acquire(local_workspace.files, "traces/lock", "other", what="traces", stale_s=-1):
            store.transact(lambda draft: draft.keep(extraction_kept(theirs), again=False))
            for number in range(4):
                store.transact(lambda draft, number=number: draft.put([span_written(a_span(f"theirs{number}"))]))
                store.tidy()
            if collected:
                assert store.collect(time.time() + 60) == 6
        kept = {path: local_workspace.files.read_bytes(path) for path in local_workspace.files.list("traces/segments")}
        paused.send_signal(signal.SIGCONT)
        assert paused.stdout is not None
        said = paused.stdout.read()
    assert said == f"True {theirs.peaks.activations[0]}\n", "it decided anew: another one was first"
    assert {path: local_workspace.files.read_bytes(path) for path in kept} == kept
    found = TraceStore(local_workspace)
    names = sorted(span.span_id for span in found.spans(SpanFilter(), 99)[0])
    assert names == ["both", "paused", "theirs0", "theirs1", "theirs2", "theirs3"]
    assert found.extractions("both") == [theirs]
