"""The description of the API: the committed one is the generated one, and no request it allows or forbids breaks it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from requests import Session
from schemathesis.checks import not_a_server_error

from gateway_here import TOKEN, Here, gateway_here
from raylens_serve.describe import description

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"
WORKING = {"/v1/chat/completions", "/v1/completions"}
"""Answered 503 where no explainer is served, which is what they are described to."""

EXAMPLES, MANY = 4, 50
"""Requests that are drawn at random for each operation, here and by ``make test-slow``."""
SUPPRESSED = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]

schema = schemathesis.openapi.from_dict(description())


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    with gateway_here(tmp_path_factory.mktemp("openapi") / "workspace") as found:
        yield found


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Connections are kept: to open one takes as long as most answers."""
    with Session() as kept:
        kept.trust_env = False
        yield kept


def test_the_committed_description_is_the_generated_one() -> None:
    assert json.loads(COMMITTED.read_text()) == description(), (
        "run: python -m raylens_serve.describe > docs/openapi.json"
    )


def test_every_operation_says_what_it_is_and_what_may_go_wrong() -> None:
    for path, methods in description()["paths"].items():
        for method, said in methods.items():
            where = f"{method} {path}"
            assert said.get("description") or said.get("summary"), where
            assert said["tags"], where
            if path != "/healthz":
                assert "401" in said["responses"], where
            names = [one["name"] for one in said.get("parameters", ())]
            assert len(names) == len(set(names)), where


def answers_without_an_error_of_its_own(case: Any, here: Here, session: Session) -> None:
    sent = {"Authorization": f"Bearer {TOKEN}"}
    response = case.call(base_url=here.url, headers=sent, timeout=60, session=session)
    if response.status_code == 503:
        # A part that is not there is described; nothing else may be.
        assert response.json()["kind" if "kind" in response.json() else "error"]
        assert case.path in WORKING | {"/readyz"} or case.path.startswith("/api/v1/")
        return
    case.validate_response(response, checks=[not_a_server_error])


def of_each_operation(name: str, **given: Any) -> dict[str, Any]:
    """A test an operation, each with a name of its own: of tests of one name, one alone would be run beside others."""

    def made(path: str, method: str) -> Any:
        def each(case: Any, here: Here, session: Session) -> None:
            answers_without_an_error_of_its_own(case, here, session)

        each.__name__ = f"{name}_{method}_{re.sub('[^a-z0-9]+', '_', path.lower()).strip('_')}"
        drawn = settings(deadline=None, suppress_health_check=SUPPRESSED, **given)(each)
        return schema.include(path=path, method=method.upper()).parametrize()(drawn)

    tests = [made(path, method) for path, methods in description()["paths"].items() for method in methods]
    return {one.__name__: one for one in tests}


OPERATIONS = sum(len(methods) for methods in description()["paths"].values())
# The same requests each time; and others each time.
FEW = of_each_operation("test_no_request_makes_a_server_error", max_examples=EXAMPLES, derandomize=True)
LOTS = of_each_operation("test_none_of_many_requests_makes_a_server_error", max_examples=MANY)
globals().update(FEW | {name: pytest.mark.slow(one) for name, one in LOTS.items()})


def test_every_operation_is_tried() -> None:
    assert (len(FEW), len(LOTS)) == (OPERATIONS, OPERATIONS)
