"""The command line that does the same as a form or goes on with an interrupted audit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from raylens.api.audit_request import AuditRequest
from raylens.store.audit_paths import RunPlace

_OPTIONS: Final = {
    "reference": "--reference",
    "sae": "--sae",
    "suite": "--suite",
    "score_method": "--score-method",
    "session": "--session",
    "run": "--run",
    "title": "--title",
    "target_fpr": "--target-fpr",
    "top_k": "--top-k",
    "pooling": "--pooling",
    "max_new_tokens": "--max-new-tokens",
}
_FLAGS: Final = {
    "no_sae": (True, "--no-sae"),
    "again": (True, "--again"),
    "trigger_search": (False, "--no-trigger-search"),
    "explain": (False, "--no-explain"),
    "override_guard": (True, "--override-guard"),
}
_CONFIGURED: Final = {"model": "reference", "k": "top_k"}
"""Names that ``run.json`` has for what a request calls otherwise."""
_MORE: Final = ("revision", "dtype", "device", "workers", "threads", "num_gpus", "catalog_file")
"""Options of the command line that a request has not."""


def audit_command(workspace: str, asked: AuditRequest) -> str:
    """``raylens audit run`` with what differs from its defaults."""
    words = ["raylens", "--workspace", workspace, "audit", "run", "--candidate", asked.candidate]
    usual = AuditRequest(candidate="-").model_dump()
    for name, value in asked.model_dump().items():
        if value == usual[name]:
            continue
        if name in _OPTIONS:
            words += [_OPTIONS[name], str(value)]
        elif name in _FLAGS and value is _FLAGS[name][0]:
            words.append(_FLAGS[name][1])
    return shlex.join(words)


def command_of(workspace: str, place: RunPlace, config: Mapping[str, Any]) -> str | None:
    """The command that goes on with a run, from what its ``run.json`` says; None where that says too little."""
    if not isinstance(config.get("candidate"), str):
        return None
    named = {_CONFIGURED.get(name, name): value for name, value in config.items()}
    fields = {name: named[name] for name in AuditRequest.model_fields if named.get(name) is not None}
    fields |= {"session": place.session, "run": place.run}
    fields |= {"no_sae": named.get("sae") is None, "explain": named.get("explain") is not None}
    try:
        command = audit_command(workspace, AuditRequest.model_validate(fields))
    except ValueError:
        return None
    more = [word for name in _MORE if named.get(name) not in (None, "auto") for word in (_option(name), named[name])]
    more += [word for text in named.get("texts") or () for word in ("--text", text)]
    more += ["--hide-low-similarity"] if named.get("hide_low_similarity") else []
    return " ".join([command, *(shlex.quote(str(word)) for word in more)])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
