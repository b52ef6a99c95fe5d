"""A chat endpoint over real HTTP that answers as it is told, well or badly, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """One request as it arrived.

    Attributes:
        target: Path, or the whole address where the server is used as a proxy.
        headers: Names in small letters.
        body: The JSON object that was sent.
        index: 0 for the first request.
    """

    target: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    index: int

    @property
    def prompt(self) -> str:
        """The last message."""
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Answer:
    """What the server does with one request.

    Attributes:
        text: Of the message; ignored where ``raw`` is given.
        logprobs: ``(token, logprob, {alternative: logprob})`` a token; sent only where they are asked for.
        usage: Of the completion; counted in words where it is not given, left out where it is empty.
        finish_reason: ``stop``, ``length`` …
        status: Of HTTP.
        headers: More of them, ``Retry-After`` say.
        raw: The whole body, in place of a completion.
        delay_s: Before anything is sent.
        drip_s: Between single bytes of the body.
        hang: Nothing is ever sent.
        cut: Bytes of the body that are sent before the connection is closed.
        drop: The connection is closed without a word.
    """

    text: str = "an answer"
    logprobs: Iterable[tuple[str, float, Mapping[str, float]]] | None = None
    usage: Mapping[str, Any] | None = None
    finish_reason: str = "stop"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    delay_s: float = 0.0
    drip_s: float = 0.0
    hang: bool = False
    cut: int | None = None
    drop: bool = False

    @classmethod
    def error(cls, status: int, message: str = "no", *, code: Any = None, **more: Any) -> Answer:
        """An error as OpenAI words it."""
        body = {"error": {"message": message, "type": "error", "code": code}}
        return cls(status=status, raw=json.dumps(body).encode(), **more)

    def content(self, asked: Asked) -> bytes:
        """The body to send."""
        if self.raw is not None:
            return self.raw
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": self.text},
            "finish_reason": self.finish_reason,
        }
        if self.logprobs is not None and asked.body.get("logprobs"):
            choice["logprobs"] = {"content": [_row(*one) for one in self.logprobs]}
        usage = self.usage
        if usage is None:
            prompt = sum(len(one["content"].split()) for one in asked.body["messages"])
            usage = {"prompt_tokens": prompt, "completion_tokens": len(self.text.split())}
        body = {"id": "fake", "object": "chat.completion", "model": asked.body["model"], "choices": [choice]}
        return json.dumps(body | ({"usage": usage} if usage else {}), ensure_ascii=False).encode()


Respond = Callable[[Asked], Answer | str]


class FakeLlm:
    """An OpenAI-compatible server on a port of its own, in a thread of its own.

    ::

        with FakeLlm(lambda asked: f"about {asked.prompt}") as llm:
            settings = EndpointSettings(base_url=llm.base_url, model="fake")

    Args:
        respond: What to answer; by default a fixed text. Runs in the server's thread, one call at a time.

    Attributes:
        script: Answers to give before ``respond`` is asked, one a request.
        asked: Every request so far, in order of arrival.
        high_water: Most requests that were being answered at the same time.
    """

    def __init__(self, respond: Respond | None = None) -> None:
        self.respond: Respond = respond or (lambda asked: Answer())
        self.script: deque[Answer | str] = deque()
        self.asked: list[Asked] = []
        self.high_water = 0
        self._busy = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._socket.getsockname()[1]

    @property
    def base_url(self) -> str:
        """What an endpoint's settings call it."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def busy(self) -> int:
        """Requests that are being answered right now."""
        return self._busy

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        async def serve() -> None:
            connections: set[asyncio.Task[None]] = set()

            async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                connections.add(task)
                try:
                    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                        while await self._exchange(reader, writer):
                            pass
                finally:
                    connections.discard(task)
                    writer.close()

            server = await asyncio.start_server(connection, sock=self._socket)
            self._started.set()
            await self._stop.wait()
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

        self._loop.run_until_complete(serve())
        self._loop.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; False where the connection is over."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        asked = Asked(head[0].split(" ")[1], headers, json.loads(body or b"{}"), len(self.asked))
        self.asked.append(asked)
        self._busy += 1
        self.high_water = max(self.high_water, self._busy)
        try:
            given = self.script.popleft() if self.script else self.respond(asked)
            return await _send(reader, writer, given if isinstance(given, Answer) else Answer(given), asked)
        finally:
            self._busy -= 1


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, asked: Asked) -> bool:
    if answer.hang:
        await reader.read()  # until the client gives up
    if answer.drop or answer.hang:
        return False
    await asyncio.sleep(answer.delay_s)
    content = answer.content(asked)
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} Status", *(f"{name}: {value}" for name, value in fields.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    if answer.drip_s:
        for byte in content:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(answer.drip_s)
        return True
    writer.write(content if answer.cut is None else content[: answer.cut])
    await writer.drain()
    return answer.cut is None


def _row(token: str, logprob: float, alternatives: Mapping[str, float]) -> dict[str, Any]:
    top = [{"token": other, "logprob": value, "bytes": None} for other, value in alternatives.items()]
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": top}
