"""A fresh fake endpoint a test, and an environment without keys and proxies."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from fake_llm import FakeLlm


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("OPENAI_API_KEY", "OPENROUTER_API_KEY"):
            monkeypatch.delenv(name)


@pytest.fixture
def llm() -> Iterator[FakeLlm]:
    with FakeLlm() as server:
        yield server
