"""Fixtures of the store's tests: each runs on a local disk and on an in-process S3 server."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import fsspec
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from raylens.store.files import Files
from raylens.store.workspace import Workspace

_BUCKET = "raylens-test"


class Wire:
    """The S3 server's end of the wire: counts what is sent, and can lose or refuse one request.

    moto looks and then writes; S3 decides a conditional put atomically. A lock makes moto do so too.
    """

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.sent = 0
        self.lose_answer_to: str | None = None  # a method: the next such request is served, its answer lost
        self.refuse: tuple[str, str, str] | None = None  # method, HTTP status, S3 code: the next is not served

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        with self._lock:
            method = environ["REQUEST_METHOD"]
            if self.refuse and self.refuse[0] == method:
                _, status, code = self.refuse
                self.refuse = None
                start_response(status, [("Content-Type", "application/xml")])
                return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]
            body = list(self._moto(environ, start_response))
            if self.lose_answer_to == method:
                self.lose_answer_to = None
                start_response("503 Slow Down", [("Content-Length", "0")])
                return []
            self.sent += sum(map(len, body))
            return body


@pytest.fixture(scope="session")
def s3_wire() -> Iterator[Wire]:
    """An S3 server in this process, its address and credentials in the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    wire = Wire()
    server = make_server("127.0.0.1", 0, wire, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test-key-id",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(_BUCKET)
    yield wire
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.shutdown()
    thread.join()


@pytest.fixture
def s3_url(s3_wire: Wire) -> str:
    """A fresh, empty prefix of a bucket."""
    return f"s3://{_BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place for a workspace."""
    if request.param == "local":
        return str(tmp_path / "workspace")
    return request.getfixturevalue("s3_url")


@pytest.fixture
def files(store_url: str) -> Files:
    """An empty root, on each kind of storage."""
    return Files.open(store_url)


@pytest.fixture
def workspace(store_url: str) -> Workspace:
    """A new workspace, on each kind of storage."""
    return Workspace.open(store_url, create=True)


@pytest.fixture
def local_files(tmp_path: Path) -> Files:
    """An empty root on the local disk, for what only disks have (links, full disks, processes)."""
    return Files.open(tmp_path / "workspace")


@pytest.fixture
def local_workspace(tmp_path: Path) -> Workspace:
    """A new workspace on the local disk, for what does not depend on the storage."""
    return Workspace.open(tmp_path / "local-workspace", create=True)


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Callable[..., str]:
    """Run a Python program with ``DISK``, the folder of a 2 MB disk of its own, and return what it prints.

    The disk is a tmpfs in a mount namespace: of root's, or of a user's own where the tests do not run as root.
    """

    def run(program: str, *, size: str = "2m") -> str:
        disk = tmp_path / "small-disk"
        disk.mkdir()
        script = tmp_path / "program.py"
        script.write_text("import sys\nfrom pathlib import Path\nDISK = Path(sys.argv[1])\n" + textwrap.dedent(program))
        unshare = shutil.which("unshare")
        assert unshare, "unshare (util-linux) is needed to make a small disk"
        flags = "--mount" if os.geteuid() == 0 else "--map-root-user --mount"
        command = 'mount -t tmpfs -o size="$1" tmpfs "$2" && exec "$3" "$4" "$2"'
        done = subprocess.run(
            [unshare, *flags.split(), "sh", "-c", command, "sh", size, str(disk), sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
