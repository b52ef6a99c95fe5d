"""A thread that says again and again: I am alive."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from raylens.errors import RaylensError

_log = logging.getLogger(__name__)


class Heartbeat:
    """Calls ``beat`` every ``every_s`` seconds until stopped.

    A beat that fails is logged and tried again: a full disk or a silent object store must not end
    the work by way of its heartbeat. Whoever reads the beats decides what a long silence means.
    """

    def __init__(self, beat: Callable[[], None], every_s: float, name: str) -> None:
        self._beat = beat
        self._every_s = every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No beat begins after this returns."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._every_s):
            try:
                self._beat()
            except (RaylensError, OSError) as error:
                _log.warning("%s: a heartbeat failed: %s", self._thread.name, error)
