"""How much of an endpoint's capacity jobs use: their lane and the chat client, with its reply cache on the disk.

A server in a process of its own answers each call after 200 ms and serves 32 at a time. 500 features
are asked about in the batches and through the lane that jobs use: one question for the explanation,
then six for the scorers. The capacity is what 32 bare connections get from the same server in the
same run, one after the other on each, with a ready-made request and nothing read but its length.
Rounds alternate; medians count.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing as mp
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from raylens.chat import Message, Request
from raylens.llm.client import ChatClient
from raylens.llm.replies import ReplyCache
from raylens.llm.settings import EndpointSettings
from raylens.store.files import Files
from raylens_jobs.lane import Patient, ahead, all_of, run_lane
from raylens_jobs.passes import batches

DELAY_S, CONCURRENCY, FEATURES, SCORER_CALLS, BATCH, ROUNDS = 0.2, 32, 500, 6, 8, 3
PROMPT = "an excerpt of thirty-two tokens or so, in which one or two of them are marked as active\n" * 40


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """The client's calls a second over the bare connections', and both over 32 ÷ 200 ms."""
    features = max(CONCURRENCY, int(FEATURES * scale))
    calls = features * (1 + SCORER_CALLS)
    context = mp.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    port: int = here.recv()
    ours, bare = list[float](), list[float]()
    try:
        for lap in range(ROUNDS):
            ours.append(calls / asyncio.run(_client(port, folder / f"replies-{lap}", features)))
            bare.append(calls / asyncio.run(_bare(port, calls)))
    finally:
        server.terminate()
        server.join()
    nominal = CONCURRENCY / DELAY_S
    return {
        "llm_capacity_ratio": round(median(a / b for a, b in zip(ours, bare, strict=True)), 4),
        "llm_capacity_nominal_ratio": round(median(ours) / nominal, 4),
        "bare_nominal_ratio": round(median(bare) / nominal, 4),
        "calls": calls,
        "calls_per_s": [round(one, 1) for one in ours],
        "bare_calls_per_s": [round(one, 1) for one in bare],
    }


async def _client(port: int, folder: Path, features: int) -> float:
    """Seconds for all features, the client opened and closed included."""
    settings = EndpointSettings(base_url=f"http://127.0.0.1:{port}/v1", model="bench", max_concurrency=CONCURRENCY)
    began = time.perf_counter()
    async with ChatClient(settings, cache=ReplyCache(Files.open(folder))) as client:
        patient = Patient(client, CONCURRENCY)

        async def feature(index: int) -> None:
            first = await patient.ask(_question(f"{index} explain"))
            await all_of(patient.ask(_question(f"{index} {i} {first.text}")) for i in range(SCORER_CALLS))

        async def ask(batch: Sequence[int]) -> int:
            return len(await all_of(feature(index) for index in batch))

        async def keep(batch: Sequence[int], answered: int) -> int:
            assert len(batch) == answered
            return answered

        most = ahead(BATCH, CONCURRENCY)
        await run_lane(batches(range(features), BATCH), ask, keep, lambda done: False, patient, most)
        assert (client.usage.calls, client.usage.retries) == (features * (1 + SCORER_CALLS), 0)
    return time.perf_counter() - began


def _question(what: str) -> Request:
    return Request(messages=(Message("system", PROMPT), Message("user", what)))


async def _bare(port: int, calls: int) -> float:
    """Seconds for as many calls over bare connections."""
    body = json.dumps({"messages": [{"content": PROMPT}]}).encode()
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    left = calls

    async def connection() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            left -= 1
            writer.write(request)
            await _read(reader)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(CONCURRENCY)))
    return time.perf_counter() - began


async def _read(reader: asyncio.StreamReader) -> bytes:
    """The body of one HTTP message."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))


def _serve(pipe: Connection) -> None:
    """Answer every request after the delay, ``CONCURRENCY`` of them at a time, until the process is ended."""
    message = {"choices": [{"message": {"content": "words about a token"}, "finish_reason": "stop"}]}
    answer = json.dumps(message | {"usage": {"prompt_tokens": 900, "completion_tokens": 4}}).encode()
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        len(answer),
        answer,
    )

    async def run() -> None:
        places = asyncio.Semaphore(CONCURRENCY)

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    await _read(reader)
                    async with places:
                        await asyncio.sleep(DELAY_S)
                    writer.write(response)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()

        server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=512)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())
