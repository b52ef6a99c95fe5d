"""What HTTP costs: features of spans from the services, against the same work in one process.

The services run as people start them, on pico, with one thread for the encoder, as in process; whatever else they do
(HTTP, the handles between deployments, spans read and results written to the disk) is what is measured. Clients are
asynchronous and in a process of their own, which on two cores is the other core's work beside the gateway's.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from raylens.api.reading import PeaksRequest
from raylens_serve.encoder import Encoder
from raylens_serve.settings import PICO_SAES, ServeSettings

TOKEN: Final = "a-token-of-the-bench-that-nobody-guesses"
SETTINGS: Final = {"models": [{"model": "raylens/pico", "saes": list(PICO_SAES)}], "encoder": {"threads": 1}}
LONG, MIDDLE, CLIENTS = 1024, 256, 64


def measure(folder: Path, scale: float) -> dict[str, Any]:
    """Latencies and throughput, and their ratios to in-process work."""
    n_long, n_short, n_many = max(5, int(60 * scale)), max(5, int(200 * scale)), max(CLIENTS, int(1024 * scale))
    texts = Texts(seed=0)
    with services(folder) as url:
        warm(url, texts)
        long = latencies(url, spans(url, texts.of(LONG, n_long)))
        short = latencies(url, spans(url, texts.of(8, n_short)))
        cached = latencies(url, spans(url, texts.of(LONG, 1)) * n_short)[1:]
        many = spans(url, texts.of(MIDDLE, n_many))
        wall, errors = asyncio.run(crowd(url, many))
    here = in_process(texts.of(LONG, n_long), batch=1)
    batched = in_process(texts.of(MIDDLE, n_many), batch=CLIENTS)
    ours = n_many * MIDDLE / wall
    return {
        "extract_p50_ratio": round(float(np.median(long) / np.median(here)), 3),
        "extract_p95_ratio": round(float(np.quantile(long, 0.95) / np.median(here)), 3),
        "extract_cached_p50_ms": round(float(np.median(cached)) * 1e3, 2),
        "extract_crowd_ratio": round(ours / (n_many * MIDDLE / float(np.sum(batched))), 3),
        "extract_crowd_errors": errors,
        "extract_long_p50_ms": round(float(np.median(long)) * 1e3, 2),
        "in_process_long_p50_ms": round(float(np.median(here)) * 1e3, 2),
        "extract_short_p50_ms": round(float(np.median(short)) * 1e3, 2),
        "extract_crowd_tokens_per_s": round(ours),
    }


class Texts:
    """Texts of so many tokens, each other than all before.

    Args:
        seed: Of the order.
    """

    def __init__(self, seed: int) -> None:
        from raylens.bundle.paths import model_path
        from raylens.engine.load import load_tokenizer

        path = model_path("raylens/pico")
        assert path is not None
        self._tokenizer: Any = load_tokenizer(str(path))
        whole = "".join(Path(one).read_text("utf-8", errors="ignore") for one in _modules())
        self._ids = self._tokenizer(whole, add_special_tokens=False)["input_ids"]
        self._rng = np.random.default_rng(seed)

    def of(self, n_tokens: int, n: int) -> list[str]:
        """``n`` texts of ``n_tokens`` with BOS, or a few less: cut anywhere, tokens may join."""
        starts = self._rng.integers(0, len(self._ids) - n_tokens, n)
        return [self._tokenizer.decode(self._ids[at : at + n_tokens - 2]) for at in starts]


def _modules() -> list[str]:
    import argparse
    import asyncio.base_events
    import decimal
    import inspect
    import subprocess
    import tarfile
    import typing

    return [str(one.__file__) for one in (argparse, asyncio.base_events, inspect, subprocess, tarfile, typing, decimal)]


@contextmanager
def services(folder: Path, settings: Mapping[str, Any] = SETTINGS) -> Iterator[str]:
    """``raylens serve up`` on the workspace in ``folder``, which may be empty; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "serve.yaml"
    application = {"name": "raylens", "import_path": "raylens_serve.build:build", "args": settings}
    config.write_text(json.dumps({"applications": [application]}))
    environment = os.environ | {
        "RAYLENS_API_TOKEN": TOKEN,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "ray-token"),
    }
    command = [sys.executable, "-m", "raylens", "--workspace", str(folder / "workspace"), "serve"]
    started = [*command, "up", "--detach", "--config", str(config), "--port", str(port), "--json"]
    done = subprocess.run(started, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    try:
        yield json.loads(done.stdout)["url"]
    finally:
        subprocess.run([*command, "down"], env=environment, capture_output=True, check=False)


def spans(url: str, texts: Sequence[str]) -> list[str]:
    """Ids of new spans, one a text."""
    made: list[str] = []
    with httpx.Client(base_url=url, headers=_headers(), timeout=120) as client:
        for first in range(0, len(texts), 500):
            rows = [{"model": "raylens/pico", "input": text, "output": ""} for text in texts[first : first + 500]]
            answer = client.post("/api/v1/traces", json={"spans": rows})
            answer.raise_for_status()
            made += answer.json()["span_ids"]
    return made


def latencies(url: str, ids: Sequence[str]) -> list[float]:
    """Seconds of each extraction, one after the other."""
    found = []
    with httpx.Client(base_url=url, headers=_headers(), timeout=120) as client:
        for one in ids:
            began = time.perf_counter()
            client.post("/api/v1/sae/extract", json={"span_id": one, "top_k": 20}).raise_for_status()
            found.append(time.perf_counter() - began)
    return found


async def crowd(url: str, ids: Sequence[str]) -> tuple[float, int]:
    """Seconds in which :data:`CLIENTS` clients have all of them extracted, and how many failed.

    The clients are bytes on sockets: an HTTP library of Python takes a fifth of the time that reading a span takes,
    of the same two cores.
    """
    where, errors, waiting = httpx.URL(url), 0, list(ids)
    head = f"POST /api/v1/sae/extract HTTP/1.1\r\nHost: {where.host}\r\nAuthorization: Bearer {TOKEN}\r\n"

    async def one_client() -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(where.host, where.port)
        while waiting:
            body = json.dumps({"span_id": waiting.pop(), "top_k": 20})
            said = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            writer.write(said.encode())
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next(line for line in answer.splitlines() if line.startswith(b"content-length:"))
            features = json.loads(await reader.readexactly(int(length.partition(b":")[2]))).get("features")
            errors += b" 200 " not in answer.splitlines()[0] or not features
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one_client() for _ in range(CLIENTS)))
    return time.perf_counter() - began, errors


def in_process(texts: Sequence[str], batch: int) -> list[float]:
    """Seconds of reading the texts, so many at a time, with the encoder of the services in this process."""
    encoder = Encoder(ServeSettings.of(SETTINGS).model_dump(mode="json"))

    async def read() -> list[float]:
        await encoder.peaks([_request("warm up")])
        found = []
        for first in range(0, len(texts), batch):
            began = time.perf_counter()
            await encoder.peaks([_request(text) for text in texts[first : first + batch]])
            found.append(time.perf_counter() - began)
        return found

    return asyncio.run(read())


def warm(url: str, texts: Texts) -> None:
    """First requests load what is loaded once."""
    latencies(url, spans(url, texts.of(LONG, 3)))
    asyncio.run(crowd(url, spans(url, texts.of(MIDDLE, CLIENTS))))


def _request(text: str) -> PeaksRequest:
    return PeaksRequest(sae=PICO_SAES[0], input=text, output="")


def _headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}
