"""``/api/v1/audits``: what audits found, and asking for another one; ``/api/v1/calibrations`` and ``/suites``."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Response

from raylens.api.audit_request import AuditRequest
from raylens.api.audits import (
    Artefact,
    AuditOut,
    AuditPage,
    Calibrations,
    EvidencePage,
    SuiteRow,
    Suites,
    Verdict,
)
from raylens.api.runs import Started
from raylens.errors import BusyError, UnknownNameError
from raylens.store.audit_overview import audit_row, latest
from raylens.store.audit_paths import RunPlace
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from raylens.suites.shipped import shipped_names, shipped_suite
from raylens_serve.audit_views import audit_out, calibration_rows, evidence_page
from raylens_serve.commands import audit_words
from raylens_serve.job_submission import Jobs
from raylens_serve.responses import problems
from raylens_serve.routes.runs import started

_TYPES: Final = {"json": "application/json", "md": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8"}
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
"""A report is a page, and may hold what a model wrote: it runs nothing, fetches nothing, and is of no origin."""
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": _POLICY,
}
_TEXT: Final = {"schema": {"type": "string"}}

_Session = Annotated[str, Path(min_length=1, max_length=100, description="Of the audit.")]
_Run = Annotated[str, Path(min_length=1, max_length=100, description="Its name in the session.")]
_Offset = Annotated[int, Query(ge=0, le=2**31 - 1, description="How many are passed over.")]


def audit_routes(workspace: Workspace, jobs: Jobs) -> APIRouter:
    """The routes.

    Args:
        workspace: Whose audits.
        jobs: Makes them.
    """
    routes = APIRouter(prefix="/api/v1", tags=["audits"])
    files = workspace.files
    store = AuditStore(files)
    suites_shipped = tuple(map(_suite, shipped_names()))

    @routes.get("/audits", responses=problems(404))
    def audits(
        session: Annotated[str | None, Query(max_length=100, description="Only this session.")] = None,
        verdict: Annotated[Verdict | None, Query(description="Only those of this verdict.")] = None,
        limit: Annotated[int, Query(ge=1, le=200, description="Audits at most.")] = 50,
        offset: _Offset = 0,
    ) -> AuditPage:
        """Audits with their verdicts, the one that was finished last first."""
        if session is not None and session not in (names := [one.session for one in store.sessions()]):
            raise UnknownNameError.among("session", session, names)
        found = sorted(store.runs(session), key=latest, reverse=True)
        if verdict is None:
            rows = tuple(audit_row(store, one) for one in found[offset : offset + limit])
            total = len(found)
        else:
            matching = [row for one in found if (row := audit_row(store, one)).verdict == verdict]
            rows, total = tuple(matching[offset : offset + limit]), len(matching)
        following = offset + len(rows)
        return AuditPage(
            audits=rows, total=total, offset=offset, next_offset=following if rows and following < total else None
        )

    @routes.post("/audits", responses=problems(404), status_code=202)
    def ask(asked: AuditRequest) -> Started:
        """Have a fine-tune audited: a run, to be followed at `status_url`.

        The same audit, asked for while it is under way, is the run that there is; a finished one is found again; one
        that was interrupted goes on from what is done.
        """
        words = audit_words(asked, jobs.base)
        return started(jobs.submit("audit", words, asked=asked.model_dump(mode="json")))

    @routes.get("/audits/{session}/{run}", responses=problems(404, 409))
    def audit(session: _Session, run: _Run) -> AuditOut:
        """The decision of an audit, and what it rests on."""
        place = _finished(store, session, run)
        return audit_out(store, place)

    @routes.get(
        "/audits/{session}/{run}/report",
        response_class=Response,
        responses={200: _content("text/markdown", "text/html"), **problems(404, 409)},
    )
    def report(
        session: _Session,
        run: _Run,
        format: Annotated[Literal["md", "html"], Query(description="Markdown, or one HTML file.")] = "md",
    ) -> Response:
        """The report for people. The page runs nothing and fetches nothing."""
        return _file(store, session, run, f"report.{format}")

    @routes.get("/audits/{session}/{run}/evidence", responses=problems(404, 409))
    def evidence(
        session: _Session,
        run: _Run,
        limit: Annotated[int, Query(ge=1, le=1000, description="Features at most.")] = 50,
        offset: _Offset = 0,
    ) -> EvidencePage:
        """Features that changed, with what they mean."""
        place = _finished(store, session, run)
        found = store.artefacts(place.session, place.run).interp_evidence
        if found is None:
            raise UnknownNameError(
                f"audit {place} compared no features.", hint="an audit with an SAE compares them; this one had none."
            )
        return evidence_page(found, limit, offset)

    @routes.get(
        "/audits/{session}/{run}/artefacts/{name}",
        response_class=Response,
        responses={200: _content("application/json", "text/markdown", "text/html"), **problems(404, 409)},
    )
    def artefact(session: _Session, run: _Run, name: Annotated[Artefact, Path(description="Which file.")]) -> Response:
        """A file of an audit, as it is stored."""
        return _file(store, session, run, name)

    @routes.get("/calibrations", responses=problems())
    def calibrations() -> Calibrations:
        """Scores of benign fine-tunes by which audits are judged: the workspace's own, and the bundle's."""
        return Calibrations(calibrations=calibration_rows(files))

    @routes.get("/suites", responses=problems())
    def suites() -> Suites:
        """Prompts of audits that ship."""
        return Suites(suites=suites_shipped)

    return routes


def _finished(store: AuditStore, session: str, run: str) -> RunPlace:
    """A finished audit.

    Raises:
        InputError: That cannot name one.
        UnknownNameError: There is none.
        BusyError: It is not finished.
    """
    place = RunPlace(session, run)
    if store.is_finished(session, run):
        return place
    if store.files.list(place.folder):
        raise BusyError(
            f"audit {place} is not finished.", hint="GET /api/v1/runs says how far it is; asked for again, it goes on."
        )
    raise UnknownNameError(f"there is no audit {place}.", hint="GET /api/v1/audits lists them.")


def _file(store: AuditStore, session: str, run: str, name: str) -> Response:
    place = _finished(store, session, run)
    text = store.read_run(session, run).get(name)
    if text is None:
        raise UnknownNameError(f"audit {place} has no {name}.", hint=f"GET /api/v1/audits/{place} lists its files.")
    return Response(text, media_type=_TYPES[name.rpartition(".")[2]], headers=_HEADERS)


def _suite(name: str) -> SuiteRow:
    suite = shipped_suite(name)
    return SuiteRow(
        name=name,
        description=suite.description,
        n_prompts=len(suite.prompts),
        n_wordings=suite.n_forms,
        digest=suite.digest,
    )


def _content(*types: str) -> dict[str, object]:
    return {"description": "The file.", "content": dict.fromkeys(types, _TEXT)}
