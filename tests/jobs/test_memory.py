"""What a worker held is free before anything else asks for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psutil
import ray

from raylens_jobs.processes import await_exit, this_process

FREED = """
import threading, psutil
from raylens_jobs.memory import release

def hold():
    kept = [bytearray(50_000) for _ in range(4_000)]
    alive = kept[::500]
    del kept
    return alive

alive = []
def work(): alive.append(hold())

threads = [threading.Thread(target=work) for _ in range(2)]
for one in threads: one.start()
for one in threads: one.join()
before = psutil.Process().memory_info().rss
release()
print(before - psutil.Process().memory_info().rss)
"""


def test_what_threads_freed_goes_back_to_the_machine() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100_000_000, "of twice 200 MB, all but eight pieces of a thread were freed"


def test_an_actor_that_is_waited_for_is_gone(ray_cluster: None) -> None:
    class Worker:
        def where(self) -> str:
            return this_process()

    start: Any = ray.remote(num_cpus=0)(Worker)
    actor = start.remote()
    where: str = ray.get(actor.where.remote())
    pid = int(where.rpartition(":")[2])
    assert psutil.pid_exists(pid)
    await_exit([where], timeout_s=0.1)
    assert psutil.pid_exists(pid), "it was only waited for"
    await_exit(["another node:1"])
    del actor
    await_exit([where])
    assert not psutil.pid_exists(pid)
