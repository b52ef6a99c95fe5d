"""Starting the services, holding them up, and ending them.

:func:`raylens_serve.ray_environment.prepare_ray` comes before this is imported.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import AuthenticationError

from raylens.errors import InputError, RunError
from raylens.net.ray_access import bring_token, no_connection, without_chatter
from raylens.store.process import Process
from raylens.store.standing import Standing, forget, require_none, write_standing
from raylens.store.workspace import Workspace
from raylens_serve.build import build
from raylens_serve.config_file import APPLICATION, ServeFile
from raylens_serve.own_ray import own_ray
from raylens_serve.starting import Say, reason, told, what_starts

_OBJECT_STORE: Final = 256 * 2**20
_ANY: Final = frozenset({"0.0.0.0", "::"})


def hold_up(file: ServeFile, address: str | None, ready: Callable[[Standing], None], say: Say = lambda _: None) -> None:
    """Start the services and hold them up until SIGTERM or Ctrl-C; then they finish what they accepted.

    Args:
        file: What to serve, and where.
        address: Of a running Ray cluster; None for one of its own, on this machine.
        ready: Called once, when they answer.
        say: Told what is done until then, a line at a time.

    Raises:
        BusyError: Services of the workspace are up.
        InputError: The port is taken, no cluster answers or takes this user's token, or a model cannot be served.
        RunError: They did not come up.
    """
    workspace = Workspace.open(file.settings.workspace_url, create=True)
    require_none(workspace.files)
    _require_port(file.host, file.port)
    ended = threading.Event()
    # In this order: Ray takes SIGTERM for itself when it starts, and would let this process abort.
    with _ray(address, say) as where, _signals(ended):
        if not logging.getLogger("raylens").isEnabledFor(logging.DEBUG):
            logging.getLogger("ray.serve").setLevel(logging.ERROR)  # what it does is on stderr otherwise
        try:
            say(f"starting Ray Serve on port {file.port}")
            serve.start(proxy_location="HeadOnly", http_options={**file.http, "host": file.host, "port": file.port})
            _run(file, say)
            standing = Standing(
                url=url_of(file), process=Process.current(), address=where, started_at=datetime.now(UTC)
            )
            write_standing(workspace.files, standing)
            try:
                ready(standing)
                ended.wait()
            finally:
                forget(workspace.files)
        finally:
            serve.shutdown()


def url_of(file: ServeFile) -> str:
    """Where clients of this machine reach them."""
    host = "127.0.0.1" if file.host in _ANY else file.host
    return f"http://{f'[{host}]' if ':' in host else host}:{file.port}"


def _run(file: ServeFile, say: Say) -> None:
    args = file.settings.model_dump(mode="json")
    for line in what_starts(file.settings):
        say(line)
    try:
        with told(say, APPLICATION):
            serve.run(build(args), name=APPLICATION, route_prefix="/", blocking=False)
    except RuntimeError as error:
        status = serve.status().applications.get(APPLICATION)
        said = [one.message for one in status.deployments.values() if one.message] if status else []
        why, hint = reason(said[0] if said else str(error))
        raise RunError(
            f"the services did not come up: {why}", hint=hint or "see the logs of Ray Serve; --verbose shows more."
        ) from error


@contextmanager
def _ray(address: str | None, say: Say) -> Iterator[str]:
    """A Ray: that of ``address``, or one of its own, which needs a token as well (its dashboard starts jobs)."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    verbose = logging.getLogger("raylens").isEnabledFor(logging.DEBUG)
    options: dict[str, Any] = {"logging_level": "INFO" if verbose else "ERROR", "log_to_driver": verbose}
    options["configure_logging"] = verbose
    say("starting Ray" if address is None else f"connecting to the Ray cluster at {address}")
    with own_ray(_cpus(), _OBJECT_STORE) if address is None else nullcontext() as own:
        where = own.address if own is not None else address
        try:
            with without_chatter(verbose=verbose):
                if address is not None:
                    bring_token(address)
                ray.init(where, **options)
        except (ConnectionError, AuthenticationError) as error:
            raise no_connection(where, error) from error
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


def _cpus() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _signals(ended: threading.Event) -> Iterator[None]:
    def end(_number: int, _frame: object) -> None:
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_port(host: str, port: int) -> None:
    """Ray Serve would say so in a log alone."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise InputError(
            f"port {port} of {host} cannot be used: {(error.strerror or 'it is taken').lower()}.",
            hint="name another one with --port.",
        ) from error
