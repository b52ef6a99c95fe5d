"""Answers already paid for: one file each, named by everything that determines it.

The key is the SHA-256 of base URL, model and request as canonical JSON (of a local model, what its
files hold in place of the URL). No API key and no prompt is stored. What is damaged counts as
missing, and is written again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raylens.chat import Reply, Request, TokenLogprob
from raylens.llm.settings import EndpointSettings
from raylens.store.files import Files

_FORMAT = 1


Who = EndpointSettings | Mapping[str, str]
"""An endpoint, or all that determines what another model answers, by name."""


def request_key(who: Who, request: Request) -> str:
    """Hexadecimal SHA-256 of all that determines the answer; limits, prices and budgets do not."""
    return _digest({**_who(who), "request": asdict(request)})


def losses_key(who: Who, context: str, text: str) -> str:
    """Hexadecimal SHA-256 of all that determines the losses of ``text`` after ``context``."""
    return _digest({**_who(who), "losses": {"context": context, "text": text}})


def _who(who: Who) -> Mapping[str, str]:
    return {"base_url": who.base_url, "model": who.model} if isinstance(who, EndpointSettings) else who


class ReplyCache:
    """Replies below one folder of a workspace, or of any folder or bucket that :class:`Files` opens.

    Safe to share between processes: a file is whole or not there, and two writers of one key write
    answers to the same question. All calls block; the client makes them on threads.
    """

    def __init__(self, files: Files, folder: str = "replies") -> None:
        self._files = files
        self._folder = folder

    def path(self, key: str) -> str:
        """Where the answer for ``key`` is, relative to the root."""
        return f"{self._folder}/{key[:2]}/{key}.json"

    def get(self, key: str) -> Reply | None:
        """The stored answer, at no cost; None where there is none, or none that is whole."""
        try:
            stored = json.loads(self._files.read_bytes(self.path(key)))
            content = stored["content"]
            if stored["sha256"] != _digest(content) or content["format"] != _FORMAT or content["key"] != key:
                return None
            return _read(content["reply"])
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Store ``reply`` for ``key``, atomically and durably.

        Raises:
            DiskFullError: No space.
            WorkspaceError: No permission.
        """
        content = {"format": _FORMAT, "key": key, "reply": _plain(reply)}
        data = json.dumps({"content": content, "sha256": _digest(content)}, ensure_ascii=False)
        self._files.commit(self.path(key), data.encode("utf-8", "replace"))

    def forget(self, key: str) -> None:
        """Remove an answer that was of no use; what is missing is fine."""
        self._files.delete(self.path(key))


def _digest(value: Any) -> str:
    canonical = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(reply: Reply) -> dict[str, Any]:
    rows = reply.logprobs
    return {
        "text": reply.text,
        "logprobs": None if rows is None else [[one.token, _json(one.logprob), _alternatives(one)] for one in rows],
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "finish_reason": reply.finish_reason,
    }


def _alternatives(row: TokenLogprob) -> dict[str, float | None]:
    return {token: _json(value) for token, value in row.top.items()}


def _json(logprob: float) -> float | None:
    """JSON has no infinity; a probability of zero is null."""
    return logprob if math.isfinite(logprob) else None


def _number(stored: float | None) -> float:
    return -math.inf if stored is None else float(stored)


def _read(stored: dict[str, Any]) -> Reply:
    rows = stored["logprobs"]
    return Reply(
        text=stored["text"],
        logprobs=None
        if rows is None
        else tuple(
            TokenLogprob(token, _number(value), {other: _number(its) for other, its in top.items()})
            for token, value, top in rows
        ),
        prompt_tokens=stored["prompt_tokens"],
        completion_tokens=stored["completion_tokens"],
        cost_usd=0.0,
        finish_reason=stored["finish_reason"],
        from_cache=True,
    )
