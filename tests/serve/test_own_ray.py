"""A Ray of one's own ends with who started it."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

SCRIPT = """
from raylens_serve.own_ray import own_ray
with own_ray(1, 100_000_000) as own:
    print(own.pid, flush=True)
    input()
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["killed", "ended"])
def test_nothing_is_left(how: str) -> None:
    starter = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    ray = psutil.Process(int(starter.stdout.readline()))
    everybody = [ray, *ray.children(recursive=True)]
    assert len(everybody) > 5
    starter.kill() if how == "killed" else starter.communicate("\n")
    starter.wait()
    until = time.monotonic() + 100
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in everybody):
        assert time.monotonic() < until, [one.name() for one in everybody if one.is_running()]
        time.sleep(0.1)
