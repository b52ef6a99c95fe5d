"""A container that was killed: the next one takes over what it left behind, and never what still answers."""

from __future__ import annotations

import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from live_services import free_port
from raylens.errors import BusyError
from raylens.store.process import Process
from raylens.store.standing import Standing, read_standing, require_none, write_standing
from raylens.store.workspace import Workspace


def standing(port: int, process: Process) -> Standing:
    return Standing(url=f"http://127.0.0.1:{port}", process=process, address="ray", started_at=datetime.now(UTC))


def test_what_a_container_before_this_one_left_behind_keeps_nobody_out(tmp_path: Path) -> None:
    files = Workspace.open(str(tmp_path), create=True).files
    # The same name, another boot or pid namespace: whether its processes live cannot be seen from here.
    before = replace(Process.current(), machine="0123456789abcdef")
    write_standing(files, standing(free_port(), before))
    assert read_standing(files) is None
    require_none(files)


def test_services_that_answer_are_up_whoever_started_them(tmp_path: Path) -> None:
    files = Workspace.open(str(tmp_path), create=True).files
    before = replace(Process.current(), machine="0123456789abcdef")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        write_standing(files, standing(listening.getsockname()[1], before))
        with pytest.raises(BusyError):
            require_none(files)


def test_another_machine_is_believed(tmp_path: Path) -> None:
    files = Workspace.open(str(tmp_path), create=True).files
    elsewhere = replace(Process.current(), machine="0123456789abcdef", host="elsewhere")
    write_standing(files, standing(free_port(), elsewhere))
    with pytest.raises(BusyError):
        require_none(files)
