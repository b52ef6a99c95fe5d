"""What a span's attributes say of a call of a language model, whoever instrumented it.

==================  ================================================================================================
who                 how
==================  ================================================================================================
OpenTelemetry       ``gen_ai.request.model``, ``gen_ai.input.messages``, ``gen_ai.output.messages`` …; before that
                    events ``gen_ai.user.message``, ``gen_ai.choice``, ``gen_ai.content.prompt`` …
OpenLLMetry         ``gen_ai.prompt.0.content``, ``gen_ai.completion.0.content``; before that ``llm.request.model``,
                    ``llm.prompts.0.content``, ``llm.completions.0.content``; ``traceloop.*``
OpenInference       ``llm.model_name``, ``llm.input_messages.0.message.content``, ``input.value``, ``output.value``
Vercel AI SDK       ``ai.model.id``, ``ai.prompt.messages``, ``ai.response.text``
Langfuse, MLflow    ``langfuse.observation.input`` …, ``mlflow.spanInputs`` …
==================  ================================================================================================

Names of models and providers are short and stay among the attributes; messages go from there into the span's input
and output where those hold all of them. The first source that holds a text counts; others stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raylens.traces.bounds import as_text, decoded
from raylens.traces.chat_events import SpanEvent, Spoken, Told, read_events
from raylens.traces.messages import Said, indexed, read_messages
from raylens.traces.span import Turn

MODEL_KEYS: Final = ("gen_ai.request.model", "gen_ai.response.model", "llm.model_name", "llm.request.model",
                     "llm.response.model", "embedding.model_name", "reranker.model_name", "ai.model.id",
                     "ai.response.model", "langfuse.observation.model.name", "mlflow.llm.model")  # fmt: skip
PROVIDER_KEYS: Final = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system", "llm.vendor",
                        "ai.model.provider", "mlflow.llm.provider")  # fmt: skip
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"

_KIND_KEYS: Final = ("openinference.span.kind", "gen_ai.operation.name", "llm.request.type", "ai.operationId",
                     "traceloop.span.kind", "langfuse.observation.type", "mlflow.spanType",
                     "langsmith.span.kind")  # fmt: skip
_KINDS: Final = {
    "llm": ("llm", "chat", "generate_content", "text_completion", "completion", "generation", "chat_model",
            "ai.generatetext.dogenerate", "ai.streamtext.dostream", "ai.generateobject.dogenerate",
            "ai.streamobject.dostream"),
    "tool": ("tool", "execute_tool", "function", "ai.toolcall"),
    "agent": ("agent", "invoke_agent", "create_agent"),
    "chain": ("chain", "workflow", "task", "invoke_workflow", "ai.generatetext", "ai.streamtext",
              "ai.generateobject", "ai.streamobject"),
    "embedding": ("embedding", "embeddings", "ai.embed", "ai.embedmany", "ai.embed.doembed", "ai.embedmany.doembed"),
    "retriever": ("retriever", "retrieval"),
    "reranker": ("reranker", "rerank"),
    "span": ("span", "event"),
}  # fmt: skip
_KIND_OF: Final = {word: kind for kind, words in _KINDS.items() for word in words}
_NAMED: Final = (("execute_tool", "tool"), ("invoke_agent", "agent"), ("create_agent", "agent"))
_COMPLETIONS: Final = frozenset({"text_completion", "completion"})
_SYSTEM: Final = "gen_ai.system_instructions"

_IN_MESSAGES: Final = ("gen_ai.input.messages", "gen_ai.prompt", "ai.prompt.messages", "ai.prompt", "llm.prompts")
_OUT_MESSAGES: Final = ("gen_ai.output.messages", "gen_ai.completion", "llm.completions")
_IN_INDEXED: Final = ("gen_ai.prompt", "llm.input_messages", "llm.prompts")
_OUT_INDEXED: Final = ("gen_ai.completion", "llm.output_messages", "llm.completions", "llm.choices")
_IN_TEXTS: Final = ("gen_ai.tool.call.arguments", "ai.toolCall.args", "langfuse.observation.input",
                    "traceloop.entity.input", "mlflow.spanInputs", "request_data", "input.value")  # fmt: skip
_OUT_TEXTS: Final = ("ai.response.text", "ai.response.object", "ai.response.toolCalls", "gen_ai.tool.call.result",
                     "ai.toolCall.result", "langfuse.observation.output", "traceloop.entity.output",
                     "mlflow.spanOutputs", "response_data", "output.value")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What the attributes say.

    Attributes:
        kind: As :class:`raylens.traces.span.Span` has it.
        model: Likewise.
        provider: Likewise.
        input: Turns, or a text where nothing says who spoke, or the model was to go on writing it.
        output: A text; turns where there are several, or somebody else speaks than the assistant.
        used: Names of attributes all of which is in ``input`` and ``output``.
        events: Of each event by its place, the attributes of it that likewise need not be kept.
        finish_reasons: Why each output stopped.
    """

    kind: str
    model: str | None
    provider: str | None
    input: str | tuple[Turn, ...]
    output: str | tuple[Turn, ...]
    used: frozenset[str] = frozenset()
    events: Told = field(default_factory=dict)
    finish_reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Source:
    """What one way of saying it gave."""

    said: Said | str
    used: frozenset[str] = frozenset()
    events: Told = field(default_factory=dict)


