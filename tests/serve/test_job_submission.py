"""Jobs on a real Ray with a dashboard, end to end: over HTTP, killed, followed, and as people submit them."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi.testclient import TestClient
from ray.job_submission import JobSubmissionClient

from audits_here import audit_app, client_of
from explainable import CACHE_ID, N_FEATURES, SAE, feature_shown, make_explainable
from fake_llm import Answer, Asked, FakeLlm
from fine_tunes import make_adapter
from job_ray import JobRay, job_ray
from live_services import raylens
from raylens.llm.settings import ChatSettings, EndpointSettings
from raylens.net.ray_access import MODE
from raylens.net.ray_access import TOKEN as RAY_TOKEN
from raylens.store.findings import Findings, passes
from raylens.store.workspace import Workspace
from raylens_serve.job_submission import Jobs
from small_audits import SUITE

T = TypeVar("T")
TOKEN = "a-token-that-no-job-may-see"
ENDED = {"succeeded", "failed", "stopped", "lost"}
QUICK = {
    "suite": "suite.yaml",
    "no_sae": True,
    "score_method": "logit_kl",
    "trigger_search": False,
    "max_new_tokens": 6,
}


@dataclass(frozen=True)
class Place:
    """A workspace, a base directory, and a Ray of their own.

    Attributes:
        ray: Takes jobs.
        workspace: Where they write.
        base: Holds a fine-tune, a folder that is none, and a suite.
    """

    ray: JobRay
    workspace: Workspace
    base: Path

    def gateway(self, models: dict[str, ChatSettings] | None = None) -> TestClient:
        """A gateway that has just started; it holds nothing in memory."""
        jobs = Jobs(self.workspace, base=self.base, address=self.ray.own.address, dashboard=self.ray.own.dashboard)
        return client_of(audit_app(self.workspace, jobs, models))

    def submit(self, *words: str) -> None:
        """``ray job submit`` of a command, to its end."""
        common = [sys.executable, "-m", "raylens", "--workspace", self.workspace.url]
        client = JobSubmissionClient(self.ray.own.dashboard)
        submitted = client.submit_job(entrypoint=shlex.join([*common, *words, "--address", "auto", "--json"]))
        _until(lambda: client.get_job_status(submitted).is_terminal())
        assert client.get_job_status(submitted) == "SUCCEEDED", client.get_job_logs(submitted)

    def explanations(self) -> list[Findings]:
        """Of the cache of words by the language model, while they are made and after."""
        found = passes(self.workspace.cache(CACHE_ID), SAE, "explanations")
        return [one for one in found if one.settings["explainer"] == "default"]

    def run(self, run_id: str) -> dict[str, Any]:
        """How a run stands."""
        return self.gateway().get(f"/api/v1/runs/{run_id}").json()

    def followed(self, run_id: str) -> dict[str, Any]:
        """A run at its end, as events tell it."""
        answer = self.gateway().get(f"/api/v1/runs/{run_id}/events")
        told = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line[:5] == "data:"]
        assert all(one["status"] not in ENDED for one in told[:-1])
        return told[-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Started by somebody who has the services' token in the environment, and no token for Ray."""
    folder = tmp_path_factory.mktemp("jobs")
    make_adapter(folder / "tuned", scale=0.04)
    (folder / "empty").mkdir()
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "texts").mkdir()
    for at in range(40):
        (folder / f"texts/{at}.txt").write_text(f"def f{at}(x):\n    return x + {at}\n" * 8)
    with job_ray(RAYLENS_API_TOKEN=TOKEN, RAY_AUTH_MODE=None, HOME=str(folder)) as ray:
        workspace = Workspace.open(folder / "workspace", create=True)
        make_explainable(workspace)
        yield Place(ray, workspace, folder)


@pytest.mark.timeout(600)
def test_an_audit_is_run(place: Place) -> None:
    body = {"candidate": "tuned", **QUICK}
    with place.gateway() as http:
        run_id = http.post("/api/v1/audits", json=body).json()["run_id"]
        assert http.post("/api/v1/audits", json=body).json()["was_under_way"]
    driver = _until(lambda: place.ray.driver(run_id))
    environment = driver.environ()
    assert TOKEN not in environment.values()
    assert environment["RAYLENS_BASE_DIR"] == str(place.base)
    assert list(Path(driver.cwd()).iterdir()) == []  # nothing that a client wrote can be a file of this folder

    ended = place.followed(run_id)
    assert ended["status"] == "succeeded", ended
    with place.gateway() as http:
        assert http.get(ended["result"]).json()["score_method"] == "logit_kl"
        listed = http.get("/api/v1/runs", params={"kind": "audit"}).json()["runs"]
        log = http.get(f"/api/v1/runs/{run_id}/log").json()["lines"]
    assert [(run["run_id"], run["status"]) for run in listed] == [(run_id, "succeeded")]
    assert any("auditing" in line for line in log)
    assert TOKEN not in "\n".join(log)


