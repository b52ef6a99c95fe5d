"""What every request passes first: the token, its size, and how much is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from starlette.websockets import WebSocketDisconnect

from raylens import errors
from raylens.errors import InputError, MismatchError, OutOfMemoryError, RaylensError, UnknownNameError
from raylens_serve import problems
from raylens_serve.guard import Guard
from raylens_serve.settings import Limits

TOKEN = "a-token-of-more-than-sixteen-characters"
SENT = {"Authorization": f"Bearer {TOKEN}"}


def guarded(concurrent: int = 8) -> FastAPI:
    app = FastAPI()
    problems.install(app)
    waiting: list[asyncio.Event] = []

    @app.get("/healthz")
    def health() -> str:
        return "ok"

    @app.post("/size")
    async def size(request: Request) -> int:
        return len(await request.body())

    @app.post("/json")
    def as_json(body: dict[str, str]) -> int:
        return len(body)

    @app.get("/wait")
    async def wait() -> str:
        waiting.append(asyncio.Event())
        await waiting[-1].wait()
        return "done"

    @app.get("/release")
    async def release() -> int:
        for one in waiting:
            one.set()
        return len(waiting)

    @app.get("/raise/{name}")
    def failing(name: str) -> None:
        raised(name)

    @app.websocket("/ws")
    async def socket(one: WebSocket) -> None:
        await one.accept()
        await one.send_text("hello")
        await one.close()

    app.add_middleware(Guard, token=TOKEN, limits=Limits(body_bytes=2000, concurrent=concurrent))
    return app


def raised(name: str) -> None:
    if name == "ValueError":
        raise ValueError("a secret stands in this message")
    if name == "task":
        raise RayTaskError("f", "trace", UnknownNameError("no such span.", hint="list them.")).as_instanceof_cause()
    if name == "died":
        raise ActorDiedError
    if name == "pressure":
        raise BackPressureError(num_queued_requests=3, max_queued_requests=2)
    raise getattr(errors, name)("it is wrong.", hint="do it right.")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer"},
        {"x-api-key": "wrong"},
    ],
)
def test_without_the_token_nothing_is_answered_but_health(headers: dict[str, str]) -> None:
    client = TestClient(guarded())
    assert client.get("/healthz", headers=headers).status_code == 200
    refused = client.post("/size", content=b"x", headers=headers)
    assert refused.status_code == 401
    assert refused.json()["error"].startswith("Authorization")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert client.get("/nowhere", headers=headers).status_code == 401  # nor whether a path is there
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/ws", headers=headers):
        pass
    assert closed.value.code == 4401


def test_the_token_is_taken_in_either_header() -> None:
    client = TestClient(guarded())
    for headers in (SENT, {"authorization": f"bearer {TOKEN}"}, {"x-api-key": TOKEN}):
        assert client.post("/size", content=b"abc", headers=headers).json() == 3
        with client.websocket_connect("/ws", headers=headers) as socket:
            assert socket.receive_text() == "hello"


@given(size=st.integers(0, 4000), said=st.booleans())
def test_a_body_is_bounded_whether_its_length_is_said_or_not(size: int, said: bool) -> None:
    async def send() -> httpx.Response:
        async def parts() -> AsyncIterator[bytes]:
            for start in range(0, size, 700):
                yield b"x" * min(700, size - start)

        transport = httpx.ASGITransport(guarded())
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post("/size", content=b"x" * size if said else parts(), headers=SENT)

    answer = asyncio.run(send())
    assert answer.status_code == (200 if size <= 2000 else 413)
    if size <= 2000:
        assert answer.json() == size
    else:
        assert "2,000 bytes" in answer.json()["error"]


def test_a_body_that_is_read_as_json_is_bounded_as_well() -> None:
    def parts() -> Iterator[bytes]:
        yield b'{"a": "'
        yield b"x" * 3000
        yield b'"}'

    answer = TestClient(guarded()).post("/json", content=parts(), headers=SENT)
    assert answer.status_code == 413
    assert "2,000 bytes" in answer.json()["error"]


def test_more_than_can_be_held_at_a_time_is_told_to_come_again() -> None:
    async def ask() -> tuple[list[httpx.Response], httpx.Response, httpx.Response]:
        app = guarded(concurrent=2)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here", headers=SENT) as one:
            held = [asyncio.create_task(one.get("/wait")) for _ in range(2)]
            while (refused := await one.get("/nowhere")).status_code != 503:
                await asyncio.sleep(0)
            assert (await one.get("/healthz")).status_code == 200
            held[0].cancel()
            await asyncio.gather(held[0], return_exceptions=True)
            while (free := await one.get("/release")).status_code == 503:
                await asyncio.sleep(0)
            return [await held[1]], refused, free

    answered, refused, free = asyncio.run(ask())
    assert refused.headers["Retry-After"] == "2"
    assert refused.json()["kind"] == "OverloadedError"
    assert free.status_code == 200
    assert [one.status_code for one in answered] == [200]


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("UnknownNameError", 404),
        ("BusyError", 409),
        ("InputError", 422),
        ("MismatchError", 422),
        ("QueryError", 422),
        ("RunError", 500),
        ("DamagedFileError", 500),
        ("HubUnreachableError", 503),
        ("OverloadedError", 503),
        ("OutOfMemoryError", 507),
        ("DiskFullError", 507),
        ("task", 404),
        ("died", 503),
        ("pressure", 503),
        ("ValueError", 500),
    ],
)
def test_each_error_has_a_status_and_its_remedy(name: str, status: int) -> None:
    client = TestClient(guarded(), raise_server_exceptions=False)
    answer = client.get(f"/raise/{name}", headers=SENT)
    assert answer.status_code == status
    said = answer.json()
    assert said["error"].endswith(".")
    assert said["hint"]
    assert "secret" not in answer.text
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_every_error_of_the_tree_has_a_status() -> None:
    kinds = [
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, RaylensError) and one is not RaylensError
    ]
    assert all(problems.status_of(one("x.", hint="y.")) >= 400 for one in kinds)
    assert problems.status_of(InputError("x.", hint="")) == problems.status_of(MismatchError("x.", hint="")) == 422
    assert problems.status_of(OutOfMemoryError("x.", hint="")) == 507
