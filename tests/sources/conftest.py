"""A hub on localhost: the few routes that the hub client and ``datasets`` ask for, over a real socket."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import settings

# Machines that run this are busy: how long an example takes says nothing.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

COMMIT = "a" * 40
CARD = """---
dataset_info:
- config_name: default
  splits:
  - name: train
    num_bytes: 1000
    num_examples: 40
  - name: test
    num_bytes: 1000
    num_examples: 10
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train.jsonl}
  - {split: test, path: data/test.jsonl}
- config_name: chat
  data_files: data/chat.jsonl
- config_name: broken
  data_files: data/broken.jsonl
---
"""


def _files() -> dict[str, bytes]:
    def lines(rows: list[dict[str, object]]) -> bytes:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    return {
        "README.md": CARD.encode(),
        "data/train.jsonl": lines([{"text": f"train {i}", "n": i} for i in range(40)]),
        "data/test.jsonl": lines([{"text": f"test {i}", "n": i} for i in range(10)]),
        "data/chat.jsonl": lines([{"text": chat}] * 3),
        "data/broken.jsonl": lines([{"text": "fine"}]) + b"not json\n",
    }


class _Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files = _files()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        api, pages = "/api/datasets/o/texts", "/datasets/o/texts/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            self._json({"id": "o/texts", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]})
        elif path.startswith(f"{api}/tree/"):
            self._json([self._entry(name) for name in self.files])
        elif path.startswith(f"{api}/paths-info/"):
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            self._json([self._entry(name) for name in asked if name in self.files])
        elif path.startswith(pages):
            self._file(path.removeprefix(pages).partition("/")[2])
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def _entry(self, name: str) -> dict[str, object]:
        data = self.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str) -> None:
        data = self.files.get(name)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            last = min(int(high or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {low}-{last}/{len(data)}"
            self._send(206, data[int(low) : last + 1], headers)
        else:
            self._send(200, data, headers)

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="session")
def hub_url() -> Iterator[str]:
    """The address of a running hub that has one data set, ``o/texts``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the hub client, for the whole session."""
    return tmp_path_factory.mktemp("hub_home")
