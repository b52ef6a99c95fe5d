"""``raylens train``: recorded activations → an SAE in SAELens's format.

Runs in this process, or with ``--address`` as one Ray task on the cluster, on a GPU where there is one.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import ray
import torch

from raylens.config import TrainConfig
from raylens.engine.dedicated import dedicate
from raylens.engine.sae_training import TrainProgress, check_training, train_sae
from raylens.errors import InputError
from raylens.store.dense import DenseRecord
from raylens.store.files import Files
from raylens.store.runs import RunJournal, stop_requested
from raylens.store.workspace import Workspace
from raylens_jobs.cluster import available_cpus, cluster, probe_shared
from raylens_jobs.failures import ray_failures


def run_train(
    config: TrainConfig,
    record: DenseRecord,
    files: Files,
    folder: str,
    journal: RunJournal,
    report: Callable[[TrainProgress], None] = lambda _: None,
    *,
    address: str | None = None,
) -> dict[str, Any]:
    """Train, or go on; returns the figures of :func:`raylens.engine.sae_training.train_sae`.

    Args:
        config: What to train.
        record: Activations.
        files: Where the SAE goes: a workspace's files, or a folder's.
        folder: Folder below their root; empty for the root itself.
        journal: The run's record, which also carries requests to stop.
        report: Called now and then; not from a cluster, where the journal alone tells.
        address: A running Ray cluster; None for this process.

    Raises:
        InputError: As :func:`check_train`.
        StoppedError: Asked to stop, by ``raylens stop`` or Ctrl-C; a checkpoint was written.
    """

    def note(progress: TrainProgress) -> None:
        journal.progress(step=progress.step, steps=progress.steps, fvu=progress.fvu, l0=progress.l0, dead=progress.dead)
        report(progress)

    if address is None:
        torch.set_num_threads(config.threads or available_cpus())
        with _ctrl_c() as pressed:
            return train_sae(
                config,
                record,
                files,
                folder,
                owner=journal.run_id,
                report=note,
                should_stop=lambda: pressed() or journal.stop_requested(),
            )
    check_train(config, record, files, folder, address=address)
    with cluster(address), ray_failures("training"):
        probe_shared(Workspace(files))
        gpus = 1 if ray.cluster_resources().get("GPU", 0) and config.device in ("auto", "cuda") else 0
        task = ray.remote(num_cpus=config.threads or 1, num_gpus=gpus, max_retries=3)(_train_remotely)
        return ray.get(task.remote(config, record, files, folder, journal.run_id))


def check_train(
    config: TrainConfig, record: DenseRecord, files: Files, folder: str, *, address: str | None = None
) -> None:
    """Refuse before any work, and before anything is written, what :func:`run_train` could not do.

    Raises:
        InputError: As :func:`raylens.engine.sae_training.train_sae`; or a cluster is to train, and the places are not
            in a workspace.
    """
    if address is None:
        check_training(config, record, files, folder)
        return
    for place in (files, record.files):
        if not place.exists("raylens.json"):
            raise InputError(
                f"{place.url} is not in a workspace, so it is not known whether the cluster sees it.",
                hint="give --out and --activations names without a slash or dot.",
            )
    # The device is the cluster's to have, not this machine's.
    check_training(config.model_copy(update={"device": "cpu"}), record, files, folder)


def _train_remotely(config: TrainConfig, record: DenseRecord, files: Files, folder: str, run_id: str) -> dict[str, Any]:
    dedicate(config.threads or 1)
    looked = 0

    def asked() -> bool:
        nonlocal looked
        looked += 1
        return looked % 100 == 0 and stop_requested(files, run_id)

    return train_sae(config, record, files, folder, owner=run_id, should_stop=asked)


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request to stop, heard between two steps; the second ends at once."""
    pressed = False

    def press(_signal: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    try:
        before = signal.signal(signal.SIGINT, press)
    except ValueError:  # not the main thread, which alone hears of it
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
