"""Runs over HTTP: listed, followed and stopped, and features queued for explanation."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from audits_here import TOKEN, Here, audit_app, audits_here
from raylens.ids import SaeId
from raylens.llm.settings import EndpointSettings, OfflineSettings
from raylens.store.process import Process
from raylens.store.runs import RunJournal, RunRecord, stop_requested
from raylens_app.cli.main import main
from raylens_serve.job_submission import Jobs
from raylens_serve.label_server import LabelServer
from small_cache import CACHE_ID, SAE, make_cache

MODELS = {
    "judge": EndpointSettings(base_url="http://127.0.0.1:9/v1", model="some-judge", max_calls=5),
    "own": OfflineSettings(model="raylens/pico"),
}
OTHER = SaeId("tiny-res", "layer_9")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with audits_here(tmp_path, dict(MODELS)) as served:
        make_cache(served.workspace)
        yield served


def step(here: Here, run_id: str, kind: str, **figures: Any) -> None:
    """A step of a job that has gone well."""
    with RunJournal.start(here.workspace.files, kind, {}, run_id=run_id, cache_id=CACHE_ID) as journal:
        journal.finish(figures)


def dies(here: Here, run_id: str) -> None:
    """A run whose process is gone, and that could not say how it ended."""
    with RunJournal.start(here.workspace.files, "cache", {}, run_id=run_id, beat_s=1e6) as journal:
        kept = json.loads(journal.record.model_dump_json())
    kept |= {"process": {**kept["process"], "started": "another of this id"}}
    assert kept["process"]["machine"] == Process.current().machine
    here.workspace.files.commit_json(f"runs/{run_id}.json", kept)


class TestExplain:
    def words(self, here: Here, **asked: Any) -> list[list[str]]:
        """The two commands, without what every job has."""
        line = here.words(here.post("/explain", body=asked)["run_id"])
        return [shlex.split(one)[-len(shlex.split(one)) :] for one in line.split(" && ")]

    def test_features_are_explained_and_then_scored(self, here: Here) -> None:
        explain, score = self.words(here, features=["f_3_1", f"{SAE}/2", "f_3_1"], min_examples=2)
        place = [f"--sae={SAE}", f"--cache={CACHE_ID}", "--feature=1", "--feature=2"]
        assert explain[explain.index("explain") : -3] == [
            "explain",
            *place,
            "--explainer=lexical",  # asks nobody
            "--min-examples=2",
            "--seed=22",
        ]
        assert score[score.index("score") : -3] == ["score", *place, "--scorer=rule", "--scorer=embedding"]

    def test_one_feature_without_scores(self, here: Here) -> None:
        (explain,) = self.words(here, feature="f_3_1", scorers=[])
        assert "--feature=1" in explain

    def test_models_are_those_of_the_config(self, here: Here) -> None:
        explain, score = self.words(here, feature="f_3_1", explainer="default", scorers=["detection"], model="judge")
        assert {"--explainer-model=some-judge", "--provider=openai", "--base-url=http://127.0.0.1:9/v1"} <= {*explain}
        assert {"--judge-model=some-judge", "--max-calls=5"} <= {*score}
        explain, score = self.words(here, feature="f_3_1", explainer="default", model="own")
        assert {"--explainer-model=raylens/pico", "--provider=offline"} <= {*explain}
        assert not any("judge" in word for word in score)  # rule and embedding ask nobody

    @pytest.mark.parametrize(
        ("asked", "status", "says"),
        [
            ({"feature": "f_3_1", "explainer": "default"}, 422, "none is named"),
            ({"feature": "f_3_1", "scorers": ["fuzz"]}, 422, "none is named"),
            ({"feature": "f_3_1", "model": "http://169.254.169.254/"}, 404, "unknown language model"),  # no SSRF
            ({"feature": "f_3_1", "base_url": "http://169.254.169.254/"}, 422, "base_url is not valid"),
            ({"feature": "f_3_99"}, 404, "there is no feature f_3_99"),
            ({"feature": "f_4_1"}, 404, "unknown layer"),
            ({"feature": "f_3_1", "cache": "nope"}, 404, "unknown cache"),
            ({"feature": "--sae"}, 422, "is not a feature id"),
            ({}, 422, "give one of feature and features"),
            ({"feature": "f_3_1", "features": ["f_3_2"]}, 422, "give one of"),
            ({"features": []}, 422, "features is not valid"),
            ({"feature": "f_3_1", "scorers": ["vibes"]}, 422, "scorers"),
        ],
    )
    def test_what_cannot_be_is_refused(self, here: Here, asked: dict[str, Any], status: int, says: str) -> None:
        said = here.post("/explain", status, body=asked)
        assert says in said["error"]
        assert said["hint"]
        assert here.api.jobs == {}

    def test_features_of_two_saes_are_two_requests(self, here: Here) -> None:
        make_cache(here.workspace, sae=OTHER, cache_id="fedcba9876543210")
        said = here.post("/explain", 422, body={"features": [f"{SAE}/1", f"{OTHER}/1"]})
        assert "of 2 SAEs" in said["error"]


class TestRuns:
    def test_those_of_the_command_line_and_submitted_ones(self, here: Here) -> None:
        with RunJournal.start(here.workspace.files, "cache", {"n_tokens": 10}) as journal:
            journal.progress(tokens=3, tokens_wanted=10)
        asked = here.post("/explain", body={"feature": "f_3_1"})["run_id"]
        here.api.jobs[asked]["status"] = "RUNNING"
        step(here, asked, "explain", features=1)
        found = here.get("/runs")
        assert found["total"] == 2  # the steps of a job are no runs of their own
        job, cache = found["runs"]
        assert (job["run_id"], job["status"], job["kind"], job["cache_id"]) == (asked, "running", "explain", CACHE_ID)
        assert (cache["kind"], cache["status"], cache["progress"][0]["done"]) == ("cache", "succeeded", 3)
        step(here, f"{asked}-score", "score", scored=1)
        done = here.get(f"/runs/{asked}")
        assert done["status"] == "succeeded"
        assert done["figures"] == {"explain": {"features": 1}, "score": {"scored": 1}}
        assert done["finished_at"]
        assert [row["run_id"] for row in here.get("/runs", status="succeeded", kind="explain")["runs"]] == [asked]
        page = here.get("/runs", limit=1)
        assert (page["next_offset"], len(here.get("/runs", limit=1, offset=1)["runs"])) == (1, 1)

    def test_one_whose_process_is_gone_is_lost(self, here: Here) -> None:
        dies(here, "cache-1")
        assert here.get("/runs/cache-1")["status"] == "lost"

    def test_the_command_line_says_the_same_of_each(self, here: Here, capsys: Any) -> None:
        """Also of a job that was killed, of which Ray alone knows how it ended."""
        files = here.workspace.files
        with RunJournal.start(files, "cache", {}, run_id="cache-went-well"):
            pass
        with pytest.raises(KeyboardInterrupt), RunJournal.start(files, "cache", {}, run_id="cache-stopped"):
            raise KeyboardInterrupt
        with pytest.raises(OSError), RunJournal.start(files, "cache", {}, run_id="cache-failed"):
            raise OSError("no room")
        killed = here.post("/explain", body={"feature": "f_3_1", "scorers": []})["run_id"]
        for run_id in ("cache-lost", killed):
            dies(here, run_id)
        here.api.end(killed, "FAILED", "Job entrypoint command failed", -9)
        over_http = {run["run_id"]: run for run in here.get("/runs")["runs"]}
        assert main(["--workspace", here.workspace.url, "runs", "--json"]) == 0
        by_command = {run["run_id"]: run for run in json.loads(capsys.readouterr().out)}
        words = {run_id: run["status"] for run_id, run in over_http.items()}
        assert words == {run_id: run["status"] for run_id, run in by_command.items()}
        assert words == {
            "cache-went-well": "succeeded",
            "cache-stopped": "stopped",
            "cache-failed": "failed",
            "cache-lost": "lost",
            killed: "failed",
        }
        said = over_http[killed]
        assert said["error"] == "its process was ended by SIGKILL."
        assert by_command[killed]["error"] == f"{said['error']} hint: {said['hint']}"
        assert here.get(f"/runs/{killed}")["error"] == said["error"]  # also now that it is noted

    def test_failed_ones_say_why(self, here: Here) -> None:
        with RunJournal.start(here.workspace.files, "train", {"token": "secret"}) as journal:
            journal.fail("it broke. hint: mend it.")
        said = here.get(f"/runs/{journal.run_id}")
        assert (said["status"], said["error"], said["hint"]) == ("failed", "it broke.", "mend it.")
        assert "token" not in said["asked"]

    def test_an_audit_leads_to_what_it_found(self, here: Here) -> None:
        with RunJournal.start(here.workspace.files, "audit", {}) as journal:
            journal.finish({"session": "s", "run": "r"})
        assert here.get(f"/runs/{journal.run_id}")["result"] == "/api/v1/audits/s/r"

    def test_stopping(self, here: Here) -> None:
        with RunJournal.start(here.workspace.files, "cache", {}) as journal:
            assert here.post(f"/runs/{journal.run_id}/stop")["status"] == "running"
            assert stop_requested(here.workspace.files, journal.run_id)
        asked = here.post("/explain", body={"feature": "f_3_1"})["run_id"]
        assert here.post(f"/runs/{asked}/stop")["status"] == "stopped"
        assert here.api.stopped == [asked]

    def test_logs(self, here: Here) -> None:
        asked = here.post("/explain", body={"feature": "f_3_1"})["run_id"]
        here.api.jobs[asked]["logs"] = "".join(f"line {n}\n" for n in range(500))
        said = here.get(f"/runs/{asked}/log", tail=2)
        assert (said["lines"], said["n_lines"]) == (["line 498", "line 499"], 500)
        with RunJournal.start(here.workspace.files, "cache", {}) as journal:
            pass
        assert "command line" in here.get(f"/runs/{journal.run_id}/log", 404)["hint"]

    @pytest.mark.parametrize("path", ["", "/log", "/events"])
    @pytest.mark.parametrize("run_id", ["none", "audit-0123456789abcdef-1"])
    def test_there_is_no_such_run(self, here: Here, path: str, run_id: str) -> None:
        assert f"there is no run {run_id!r}" in here.get(f"/runs/{run_id}{path}", 404)["error"]
        here.get(f"/runs/..{path}", 404)
        here.get(f"/runs/-x{path}", 422)


class TestEvents:
    """Over a real server: events come while the run goes on."""

    def test_to_the_end(self, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("raylens_serve.routes.runs.POLL_S", 0.05)
        jobs = Jobs(here.workspace, base=here.base, address="10.0.0.1:6379", dashboard=here.api.url)
        heard: list[dict[str, Any]] = []
        begun = threading.Event()
        journal = RunJournal.start(here.workspace.files, "cache", {}, beat_s=0.05)

        def work() -> None:
            with journal:
                begun.wait(30)
                for done in (1, 2):
                    journal.progress(done=done, total=2)
                    _until(lambda done=done: any(p["done"] == done for one in heard for p in one["progress"]))

        thread = threading.Thread(target=work)
        thread.start()
        app = audit_app(here.workspace, jobs)
        with LabelServer(app) as server, httpx.Client(trust_env=False, timeout=60) as http:
            url = f"{server.url}/v1/runs/{journal.run_id}/events"
            with http.stream("GET", url, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        heard.append(json.loads(line.removeprefix("data: ")))
                        begun.set()
        thread.join()
        assert heard[0]["status"] == "running"
        assert heard[-1]["status"] == "succeeded"
        assert [p["done"] for one in heard for p in one["progress"]][-1] == 2
        assert all(a != b for a, b in pairwise(heard))

    def test_of_one_that_has_ended_there_is_one(self, here: Here) -> None:
        with RunJournal.start(here.workspace.files, "cache", {}) as journal:
            pass
        answer = here.http.get(f"/api/v1/runs/{journal.run_id}/events")
        assert answer.text.count("data: ") == 1


def _until(holds: Any) -> None:
    waited = threading.Event()
    for _ in range(600):
        if holds():
            return
        waited.wait(0.05)
    raise AssertionError("it did not come to that")


def test_records_are_of_this_version() -> None:
    """What runs of the command line write is what is shown."""
    assert {"run_id", "kind", "status", "progress", "figures", "error"} <= set(RunRecord.model_fields)
