"""An object store: an S3 server in this process."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place in a fresh bucket; address and credentials of the server are in the environment meanwhile."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-key-id",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    kind, bucket = fsspec.get_filesystem_class("s3"), f"raylens-{uuid.uuid4().hex[:12]}"
    # Clients are kept by their arguments, which the environment is no part of.
    kind.clear_instance_cache()
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(bucket)
    try:
        yield f"s3://{bucket}/workspace"
    finally:
        kind.clear_instance_cache()
        server.stop()
