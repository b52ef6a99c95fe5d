"""Asking for jobs: what is written down, what is given to Ray, and that the same thing is started once."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from job_api import JobApi, job_api
from raylens.errors import InputError, OverloadedError, UnknownNameError
from raylens.store.runs import RunJournal, find_run, stop_requested
from raylens.store.workspace import Workspace
from raylens_serve.job_records import FOLDER
from raylens_serve.job_submission import MOST, Jobs

WORDS = ["audit", "run", "--candidate=/base/tuned"]


@pytest.fixture
def api() -> Iterator[JobApi]:
    with job_api() as served:
        yield served


@pytest.fixture
def workspace(folder: Path) -> Workspace:
    return Workspace.open(folder, create=True)


def jobs_of(workspace: Workspace, api: JobApi, base: Path | None = None, **more: Any) -> Jobs:
    return Jobs(workspace, base=base or Path("/"), address="10.0.0.1:6379", dashboard=api.url, **more)


class TestSubmit:
    def test_what_ray_is_given(self, workspace: Workspace, api: JobApi, tmp_path: Path) -> None:
        done = jobs_of(workspace, api, tmp_path, python="py thon").submit("audit", WORDS, asked={"candidate": "tuned"})
        (sent,) = api.jobs.values()
        assert sent["submission_id"] == done.run_id
        assert not done.was_under_way
        words = shlex.split(sent["entrypoint"])
        common = ["exec", "py thon", "-m", "raylens", f"--workspace={workspace.url}"]
        assert words == [*common, *WORDS, f"--run-id={done.run_id}", "--address=10.0.0.1:6379", "--json"]
        environment = sent["runtime_env"]["env_vars"]
        assert environment["RAYLENS_API_TOKEN"] == ""
        assert environment["RAYLENS_BASE_DIR"] == str(tmp_path)  # A2.16
        assert sent["runtime_env"]["working_dir"].startswith("gcs://")  # of an empty folder
        kept = workspace.files.read_json(f"{FOLDER}/{done.run_id}.json")
        assert kept["asked"] == {"candidate": "tuned"}

    def test_the_same_is_started_once_while_it_is_under_way(self, workspace: Workspace, api: JobApi) -> None:
        first, second = jobs_of(workspace, api), jobs_of(workspace, api)  # two gateways
        found: list[Any] = []
        threads = [
            threading.Thread(target=lambda one=one: found.append(one.submit("audit", WORDS)))
            for one in [first, second] * 10
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 20
        assert len({one.run_id for one in found}) == 1
        assert sum(not one.was_under_way for one in found) == 1
        assert list(api.jobs) == [found[0].run_id]

        api.end(found[0].run_id, "SUCCEEDED")
        again = first.submit("audit", WORDS)
        assert not again.was_under_way
        assert again.run_id != found[0].run_id
        assert first.submit("audit", [*WORDS, "--again"]).run_id not in (again.run_id, found[0].run_id)

    def test_who_crashed_between_writing_and_giving_is_helped(self, workspace: Workspace, api: JobApi) -> None:
        """The record is there, and Ray never heard of it: whoever asks for the same gives it."""
        done = jobs_of(workspace, api).submit("audit", WORDS)
        del api.jobs[done.run_id]
        assert jobs_of(workspace, api).status(done.run_id).status == "queued"
        again = jobs_of(workspace, api).submit("audit", WORDS)
        assert again == type(done)(done.run_id, was_under_way=True)
        assert list(api.jobs) == [done.run_id]

    def test_no_more_than_memory_holds(self, workspace: Workspace, api: JobApi) -> None:
        jobs = jobs_of(workspace, api)
        started = [jobs.submit("audit", [*WORDS, f"--title={n}"]).run_id for n in range(MOST)]
        with pytest.raises(OverloadedError, match="4 runs are under way"):
            jobs.submit("audit", [*WORDS, "--title=more"])
        assert jobs.submit("audit", [*WORDS, "--title=0"]).was_under_way
        api.end(started[1], "FAILED", "error: no. hint: yes.", 2)
        jobs.submit("audit", [*WORDS, "--title=more"])

    def test_where_ray_takes_none_nothing_is_under_way(self, workspace: Workspace, api: JobApi) -> None:
        api.refuses = True
        with pytest.raises(OverloadedError, match="does not take jobs"):
            jobs_of(workspace, api).submit("audit", WORDS)
        assert api.jobs == {}
        api.refuses = False
        jobs_of(workspace, api).submit("audit", WORDS)
        assert len(api.jobs) == 1

    def test_where_no_cluster_answers_nothing_is_written(self, workspace: Workspace) -> None:
        with job_api() as gone:
            jobs = jobs_of(workspace, gone)
        with pytest.raises(OverloadedError):
            jobs.submit("audit", WORDS)
        assert workspace.files.list(FOLDER) == ()

    def test_control_characters_are_refused(self, workspace: Workspace, api: JobApi) -> None:
        for bad in ("--title=a\nb", "--title=\0", "--title=\x1b[2J"):
            with pytest.raises(InputError, match="control character"):
                jobs_of(workspace, api).submit("audit", [*WORDS, bad])
        assert api.jobs == {}

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs", "Cc"])))
    )
    def test_a_shell_gives_every_word_as_it_was(self, tmp_path_factory: Any, values: list[str]) -> None:
        """Whatever a client writes: a real shell runs the line, and a stand-in prints what it was given."""
        folder = tmp_path_factory.mktemp("shell")
        stand_in = folder / "it's a python"
        stand_in.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
        stand_in.chmod(0o755)
        words = [f"--title={value}" for value in values]
        with job_api() as api:
            workspace = Workspace.open(folder / "work space", create=True)
            jobs_of(workspace, api, python=str(stand_in)).submit("explain", ["explain", *words], then=["score", *words])
            (sent,) = api.jobs.values()
        said = subprocess.run(["sh", "-c", sent["entrypoint"]], capture_output=True, check=True).stdout.decode()
        given_words = said.split("\0")[:-1]
        second = given_words.index("-m", 1)
        for one, name in ((given_words[:second], "explain"), (given_words[second:], "score")):
            assert one[:4] == ["-m", "raylens", f"--workspace={workspace.url}", name]
            assert one[4:-3] == words
            assert [word.partition("=")[0] for word in one[-3:]] == ["--run-id", "--address", "--json"]


class TestFollow:
    def test_what_its_run_wrote_is_found_by_whoever_comes(self, workspace: Workspace, api: JobApi) -> None:
        run_id = jobs_of(workspace, api).submit("audit", WORDS).run_id
        api.jobs[run_id]["status"] = "RUNNING"
        with RunJournal.start(workspace.files, "audit", {}, run_id=run_id) as journal:
            journal.progress(done=1, total=6)
            journal.beat()
            state = jobs_of(workspace, api).status(run_id)  # of a gateway that has just started
            assert state.status == "running"
            assert state.begun[0].progress == {"done": 1, "total": 6}
            journal.finish({"session": "s", "run": "r"})
        assert jobs_of(workspace, api).status(run_id).status == "succeeded"

    def test_an_end_is_known_when_the_cluster_is_gone(self, workspace: Workspace) -> None:
        with job_api() as api:
            jobs = jobs_of(workspace, api)
            failed = jobs.submit("audit", WORDS).run_id
            api.end(failed, "FAILED", "error: it broke. hint: mend it.\n", 1)
            assert jobs.status(failed).status == "failed"
            open_ = jobs.submit("audit", [*WORDS, "--title=open"]).run_id
            with RunJournal.start(workspace.files, "audit", {}, run_id=open_, beat_s=1e6):
                died = workspace.files.read_json(f"runs/{open_}.json")
        died["process"]["started"] = "another process of this id"
        workspace.files.commit_json(f"runs/{open_}.json", died)
        after = jobs_of(workspace, api)
        assert (after.status(failed).status, after.status(failed).error) == ("failed", "it broke.")
        lost = after.status(open_)
        assert lost.status == "lost"
        assert "goes on" in lost.hint
        assert {job.record.run_id: job.status for job in after.all()} == {failed: "failed", open_: "lost"}

    def test_the_log(self, workspace: Workspace, api: JobApi) -> None:
        jobs = jobs_of(workspace, api)
        run_id = jobs.submit("audit", WORDS).run_id
        api.jobs[run_id]["logs"] = "a\nb\n"
        assert jobs.logs(run_id) == ["a", "b"]
        with pytest.raises(UnknownNameError):
            jobs.logs("audit-0123456789abcdef-7")
        del api.jobs[run_id]
        with pytest.raises(UnknownNameError, match="no log"):
            jobs.logs(run_id)

    def test_stopping(self, workspace: Workspace, api: JobApi) -> None:
        jobs = jobs_of(workspace, api)
        queued = jobs.submit("audit", WORDS).run_id
        assert jobs.stop(queued).status == "stopped"
        assert api.stopped == [queued]
        at_work = jobs.submit("audit", [*WORDS, "--again"]).run_id
        api.jobs[at_work]["status"] = "RUNNING"
        with RunJournal.start(workspace.files, "audit", {}, run_id=at_work) as journal:
            assert jobs.stop(at_work).status == "running"  # it ends at the next piece
            assert stop_requested(workspace.files, at_work)
            assert api.stopped == [queued]
            journal.stopped()
        assert jobs.stop(at_work).status == "stopped"
        assert find_run(workspace.files, at_work).status == "stopped"
        never_given = jobs.submit("audit", [*WORDS, "--title=x"]).run_id
        del api.jobs[never_given]
        assert jobs.stop(never_given).status == "stopped"
        assert jobs_of(workspace, api).status(never_given).status == "stopped"
        with pytest.raises(UnknownNameError):
            jobs.stop("audit-0123456789abcdef-7")

    def test_one_bad_file_hides_no_other(self, workspace: Workspace, api: JobApi) -> None:
        jobs = jobs_of(workspace, api)
        run_id = jobs.submit("audit", WORDS).run_id
        workspace.files.commit(f"{FOLDER}/audit-0123456789abcdef-1.json", b"{")
        workspace.files.commit(f"{FOLDER}/note.txt", b"mine")
        workspace.files.commit(f"{FOLDER}/{run_id}.end.json", b"{")
        assert [(job.record.run_id, job.status) for job in jobs.all()] == [(run_id, "queued")]
        jobs.submit("audit", [*WORDS, "--title=x"])


def test_who_is_killed_as_it_asks_leaves_a_run_that_is_found(workspace: Workspace, api: JobApi) -> None:
    """kill -9 of a gateway anywhere in ``submit``: the job is started once, by it or by who asks next."""
    script = (
        "import sys; from pathlib import Path; from raylens.store.workspace import Workspace\n"
        "from raylens_serve.job_submission import Jobs\n"
        "jobs = Jobs(Workspace.open(sys.argv[1]), base=Path('/'), address='a', dashboard=sys.argv[2])\n"
        "print('ready', flush=True)\n"
        f"print(jobs.submit('audit', {WORDS!r}).run_id, flush=True)\n"
    )
    started = []
    for delay in (0.0, 0.006):
        words = [sys.executable, "-c", script, workspace.url, api.url]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)  # a point that nobody chose
        process.kill()
        process.wait()
        written = {job.record.run_id for job in jobs_of(workspace, api).all()} - set(started)
        done = jobs_of(workspace, api).submit("audit", WORDS)
        assert written <= {done.run_id}
        assert done.was_under_way == bool(written)
        started.append(done.run_id)
        assert list(api.jobs) == started
        api.end(done.run_id, "SUCCEEDED")