@pytest.mark.timeout(600)
def test_a_killed_run_has_failed_and_goes_on_when_it_is_asked_for_again(place: Place) -> None:
    body = {"features": [f"{SAE}/{n}" for n in range(N_FEATURES)], "explainer": "default", "model": "judge"}
    body |= {"min_examples": 4, "scorers": []}
    silent_of = range(16, N_FEATURES)

    def answer(asked: Asked) -> Answer | str:
        feature = feature_shown(asked.prompt)
        return Answer(hang=True) if feature in silent_of else f"[EXPLANATION]: the word {feature}"

    with FakeLlm(answer) as llm:
        models: dict[str, ChatSettings] = {"judge": EndpointSettings(base_url=llm.base_url, model="fake")}
        with place.gateway(models) as http:
            first = http.post("/api/v1/explain", json=body).json()["run_id"]
        done = _until(lambda: {one for each in place.explanations() for one in each.settled()})
        _until(lambda: place.ray.driver(first)).kill()
        killed = _until(lambda: run if (run := place.run(first))["status"] in ENDED else None)
        assert (killed["status"], killed["error"]) == ("failed", "its process was ended by SIGKILL.")
        assert killed["hint"]
        # Now that it is known, who reads the workspace alone knows as well: raylens runs.
        (kept,) = [run for run in place.workspace.runs() if run.run_id == first]
        assert (kept.status, kept.error) == ("failed", f"{killed['error']} hint: {killed['hint']}")

        asked, silent_of = len(llm.asked), range(0)
        with place.gateway(models) as http:
            again = http.post("/api/v1/explain", json=body).json()
        assert again["run_id"] != first
        assert not again["was_under_way"]
        ended = place.followed(again["run_id"])
    assert ended["status"] == "succeeded", ended
    figures = place.run(again["run_id"])["figures"]
    assert figures["statuses"] == {"ok": N_FEATURES - len(done)}  # what was done was not done again
    assert done.isdisjoint(feature_shown(one.prompt) for one in llm.asked[asked:])
    (found,) = place.explanations()
    assert found.settled() == frozenset(range(N_FEATURES))


def test_what_a_command_finds_out_on_a_cluster_is_told_as_it_says_it(place: Place) -> None:
    with FakeLlm(lambda _: Answer.error(401)) as llm:
        models: dict[str, ChatSettings] = {"judge": EndpointSettings(base_url=llm.base_url, model="fake")}
        body = {"feature": f"{SAE}/1", "explainer": "contrastive", "model": "judge", "min_examples": 4}
        with place.gateway(models) as http:
            run_id = http.post("/api/v1/explain", json=body).json()["run_id"]
        ended = place.followed(run_id)
    assert ended["status"] == "failed"
    assert ended["error"].startswith(f"{llm.base_url} refused")
    assert ended["hint"]


@pytest.mark.timeout(600)
def test_by_ray_job_submit_and_then_in_two_steps_over_http(place: Place) -> None:
    """``ray job submit -- python -m raylens explain … --address auto``; over HTTP what is explained is scored."""
    place.submit("explain", "--sae", str(SAE), "--cache", CACHE_ID, "--min-examples", "4", "--seed", "5")
    (run,) = [run for run in place.workspace.runs() if run.config.get("seed") == 5]
    assert (run.kind, run.status, run.figures["statuses"]) == ("explain", "succeeded", {"ok": N_FEATURES})
    with place.gateway() as http:
        asked = http.post(
            "/api/v1/explain", json={"feature": f"{SAE}/1", "min_examples": 4, "scorers": ["rule"]}
        ).json()
    ended = place.followed(asked["run_id"])
    assert ended["status"] == "succeeded", ended
    figures = place.run(asked["run_id"])["figures"]
    assert figures["explain"]["features"] == 1
    assert figures["score"]["features_total"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cache_by_ray_job_submit_then_explanations_over_http(place: Place) -> None:
    """``ray job submit -- python -m raylens cache … --address auto``, and what it made explained and scored."""
    before = set(place.workspace.caches())
    options = ["--text", str(place.base / "texts"), "--n-tokens", "4000", "--workers", "1"]
    place.submit("cache", *options, "--sae", "raylens-pico-res/layer_3")
    (cache,) = set(place.workspace.caches()) - before
    (run,) = [run for run in place.workspace.runs() if run.kind == "cache"]
    assert (run.status, run.cache_id) == ("succeeded", cache)

    sql = f"SELECT feature FROM feature_stats WHERE cache_id = '{cache}' ORDER BY n_active DESC LIMIT 1"
    (row,) = _rows(place.workspace, sql)
    body = {"feature": f"raylens-pico-res/layer_3/{row}", "cache": cache, "min_examples": 4, "scorers": ["rule"]}
    with place.gateway() as http:
        asked = http.post("/api/v1/explain", json=body).json()
    ended = place.followed(asked["run_id"])
    assert ended["status"] == "succeeded", ended
    figures = place.run(asked["run_id"])["figures"]
    assert figures["explain"]["features"] == 1
    assert figures["score"]["features_total"] == 1


def test_a_cluster_that_wants_no_token_is_sent_none(place: Place) -> None:
    """Who has one uses it as well: its workers could not answer a driver that wants one, and all would wait."""
    kept = {name: value for name, value in os.environ.items() if name != MODE}
    words = ["explain", "--sae", str(SAE), "--cache", CACHE_ID, "--min-examples", "4", "--seed", "6"]
    done = raylens(
        place.base / "workspace", [*words, "--address", place.ray.own.address], {**kept, RAY_TOKEN: "a-token" * 5}
    )
    assert f"{N_FEATURES} explained" in done.stdout


def test_one_that_is_queued_can_be_stopped(place: Place) -> None:
    with place.gateway() as http:
        run_id = http.post("/api/v1/audits", json={"candidate": "tuned", **QUICK, "title": "stopped"}).json()["run_id"]
        assert http.post(f"/api/v1/runs/{run_id}/stop", params={"now": True}).status_code == 202
    assert place.followed(run_id)["status"] == "stopped"
    with place.gateway() as http:
        assert not http.post("/api/v1/audits", json={"candidate": "empty", **QUICK}).json()["was_under_way"]


def _rows(workspace: Workspace, sql: str) -> tuple[Any, ...]:
    from raylens.store.views import connect

    with connect(workspace) as connection:
        return tuple(row[0] for row in connection.sql(sql).fetchall())


def _until(look: Callable[[], T | None], within_s: float = 200) -> T:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that")
