"""Which tests run beside which, where `make test` runs them in several processes.

What tests share (a module's services, a folder's cache) is made once a process, so what shares goes to one process:
the tests of a file, and of some folders all tests. What takes long begins first, that no process ends alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest

WHOLE_FOLDERS: Final = ("tests/jobs/", "tests/services/")
"""Their tests share what takes a minute to make, or several gigabytes."""

_ROOMS: Final = "jobs audit_runs services serve training web workbench mcp cli store engine"
LONGEST_FIRST: Final = tuple(f"tests/{name}/" for name in _ROOMS.split())


def shared_by(nodeid: str) -> str:
    """The file or folder whose tests go to the same process.

    >>> shared_by("tests/jobs/test_ask.py::test_it")
    'tests/jobs/'
    >>> shared_by("tests/web/test_home.py::test_it[1]")
    'tests/web/test_home.py'
    """
    folder = next((one for one in WHOLE_FOLDERS if nodeid.startswith(one)), None)
    return folder or nodeid.partition("::")[0]


def turn(nodeid: str) -> int:
    """Its place among the folders; those that are not named come last.

    >>> turn("tests/jobs/test_ask.py::test_it") < turn("tests/llm/test_it.py::test_it")
    True
    """
    return next((n for n, one in enumerate(LONGEST_FIRST) if nodeid.startswith(one)), len(LONGEST_FIRST))


def refuse_twins(items: Sequence[pytest.Item]) -> None:
    """Of tests of one name, one alone would be run: pytest-xdist tells them apart by it.

    Raises:
        UsageError: Two tests have one name.
    """
    if twins := [name for name, n in Counter(one.nodeid for one in items).items() if n > 1]:
        raise pytest.UsageError(f"several tests have the name {twins[0]}: give each its own.")


def scheduler(config: pytest.Config, log: Any) -> Any:
    """What pytest-xdist asks for whom a test goes to."""
    from xdist.scheduler import LoadFileScheduling

    class Sharing(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return shared_by(nodeid)

    config.option.loadscopereorder = False  # it would begin with what has the most tests
    return Sharing(config, log)
