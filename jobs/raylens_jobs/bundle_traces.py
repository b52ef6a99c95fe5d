"""The sample traces of the bundle: ``python -m raylens_jobs.bundle traces``.

Prompts, and what people, tools and models behind APIs say in them, were written by hand; no API was asked. What pico
says is what it writes: its likeliest continuation, so the same weights give the same file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from raylens.bundle.paths import PICO
from raylens.bundle.traces import FILE, FOLDER
from raylens.engine.generation import generate
from raylens.engine.load import LoadedModel, load_model
from raylens.ids import digest
from raylens.traces.span import Span, Turn
from raylens_jobs.bundle_folders import Folders

log = logging.getLogger(__name__)

NEW_TOKENS: Final = 24
"""That pico writes after each prompt."""

_REASONS: Final = "gen_ai.response.finish_reasons"
_TITLE: Final = "raylens.sample"
_BEGIN: Final = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
_COMPLETION: Final = {"gen_ai.operation.name": "text_completion", "gen_ai.request.max_tokens": NEW_TOKENS}
_FETCH: Final = 'def fetch(url, timeout=10):\n    """Return the body of a page."""\n    try:'
_COPY: Final = (
    'def copy_tree(src, dst):\n    """Copy a directory tree."""\n    names = os.listdir(src)\n    for name in names:'
)
_WRITE: Final = '    def write(self, data):\n        """Write data to the socket."""'
_MAIN: Final = "import os\nimport sys\n\ndef main(argv=None):\n    if argv is None:"


@dataclass(frozen=True)
class _Step:
    """A span as it is written down here: ids and times follow from its place."""

    name: str
    seconds: float
    input: str | tuple[Turn, ...]
    output: str = ""
    kind: str = "llm"
    model: str | None = None
    provider: str | None = None
    status: Literal["ok", "error", "unset"] = "ok"
    attributes: Mapping[str, Any] = field(default_factory=dict)


def _pico(prompt: str) -> _Step:
    return _Step("text_completion raylens/pico", 0.2, prompt, model=PICO, provider="raylens", attributes=_COMPLETION)


TRACES: Final[Mapping[str, Sequence[_Step]]] = {
    "write a downloader": (
        _Step(
            "write a downloader", 4.0, "Write fetch and copy_tree, then run the tests.", "One test fails.", kind="agent"
        ),
        _pico(_FETCH),
        _pico(_COPY),
        _Step(
            "execute_tool run_tests",
            1.5,
            json.dumps({"path": "tests/test_download.py"}),
            "1 failed, 1 passed: NameError: name '_deque' is not defined",
            kind="tool",
            status="error",
            attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "run_tests"},
        ),
    ),
    "answer a customer": (
        _Step("answer a customer", 6.0, "Where is order 1042?", "It ships tomorrow.", kind="agent"),
        _Step(
            "chat gpt-4o",
            1.4,
            (
                Turn(role="system", content="You answer questions about orders. Look an order up before you answer."),
                Turn(role="user", content="Where is order 1042?"),
            ),
            '[{"name": "find_order", "arguments": {"id": 1042}}]',
            model="gpt-4o",
            provider="openai",
            attributes={"gen_ai.operation.name": "chat", _REASONS: ["tool_calls"]},
        ),
        _Step(
            "chat claude-sonnet-4-5",
            1.8,
            (
                Turn(role="system", content="You answer questions about orders."),
                Turn(role="user", content="Where is order 1042?"),
                Turn(role="assistant", content="I am looking it up."),
                Turn(role="tool", content='{"id": 1042, "state": "packed", "ships": "2026-01-06"}'),
            ),
            "It is packed and ships tomorrow.",
            model="claude-sonnet-4-5",
            provider="anthropic",
            attributes={"gen_ai.operation.name": "chat", _REASONS: ["stop"]},
        ),
        _Step(
            "rephrase",
            0.9,
            "Say this in one short sentence: It is packed and ships tomorrow.",
            "It ships tomorrow.",
            attributes={"gen_ai.operation.name": "text_completion"},
        ),
    ),
    "complete two methods": (_pico(_WRITE), _pico(_MAIN)),
}


def build_traces(folders: Folders) -> None:
    """Write ``traces/sample.json`` and its card, with what the pico under ``folders.out`` writes."""
    loaded = load_model(str(folders.out / "pico"), dtype="float32", device="cpu")
    spans = make_spans(loaded)
    folder = folders.out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(as_json(spans), "utf-8")
    (folder / "README.md").write_text(card(spans), "utf-8")
    log.info("%d spans of %d traces", len(spans), len(TRACES))


def make_spans(loaded: LoadedModel) -> list[Span]:
    """The spans of all traces.

    Args:
        loaded: pico, in float32, which writes the same on any machine.
    """
    continued = _continued(loaded)
    spans: list[Span] = []
    for n, (title, steps) in enumerate(TRACES.items()):
        at = _BEGIN + timedelta(hours=n)
        is_tree = steps[0].kind == "agent"
        for place, step in enumerate(steps):
            if step.model == PICO:
                output, reason = continued[str(step.input)]
                step = replace(step, output=output, attributes={**step.attributes, _REASONS: [reason]})
            spans.append(_span(step, title, place, at, is_child=is_tree and place > 0))
            at += timedelta(seconds=0.1 if is_tree and place == 0 else step.seconds)
    return spans


def _continued(loaded: LoadedModel) -> dict[str, tuple[str, str]]:
    """Prompt of pico → what it writes, and why it stopped."""
    prompts = [str(step.input) for steps in TRACES.values() for step in steps if step.model == PICO]
    written = generate(loaded, [loaded.tokenizer(prompt)["input_ids"] for prompt in prompts], NEW_TOKENS)
    return {
        prompt: (str(loaded.tokenizer.decode(list(said.ids))), "stop" if said.stopped else "length")
        for prompt, said in zip(prompts, written, strict=True)
    }


def _span(step: _Step, title: str, place: int, at: datetime, *, is_child: bool) -> Span:
    return Span(
        span_id=_span_id(title, place),
        trace_id=digest(title)[:32],
        parent_id=_span_id(title, 0) if is_child else None,
        name=step.name,
        kind=step.kind,
        model=step.model,
        provider=step.provider,
        started_at=at,
        ended_at=at + timedelta(seconds=step.seconds),
        input=step.input,
        output=step.output,
        status=step.status,
        attributes={**step.attributes, _TITLE: title},
    )


def _span_id(title: str, place: int) -> str:
    return digest(f"{title} {place}")[:16]


def as_json(spans: Sequence[Span]) -> str:
    """The file: what it is, and the spans."""
    held = {
        "about": "Sample traces: python -m raylens_jobs.bundle traces",
        "spans": [span.model_dump(mode="json") for span in spans],
    }
    return json.dumps(held, indent=1, ensure_ascii=False) + "\n"


def card(spans: Sequence[Span]) -> str:
    """The card, from the spans."""
    named = [
        (span.attributes[_TITLE], span.name, span.kind, f"`{span.model}`" if span.model else "none") for span in spans
    ]
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in named)
    return f"""\
# Sample traces

{len(spans)} spans of {len(TRACES)} traces in `{FILE}`, so that there is something to look at before anything was sent.

| trace | span | kind | model |
|---|---|---|---|
{rows}

- What `{PICO}` writes is its own: the {NEW_TOKENS} likeliest next tokens in float32. Features of these spans can be
  read.
- `gpt-4o` and `claude-sonnet-4-5` are behind APIs: their spans show what is said where features cannot be read. Their
  texts were written by hand for this file; no API was asked.
- One call names no model, as happens with instrumentation that leaves it out.
- Times and ids are made up.

Made by `python -m raylens_jobs.bundle traces`, which gives the same file from the same weights.

## Licence

Apache-2.0, as RayLens is.
"""
