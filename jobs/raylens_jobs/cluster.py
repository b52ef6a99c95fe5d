"""Connecting to Ray: a private local cluster by default, a running one by address.

Every node of a cluster must see the same workspace, or shards would vanish on local disks; the
probe proves it before any work.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import raylens
from raylens.errors import WorkspaceError
from raylens.net.ray_access import MODE, bring_token, no_connection, without_chatter
from raylens.store.workspace import Workspace

OBJECT_STORE_BYTES = 256 * 2**20
"""Shards travel by path and only rows of bookkeeping by value, so the store can be small."""


@contextmanager
def cluster(address: str | None, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to ``address``, or start a local cluster that ends with the block.

    A Ray that this process has already initialised is used as it is and left running.

    Raises:
        InputError: no cluster answers at ``address``, or it wants another token than this user's.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not is_verbose():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        # Local clusters listen on loopback only and live as long as this process.
        os.environ.setdefault(MODE, "disabled")
    options: dict[str, object] = {"logging_level": "ERROR", "log_to_driver": False, "configure_logging": False}
    if address is None:
        options |= {
            "num_cpus": num_cpus or available_cpus(),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        with without_chatter(verbose=is_verbose()):
            if address is not None:
                bring_token(address)
            ray.init(address or "local", **options)  # pyright: ignore[reportArgumentType]  (keywords are checked by Ray)
    except (ConnectionError, AuthenticationError) as error:
        raise no_connection(address, error) from error
    if not is_verbose():
        logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def is_verbose() -> bool:
    """Whether a person wants to hear what Ray says about itself."""
    return logging.getLogger("raylens").isEnabledFor(logging.DEBUG)


def available_cpus() -> int:
    """Cores this process may use, which is what a pinned or containerised process really has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def probe_shared(workspace: Workspace) -> None:
    """Refuse a workspace that not every node can see, or a cluster that mixes RayLens versions.

    The driver writes a file; one task a node reads it back.

    Raises:
        WorkspaceError: a node reads something else, or nothing.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    key, word = f"probe-{secrets.token_hex(8)}", secrets.token_hex(16)
    workspace.files.commit(key, word.encode())
    try:
        for node in nodes:
            strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = _read_probe.options(scheduling_strategy=strategy)
            seen, version = ray.get(task.remote(workspace.url, key))
            name = node["NodeManagerHostname"]
            if seen != word:
                raise WorkspaceError(
                    f"node {name} ({node['NodeID'][:8]}) does not see the workspace {workspace.url}.",
                    hint="put the workspace on a file system that all nodes mount, or on s3://…",
                )
            if version != raylens.__version__:
                raise WorkspaceError(
                    f"node {name} runs RayLens {version}, this process {raylens.__version__}.",
                    hint="install the same version on every node.",
                )
    finally:
        workspace.files.delete(key)


@ray.remote(num_cpus=0)
def _read_probe(url: str, key: str) -> tuple[str | None, str]:
    try:
        return Workspace.open(url).files.read_bytes(key).decode(), raylens.__version__
    except (OSError, WorkspaceError):
        return None, raylens.__version__
