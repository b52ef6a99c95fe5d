"""Audits and other runs: what there is, and what is to be made."""

from __future__ import annotations

from typing import Any

from raylens.api.audits import AuditOut, AuditPage, Calibrations, EvidencePage, Suites
from raylens.api.runs import RunLog, RunOut, RunPage, Started
from raylens.client.http import Http


class Audits:
    """Methods about audits; made by :class:`raylens.client.Client`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, **filters: Any) -> AuditPage:
        """Finished audits, the latest first; filters: ``session``, ``verdict``, ``limit``, ``offset``."""
        return self._http.get("/api/v1/audits", AuditPage, filters)

    def start(self, candidate: str, **options: Any) -> Started:
        """Have a candidate audited; options of :class:`raylens.api.audit_request.AuditRequest`."""
        return self._http.post("/api/v1/audits", Started, {"candidate": candidate, **options})

    def audit(self, session: str, run: str) -> AuditOut:
        """One audit: its decision, score, coverage."""
        return self._http.get(f"/api/v1/audits/{session}/{run}", AuditOut)

    def report(self, session: str, run: str, form: str = "md") -> str:
        """Its report, ``md`` or ``html``."""
        return self._http.text(f"/api/v1/audits/{session}/{run}/report", {"format": form})

    def evidence(self, session: str, run: str, *, limit: int = 100, offset: int = 0) -> EvidencePage:
        """Features that changed, a page of them."""
        path = f"/api/v1/audits/{session}/{run}/evidence"
        return self._http.get(path, EvidencePage, {"limit": limit, "offset": offset})

    def artefact(self, session: str, run: str, name: str) -> str:
        """One of its files, as it is stored."""
        return self._http.text(f"/api/v1/audits/{session}/{run}/artefacts/{name}")

    def calibrations(self) -> Calibrations:
        """What candidates can be compared with."""
        return self._http.get("/api/v1/calibrations", Calibrations)

    def suites(self) -> Suites:
        """Suites that may be named."""
        return self._http.get("/api/v1/suites", Suites)


class Runs:
    """Methods about runs; made by :class:`raylens.client.Client`."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def list(self, **filters: Any) -> RunPage:
        """Runs of the workspace, the latest first; filters: ``status``, ``kind``, ``limit``, ``offset``."""
        return self._http.get("/api/v1/runs", RunPage, filters)

    def run(self, run_id: str) -> RunOut:
        """How one is."""
        return self._http.get(f"/api/v1/runs/{run_id}", RunOut)

    def log(self, run_id: str, tail: int | None = None) -> RunLog:
        """What it said last."""
        return self._http.get(f"/api/v1/runs/{run_id}/log", RunLog, {"tail": tail})

    def stop(self, run_id: str, *, now: bool = False) -> RunOut:
        """Have it end after the piece at hand; ``now`` is like Ctrl-C."""
        path = f"/api/v1/runs/{run_id}/stop"
        return self._http.post(f"{path}?now=true" if now else path, RunOut, {})

    def explain(self, **asked: Any) -> Started:
        """Have features explained and scored: see :class:`raylens.api.runs.ExplainRequest`."""
        return self._http.post("/api/v1/explain", Started, asked)
