"""Tool calls of a session: every one is there once, in one order, whoever writes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from raylens.store.audit_calls import ToolCalls
from raylens.store.audit_store import AuditStore
from raylens.store.files import Files

PATH = "audits/s/tool_calls.jsonl"


def transcript(files: Files) -> list[dict[str, Any]]:
    data = files.read_bytes(PATH).decode()
    assert data.endswith("\n")
    return [json.loads(line) for line in data.splitlines()]


def test_calls_are_lines_in_order_without_secrets(files: Files) -> None:  # A2.02, A2.07
    store = AuditStore(files)
    assert store.tool_calls("s") == []
    call = {"tool": "run_report", "arguments": {"text": "a\nb\u2028c\ud800", "api_key": "sk-secret"}, "number": 99}
    assert store.log_tool_call("s", call) == 1
    assert store.log_tool_call("s", {"tool": "sql", "seconds": 0.5}) == 2
    lines = transcript(files)
    assert [(line["number"], line["tool"]) for line in lines] == [(1, "run_report"), (2, "sql")]
    assert lines[0]["arguments"] == {"text": "a\nb\u2028c\ud800"}
    assert lines[0]["at"].endswith("+00:00")
    assert store.tool_calls("s") == lines
    assert b"secret" not in b"".join(files.read_bytes(one.path) for one in files.scan("audits"))
    store.log_tool_call("other", {"tool": "sql"})
    assert len(transcript(files)) == 2


_WRITER = """
import sys
from raylens.store.audit_calls import ToolCalls
from raylens.store.files import Files
calls = ToolCalls(Files.open(sys.argv[1]), "s")
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    calls.append({"tool": "sql", "who": sys.argv[2], "nth": number})
"""


def test_two_processes_that_write_at_once_lose_nothing(files: Files) -> None:
    each = 6
    command = [sys.executable, "-c", _WRITER, files.url]
    writers = [
        subprocess.Popen([*command, who, str(each)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for who in ("a", "b")
    ]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert (writer.communicate()[1], writer.returncode) == ("", 0)
    lines = transcript(files)
    assert [line["number"] for line in lines] == list(range(1, 2 * each + 1))
    for who in ("a", "b"):
        assert [line["nth"] for line in lines if line["who"] == who] == list(range(each))
    assert AuditStore(files).tool_calls("s") == lines


def test_threads_of_one_store_and_stores_of_one_process(local_files: Files) -> None:
    stores = [AuditStore(local_files), AuditStore(local_files)]
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda n: stores[n % 2].log_tool_call("s", {"n": n}), range(24)))
    assert sorted(numbers) == list(range(1, 25))
    assert sorted(line["n"] for line in transcript(local_files)) == list(range(24))


def test_an_older_transcript_over_a_newer_one_is_written_once_more(local_files: Files) -> None:
    class Late(Files):
        """Another writer gets on just before this one writes its transcript."""

        def commit(self, rel: str, data: Any) -> None:
            if rel == PATH and not said:
                said.append(1)
                ToolCalls(local_files, "s").append({"who": "other"})
            super().commit(rel, data)

    said: list[int] = []
    ToolCalls(Late(local_files.url), "s").append({"who": "late"})
    assert [line["who"] for line in transcript(local_files)] == ["late", "other"]


def test_a_writer_killed_before_the_transcript_loses_nothing(local_files: Files) -> None:
    ToolCalls(local_files, "s").append({"n": 1})
    before = local_files.read_bytes(PATH)
    ToolCalls(local_files, "s").append({"n": 2})
    local_files.commit(PATH, before)  # as where the second one died in between
    assert [line["n"] for line in ToolCalls(local_files, "s").read()] == [1, 2]
    ToolCalls(local_files, "s").append({"n": 3})
    assert [line["n"] for line in transcript(local_files)] == [1, 2, 3]


def test_an_edited_or_missing_transcript_is_mended(local_files: Files) -> None:
    calls = ToolCalls(local_files, "s")
    for n in range(3):
        calls.append({"n": n})
    local_files.commit(PATH, b'not json\n{"number": 2, "n": "changed"}\n[]\n{"number": "x"}\n')
    assert [line["n"] for line in ToolCalls(local_files, "s").read()] == [0, 1, 2]
    local_files.delete(PATH)
    ToolCalls(local_files, "s").append({"n": 3})
    assert [line["n"] for line in transcript(local_files)] == [0, 1, 2, 3]
    local_files.delete("audits/s/_calls", recursive=True)  # somebody copied what people read, and nothing else
    assert ToolCalls(local_files, "s").append({"n": 4}) == 5
    assert [line["n"] for line in transcript(local_files)] == [0, 1, 2, 3, 4]


def test_a_lost_answer_does_not_say_a_call_twice(s3_url: str, s3_wire: Any) -> None:
    files = Files.open(s3_url)
    s3_wire.lose_answer_to = "PUT"
    assert ToolCalls(files, "s").append({"n": 1}) == 1
    assert s3_wire.lose_answer_to is None
    assert [line["n"] for line in transcript(files)] == [1]


def test_a_log_is_opened_with_one_read_however_long_it_is(local_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = ToolCalls(local_files, "s")
    for n in range(9):
        calls.append({"n": n})
    read: list[str] = []
    original = Files.read_bytes
    monkeypatch.setattr(Files, "read_bytes", lambda self, rel: read.append(rel) or original(self, rel))
    assert len(ToolCalls(local_files, "s").read()) == 9
    assert read == [PATH]
