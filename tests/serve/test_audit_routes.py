"""Audits over HTTP: what was found, and asking for another one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from audit_runs import calibration, store_run, texts_of
from audits_here import Here, audits_here
from raylens.api.audits import Artefact, ChangedFeature
from raylens.audit.feature_rows import FeatureRow
from raylens.store.audit_calibrations import save_calibration
from raylens.store.audit_files import NAMES
from raylens.store.audit_store import AuditStore

SUITE = 'name: two\nprompts:\n  - {id: add, text: "def add(a, b):\\n"}\n  - {id: one, text: "def one():\\n"}\n'


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    """Three audits in two sessions, one of them unfinished; a candidate and a suite in the base directory."""
    folder = tmp_path_factory.mktemp("audits")
    with audits_here(folder) as served:
        store = AuditStore(served.workspace.files)
        store_run(store, "first", "tuned-1f")
        store_run(store, "first", "plain", with_sae=False, score=0.041)
        store_run(store, "second", "tuned-2a")
        with store.write_run("second", "begun", "audit-7"):
            pass
        (served.base / "tuned").mkdir()
        (served.base / "two.yaml").write_text(SUITE)
        (served.base / "out").symlink_to("/etc")
        yield served


class TestReading:
    def test_list(self, here: Here) -> None:
        found = here.get("/audits")
        assert found["total"] == 4
        assert found["next_offset"] is None
        rows = {row["run"]: row for row in found["audits"]}
        assert (rows["begun"]["state"], rows["begun"]["verdict"]) == ("unfinished", None)
        assert (rows["tuned-1f"]["state"], rows["tuned-1f"]["verdict"]) == ("finished", "flagged")
        assert rows["tuned-1f"]["n_benign"] == 100  # A2.18
        assert found["audits"][0]["run"] == "begun"  # the latest first
        assert [row["run"] for row in here.get("/audits", session="first")["audits"]] == ["plain", "tuned-1f"]
        assert [row["run"] for row in here.get("/audits", verdict="not flagged")["audits"]] == ["plain"]
        assert "unknown session" in here.get("/audits", 404, session="third")["error"]

    def test_pages_hold_each_once(self, here: Here) -> None:
        seen, offset = [], 0
        while offset is not None:
            page = here.get("/audits", limit=1, offset=offset)
            assert len(page["audits"]) == 1
            seen += [row["run"] for row in page["audits"]]
            offset = page["next_offset"]
        assert sorted(seen) == ["begun", "plain", "tuned-1f", "tuned-2a"]
        assert here.get("/audits", offset=10)["audits"] == []
        assert len(here.get("/audits", verdict="flagged", limit=1)["audits"]) == 1

    def test_one(self, here: Here) -> None:
        found = here.get("/audits/first/tuned-1f")
        assert found["verdict"] == "flagged"
        assert found["coverage"]["line"] == "direct 1/2, proxy 1/2 (low-similarity 1)"  # A2.05
        assert found["sae"] == "raylens-pico-res/layer_4"
        assert set(found["files"]) == set(get_args(Artefact))
        assert found["reason"]
        plain = here.get("/audits/first/plain")
        assert (plain["coverage"], plain["sae"]) == (None, None)
        assert "interp_evidence.json" not in plain["files"]

    def test_features_that_changed(self, here: Here) -> None:
        page = here.get("/audits/first/tuned-1f/evidence", limit=1)
        assert (page["total"], page["next_offset"]) == (2, 1)
        assert page["features"][0]["explanation"] == "checks of certificates"
        rest = here.get("/audits/first/tuned-1f/evidence", offset=1)
        assert rest["features"][0]["proxy_low_similarity"] is True
        assert rest["next_offset"] is None
        assert set(ChangedFeature.model_fields) == set(FeatureRow.model_fields)
        assert "compared no features" in here.get("/audits/first/plain/evidence", 404)["error"]

    @pytest.mark.parametrize("name", [*NAMES, "run.json"])
    def test_files_are_those_that_are_stored(self, here: Here, name: str) -> None:  # A2.02
        answer = here.http.get(f"/api/v1/audits/first/tuned-1f/artefacts/{name}")
        stored = here.workspace.files.read_bytes(f"audits/first/runs/tuned-1f/{name}")
        assert answer.content == stored
        kinds = {"json": "application/json", "md": "text/markdown", "html": "text/html"}
        assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]

    def test_the_report(self, here: Here) -> None:
        for kind in ("md", "html"):
            answer = here.http.get("/api/v1/audits/first/tuned-1f/report", params={"format": kind})
            assert answer.text == texts_of("first", "tuned-1f")[f"report.{kind}"]
        policy = answer.headers["content-security-policy"]
        assert "script-src" not in policy  # none but default-src 'none'
        assert policy.endswith("sandbox")
        here.get("/audits/first/tuned-1f/report", 422, format="pdf")

    @pytest.mark.parametrize(
        ("path", "status", "says"),
        [
            ("/audits/first/none", 404, "there is no audit first/none"),
            ("/audits/none/none", 404, "there is no audit"),
            ("/audits/second/begun", 409, "is not finished"),
            ("/audits/second/begun/report", 409, "is not finished"),
            ("/audits/first/.hidden", 422, "cannot name a run"),
            ("/audits/first/tuned-1f/artefacts/run.lock", 422, "name"),
            ("/audits/first/tuned-1f/artefacts/..%2F..%2Fconfig_resolved.yaml", 404, "there is no"),
            ("/audits/..%2F..%2Fetc/passwd", 404, "there is no"),
        ],
    )
    def test_what_there_is_not(self, here: Here, path: str, status: int, says: str) -> None:
        said = here.get(path, status)
        assert says in said["error"]
        assert said["hint"]

    def test_calibrations(self, here: Here) -> None:
        shipped = here.get("/calibrations")["calibrations"]
        assert {row["source"] for row in shipped} == {"bundle"}
        assert shipped[0]["n"] >= 99
        save_calibration(here.workspace.files, calibration(5))
        rows = here.get("/calibrations")["calibrations"]
        assert len(rows) == len(shipped) + 1
        assert (rows[0]["source"], rows[0]["n"], len(rows[0]["families"])) == ("workspace", 5, 3)

    def test_suites(self, here: Here) -> None:
        assert {"minimal"} <= {row["name"] for row in here.get("/suites")["suites"]}

    def test_a_token_is_needed(self, here: Here) -> None:
        for path in ("/audits", "/calibrations", "/runs", "/audits/first/tuned-1f/report"):
            answer = here.http.get(f"/api/v1{path}", headers={"Authorization": "Bearer wrong"})
            assert answer.status_code == 401
        assert here.http.post("/api/v1/audits", json={}, headers={"Authorization": ""}).status_code == 401


class TestAsking:
    def words(self, here: Here, **asked: Any) -> list[str]:
        started = here.post("/audits", body={"candidate": "tuned", "no_sae": True, **asked})
        found = shlex.split(here.words(started["run_id"]))
        here.api.end(started["run_id"], "SUCCEEDED")
        return found[5:-3]

    def test_becomes_a_job(self, here: Here) -> None:
        body = {"candidate": "tuned", "suite": "two.yaml", "title": "A 'trial'; $(true)", "session": "s1"}
        started = here.post("/audits", body=body)
        assert started["status_url"] == f"/api/v1/runs/{started['run_id']}"
        assert not started["was_under_way"]
        words = shlex.split(here.words(started["run_id"]))[5:-3]
        assert words[:2] == ["audit", "run"]
        assert f"--candidate={here.base / 'tuned'}" in words
        assert f"--suite={here.base / 'two.yaml'}" in words  # a whole path: the command runs in an empty folder
        assert "--title=A 'trial'; $(true)" in words
        assert "--session=s1" in words
        assert not any(word.startswith("--sae") for word in words)  # the embedded model's
        assert here.get(started["status_url"].removeprefix("/api/v1"))["status"] == "queued"
        again = here.post("/audits", body=body)
        assert (again["run_id"], again["was_under_way"]) == (started["run_id"], True)
        here.api.end(started["run_id"], "FAILED", "error: it broke. hint: mend it.\n", 1)
        state = here.get(f"/runs/{started['run_id']}")
        assert (state["status"], state["error"], state["hint"]) == ("failed", "it broke.", "mend it.")
        assert state["asked"]["title"] == body["title"]

    def test_every_wish_is_one_word(self, here: Here) -> None:
        words = self.words(here, score_method="logit_kl", target_fpr=0.05, top_k=7, pooling="max", max_new_tokens=6)
        assert {"--score-method=logit_kl", "--target-fpr=0.05", "--top-k=7", "--pooling=max", "--no-sae"} <= {*words}
        flags = self.words(here, again=True, trigger_search=False, explain=False, override_guard=True, run="r1")
        assert {"--again", "--no-trigger-search", "--no-explain", "--override-guard", "--run=r1"} <= set(flags)
        assert self.words(here, candidate="owner/name")[2] == "--candidate=owner/name"  # of the hub

    @pytest.mark.parametrize(
        ("asked", "status", "says"),
        [
            ({"candidate": "/etc"}, 422, "lies outside the base directory"),  # A2.16
            ({"candidate": "../workspace"}, 422, "lies outside the base directory"),
            ({"candidate": "out"}, 422, "lies outside the base directory"),
            ({"candidate": "tuned/none/at/all"}, 422, "no folder inside the base directory"),
            ({"candidate": "--config=/etc/passwd"}, 422, "no folder inside"),
            ({"candidate": "https://example.org/model"}, 422, "is a URL"),
            ({"candidate": "a\nb"}, 422, "candidate is not valid"),
            ({"candidate": "tuned", "reference": "../x"}, 422, "lies outside"),
            ({"candidate": "tuned", "suite": "none.yaml"}, 404, "there is no suite"),
            ({"candidate": "tuned", "suite": "/etc/passwd"}, 422, "lies outside"),
            ({"candidate": "tuned", "suite": "out/hosts"}, 422, "lies outside"),
            ({"candidate": "tuned", "score_method": "vibes"}, 404, "unknown score method"),
            ({"candidate": "tuned", "session": "../up"}, 422, "cannot name a session"),
            ({"candidate": "tuned", "run": "-rf"}, 422, "cannot name a run"),
            ({"candidate": "tuned", "sae": "../x"}, 422, "lies outside"),
            ({"candidate": "tuned", "sae": "a/b", "no_sae": True}, 422, "exclude one another"),
            ({"candidate": "tuned", "reference": "owner/other"}, 422, "no SAE was named for owner/other"),
            ({"candidate": "tuned", "target_fpr": 1.5}, 422, "target_fpr is not valid"),
            ({"candidate": "tuned", "base_url": "http://10.0.0.1/v1"}, 422, "base_url is not valid"),
            ({}, 422, "candidate is not valid"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_starts(
        self, here: Here, asked: dict[str, Any], status: int, says: str
    ) -> None:
        before = dict(here.api.jobs)
        said = here.post("/audits", status, body=asked)
        assert says in said["error"]
        assert said["hint"]
        assert here.api.jobs == before


def test_where_there_is_no_cluster(tmp_path: Path) -> None:
    with audits_here(tmp_path) as served:
        served.api.refuses = True
        (served.base / "tuned").mkdir()
        answer = served.http.post("/api/v1/audits", json={"candidate": "tuned", "no_sae": True})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
