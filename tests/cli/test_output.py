"""Tables, JSON, notes and progress: what goes where, and that nothing in it can steer a terminal."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens_app.cli import output

HOSTILE = "a\x1b]52;c;bXk=\x07\x9b\u202e[bold]b\nc"


def test_a_table_shows_every_cell_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": HOSTILE, "value": 0.5, "long": "x" * 500}, {"name": None, "value": 2}]
    columns = ["name", output.Column("value", "how much", "right", lambda value: f"{value} %"), "long"]
    output.print_table(rows, columns, title="all\x1b[2J")
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("all␛[2J", "how much", "0.5 %", "2 %", "x" * 500, "[bold]b↵c"))
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)


@pytest.mark.parametrize("forced", [False, True])
def test_no_color_means_no_escape_sequence_at_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not forced:
        monkeypatch.setenv("NO_COLOR", "1")
    output.print_table([{"a": 1}], ["a"], title="bold")
    assert ("\x1b" in capsys.readouterr().out) == forced


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values)
def test_json_reads_back_and_holds_no_control_character(value: object) -> None:
    with redirect_stdout(io.StringIO()) as written:
        output.print_json(value)
    text = written.getvalue()
    assert json.loads(text) == value
    assert output.printable(text.replace("\n", "")) == text.replace("\n", "")


def test_json_takes_numpy_arrow_and_what_json_cannot_say(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json(
        {
            "array": np.arange(2, dtype=np.int32),
            "scalar": np.float32(0.5),
            "nan": float("nan"),
            "table": pa.table({"a": [1, None]}),
            3: (b"\x01", {"x"}, HOSTILE),
        }
    )
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "array": [0, 1],
        "scalar": 0.5,
        "nan": None,
        "table": [{"a": 1}, {"a": None}],
        "3": ["01", ["x"], HOSTILE],
    }


def test_notes_go_to_stderr_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.note("one\ntwo\x1b[0m")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "one two␛[0m\n")


def test_progress_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    ticks = iter([0.0, 1.0, 11.0, 12.0, 13.0])
    with output.progress("caching", 4000, unit="tokens", clock=lambda: next(ticks)) as bar:
        bar(1000, message="shard 1")
        bar(2000)
        bar.advance(500)
        bar.advance(500)
        bar(4000)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "caching: 1,000 of 4,000 tokens · shard 1",
        "caching: 2,500 of 4,000 tokens",
        "caching: 4,000 of 4,000 tokens",
    ]
