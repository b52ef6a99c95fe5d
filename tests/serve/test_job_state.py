"""How a job stands, of what its runs wrote and what Ray says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.api.runs import ENDED
from raylens.store.process import Process
from raylens.store.runs import RunRecord
from raylens_serve.job_records import JobEnd, JobRecord, Step
from raylens_serve.job_state import START_S, JobState, Seen, judge, progress_of, why_it_failed

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HERE = Process("host", "machine", 1, "1")
ONE = ("audit-0123456789abcdef-1",)
TWO = ("explain-0123456789abcdef-1", "explain-0123456789abcdef-1-score")


def record(steps: tuple[str, ...] = ONE, age_s: float = 1) -> JobRecord:
    return JobRecord(
        run_id=steps[0],
        kind="audit",
        steps=tuple(Step(run_id=one, words=("audit",)) for one in steps),
        asked={},
        submitted_at=NOW - timedelta(seconds=age_s),
    )


def journal(status: Any, error: str | None = None) -> RunRecord:
    ended = None if status in ("running", "lost") else NOW
    return RunRecord(
        run_id="r",
        kind="audit",
        status=status,
        started_at=NOW,
        finished_at=ended,
        heartbeat_at=NOW,
        process=HERE,
        error=error,
    )


def stands(
    journals: list[Any], seen: Seen | None, *, end: JobEnd | None = None, steps: tuple[str, ...] = ONE, age_s: float = 1
) -> JobState:
    state = judge(record(steps, age_s), journals, end, seen, NOW)
    assert state is not None
    return state


class TestStatus:
    @pytest.mark.parametrize(
        ("journals", "seen", "status"),
        [
            ([None], "pending", "queued"),
            ([None], "running", "running"),
            ([None], "unreachable", "queued"),
            ([None], "failed", "failed"),
            ([None], "stopped", "stopped"),
            (["running"], "running", "running"),
            (["running"], "failed", "failed"),  # killed: its record says running for ever
            (["lost"], "running", "running"),  # Ray will notice
            (["lost"], "failed", "failed"),
            (["lost"], "unknown", "lost"),
            (["lost"], "unreachable", "lost"),
            (["running"], "unknown", "running"),  # the cluster forgot it, its process lives
            (["succeeded"], "running", "succeeded"),
            (["succeeded"], "failed", "succeeded"),
            (["failed"], "running", "failed"),
            (["stopped"], "failed", "stopped"),
        ],
    )
    def test_of_one_step(self, journals: list[Any], seen: Any, status: str) -> None:
        written = [journal(one) if one else None for one in journals]
        assert stands(written, Seen(seen)).status == status

    @pytest.mark.parametrize(
        ("journals", "seen", "status"),
        [
            (["succeeded", None], "running", "running"),
            (["succeeded", "running"], "running", "running"),
            (["succeeded", "succeeded"], "succeeded", "succeeded"),
            (["succeeded", None], "failed", "failed"),
            (["succeeded", None], "unknown", "lost"),
            (["failed", None], "failed", "failed"),
            (["stopped", None], "failed", "stopped"),
        ],
    )
    def test_of_two_steps(self, journals: list[Any], seen: Any, status: str) -> None:
        written = [journal(one) if one else None for one in journals]
        assert stands(written, Seen(seen), steps=TWO).status == status

    def test_one_that_never_came_to_ray_is_lost_after_a_while(self) -> None:
        assert stands([None], Seen("unknown")).status == "queued"
        gone = stands([None], Seen("unknown"), age_s=START_S + 1)
        assert gone.status == "lost"
        assert "never came to run" in (gone.error or "")
        assert gone.hint

    def test_ray_is_asked_only_where_the_workspace_does_not_say(self) -> None:
        end = JobEnd(status="failed", error="why", hint="do", at=NOW)
        assert judge(record(), [None], None, None, NOW) is None
        assert judge(record(), [journal("running")], None, None, NOW) is None
        assert stands([journal("succeeded")], None).status == "succeeded"
        kept = stands([journal("running")], None, end=end)
        assert (kept.status, kept.error, kept.hint) == ("failed", "why", "do")

    @given(
        st.lists(st.sampled_from([None, "running", "succeeded", "failed", "stopped", "lost"]), min_size=1, max_size=3),
        st.sampled_from(["pending", "running", "succeeded", "failed", "stopped", "unknown", "unreachable"]),
        st.floats(0, 1e6),
        st.text(max_size=40),
        st.none() | st.integers(-70, 300),
    )
    def test_always_says_something_and_why_it_failed(
        self, journals: list[Any], seen: Any, age_s: float, message: str, code: int | None
    ) -> None:
        steps = tuple(f"{ONE[0]}-{at}" for at in range(len(journals)))
        written = [journal(one, error="no.") if one else None for one in journals]
        state = stands(written, Seen(seen, message, code), steps=steps, age_s=age_s)
        assert state.is_under_way == (state.status not in ENDED)
        if state.status in ("failed", "lost"):
            assert state.error
        if seen == "failed":
            assert not state.is_under_way


class TestWhy:
    def test_the_sentence_of_the_command_and_its_hint(self) -> None:
        log = "Job failed:\nrun x: auditing\nerror: there is no candidate 'a'. hint: name a folder.\n"
        assert why_it_failed(Seen("failed", log, 2)) == ("there is no candidate 'a'.", "name a folder.")
        state = stands([journal("failed", "it broke. hint: mend it.")], None)
        assert (state.error, state.hint) == ("it broke.", "mend it.")

    @pytest.mark.parametrize(("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (-15, "SIGTERM"), (143, "SIGTERM")])
    def test_the_signal_that_ended_it(self, code: int, name: str) -> None:
        message, hint = why_it_failed(Seen("failed", "Job entrypoint command failed", code))
        assert message == f"its process was ended by {name}."
        assert "goes on" in hint

    def test_else_its_last_line(self) -> None:
        log = "Job entrypoint command failed with exit code 1, last available logs:\nTraceback\nOSError: no\n\n"
        assert why_it_failed(Seen("failed", log, 1))[0] == "its process ended with exit code 1: OSError: no."
        assert why_it_failed(Seen("failed", "", None))[0] == "its process did not start."


def test_progress_is_of_what_has_a_total() -> None:
    def shown(**values: Any) -> list[tuple[str, float, float | None]]:
        run = journal("running").model_copy(update={"progress": values})
        return [(one.what, one.done, one.total) for one in progress_of(run)]

    assert shown(done=2, total=6) == [("pieces", 2, 6)]
    assert shown(tokens=5, tokens_wanted=10, rows=7) == [("tokens", 5, 10)]
    assert shown(samples=3, note="x") == [("samples", 3, None)]
    assert shown() == []