def read(name: str, attributes: Mapping[str, Any], events: Sequence[SpanEvent] = ()) -> Reading:
    """What the attributes of a span say.

    Args:
        name: The span's.
        attributes: Cleaned JSON values.
        events: Of the span.
    """
    model, provider = _first(attributes, MODEL_KEYS), _first(attributes, PROVIDER_KEYS)
    spoken_in, spoken_out = read_events(events)
    into = _pick(_inputs(attributes, spoken_in))
    out = _pick(_outputs(attributes, spoken_out))
    is_chat = any(source is not None and isinstance(source.said, Said) for source in (into, out))
    return Reading(
        kind=_kind(name, attributes, is_chat, model),
        model=model,
        provider=provider,
        input=_input(into, attributes),
        output=_output(out),
        used=frozenset().union(*(source.used for source in (into, out) if source)),
        events=_merged(*(source.events for source in (into, out) if source)),
        finish_reasons=out.said.finish_reasons if out and isinstance(out.said, Said) else (),
    )


def _pick(sources: Iterator[_Source]) -> _Source | None:
    return next((one for one in sources if one.said and not (isinstance(one.said, Said) and one.said.is_silent)), None)


def _inputs(attributes: Mapping[str, Any], spoken: Sequence[Spoken]) -> Iterator[_Source]:
    system = read_messages(attributes.get(_SYSTEM), "system")
    # Why it stopped is kept of outputs alone: where instructions say it, they stay among the attributes.
    told = frozenset({_SYSTEM}) if system and system.whole and not system.finish_reasons else frozenset[str]()
    for source in _structured(attributes, _IN_MESSAGES, _IN_INDEXED, spoken, "user"):
        if system is None or not isinstance(source.said, Said) or source.said.is_silent:
            yield source
            continue
        said = Said((*system.turns, *source.said.turns), source.said.whole)
        yield _Source(said, source.used | told, source.events)
    yield from _texts(attributes, _IN_TEXTS)
    if system is not None:
        yield _Source(system, told)


def _outputs(attributes: Mapping[str, Any], spoken: Sequence[Spoken]) -> Iterator[_Source]:
    yield from _structured(attributes, _OUT_MESSAGES, _OUT_INDEXED, spoken, "assistant")
    yield from _texts(attributes, _OUT_TEXTS)


def _structured(
    attributes: Mapping[str, Any],
    keys: Sequence[str],
    prefixes: Sequence[str],
    spoken: Sequence[Spoken],
    role: str,
) -> Iterator[_Source]:
    """Messages: in one attribute, in events, or spread over attributes."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and decoded(value) is None:
            yield _Source(value, frozenset({key}))
        elif (said := read_messages(value, role)) is not None:
            yield _Source(said, frozenset({key}) if _is_all(said, role) else frozenset())
    for said, told in spoken:
        yield _Source(said, events=told)
    for prefix in prefixes:
        messages, used = indexed(attributes, prefix)
        if (said := read_messages(messages, role)) is not None:
            yield _Source(said, frozenset(used) if _is_all(said, role) else frozenset())


def _is_all(said: Said, role: str) -> bool:
    """Whether what it was read from need not be kept; reasons are kept of answers alone."""
    return said.whole and (role == "assistant" or not said.finish_reasons)


def _texts(attributes: Mapping[str, Any], keys: Sequence[str]) -> Iterator[_Source]:
    """Texts, which may be JSON of messages that name who spoke."""
    for key in keys:
        value = attributes.get(key)
        if value is None:
            continue
        said = read_messages(value, "user", loose=False)
        if said is not None:
            yield _Source(said, frozenset({key}) if said.whole and not said.finish_reasons else frozenset())
        else:
            yield _Source(as_text(value), frozenset({key}))


def _input(source: _Source | None, attributes: Mapping[str, Any]) -> str | tuple[Turn, ...]:
    if source is None:
        return ""
    if isinstance(source.said, str):
        return source.said
    turns = source.said.turns
    operation = _first(attributes, ("gen_ai.operation.name", "llm.request.type"))
    # Instrumentations call the prompt of a completion a user's message; the model was given the text alone.
    is_completion = operation in _COMPLETIONS or "llm.prompts" in source.used
    return turns[0].content if is_completion and _is_one(turns, "user") else turns


def _output(source: _Source | None) -> str | tuple[Turn, ...]:
    if source is None:
        return ""
    if isinstance(source.said, str):
        return source.said
    turns = source.said.turns
    return turns[0].content if _is_one(turns, "assistant") else turns


def _is_one(turns: Sequence[Turn], role: str) -> bool:
    return len(turns) == 1 and turns[0].role == role


def _kind(name: str, attributes: Mapping[str, Any], is_chat: bool, model: str | None) -> str:
    for key in _KIND_KEYS:
        word = (_first(attributes, (key,)) or "").strip('"').lower()
        if word in _KIND_OF:
            return _KIND_OF[word]
        if word and word != "unknown" and key == "openinference.span.kind":
            return word[:100]
    for begins, kind in _NAMED:
        if name.startswith(begins):
            return kind
    if "gen_ai.tool.name" in attributes:
        return "tool"
    if "embedding.model_name" in attributes:
        return "embedding"
    return "llm" if model is not None or is_chat else "span"


def _first(attributes: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of these attributes that says something."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _merged(*told: Told) -> dict[int, frozenset[str]]:
    merged: dict[int, frozenset[str]] = {}
    for one in told:
        for at, keys in one.items():
            merged[at] = merged.get(at, frozenset()) | keys
    return merged
