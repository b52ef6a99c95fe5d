"""Services in this process."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A workspace that is not there yet."""
    return tmp_path / "workspace"
