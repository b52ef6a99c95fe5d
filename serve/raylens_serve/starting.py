"""What is said while services start, which takes a minute on a small machine: line by line, what is waited for."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ray import serve
from ray.serve.schema import DeploymentStatusOverview

from raylens_serve.settings import ServeSettings

Say = Callable[[str], None]
"""Takes a line for people."""

EVERY_S: Final = 5.0
"""Between two lines about what is not up yet."""

_ERROR: Final = re.compile(r"raylens[\w.]*: (?P<message>.+?) hint: (?P<hint>.+)")
_LONGEST: Final = 300
_UP: Final = "HEALTHY"
_TRACE: Final = "Traceback (most recent call last)"
_AT_WORK: Final = "RUNNING"
_GRACE_S: Final = 10.0


def what_starts(settings: ServeSettings) -> list[str]:
    """What is about to be started, and what of it takes long: the encoder loads models when they are asked for."""
    explainer = settings.explainer
    names = ["Ledger", "Encoder", *(["Explainer"] if explainer is not None else []), "Gateway"]
    return [
        f"starting {', '.join(names)}",
        *([f"loading {explainer.model} into the Explainer"] if explainer is not None else []),
    ]


def not_up(parts: Mapping[str, DeploymentStatusOverview]) -> str:
    """Deployments that are not up yet, each with its state: ``Encoder (starting), Gateway (starting)``."""
    return ", ".join(f"{name} ({_state(one)})" for name, one in parts.items() if one.status != _UP)


def _state(part: DeploymentStatusOverview) -> str:
    states = [name for name, count in part.replica_states.items() if count and name != _AT_WORK] or [part.status]
    said = ", ".join(one.lower().replace("_", " ") for one in states)
    return f"{said}: {reason(part.message)[0]}" if part.message else said


def reason(message: str) -> tuple[str, str]:
    """The sentence of what Ray Serve says of a deployment, which may be a traceback, and the hint of an error of ours.

    Args:
        message: As it stands in a status.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ours = [found for line in lines if (found := _ERROR.fullmatch(line))]
    if ours:
        return ours[-1]["message"], ours[-1]["hint"]
    is_trace = any(line.startswith(_TRACE) for line in lines)
    return " ".join((lines[-1] if is_trace else " ".join(lines)).split())[:_LONGEST], ""


@contextmanager
def told(say: Say, application: str, every_s: float = EVERY_S) -> Iterator[None]:
    """Say every few seconds what of an application is not up yet, for as long as the block takes.

    Args:
        say: Takes the lines.
        application: Its name in Ray Serve.
        every_s: Seconds between two.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            try:
                found = serve.status().applications.get(application)
            except Exception:  # of Ray, which starts or ends in this moment: the next look will do
                continue
            waited_for = not_up(found.deployments) if found is not None else ""
            if waited_for and not ended.is_set():
                say(f"not up yet: {waited_for}")

    thread = threading.Thread(target=watch, name="what is waited for", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_GRACE_S)
