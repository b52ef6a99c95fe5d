"""What instrumentations send, each in its own words, and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from raylens.traces.chat_events import SpanEvent
from raylens.traces.genai import Reading, read
from raylens.traces.span import Turn

ASKED = (Turn(role="system", content="Be brief."), Turn(role="user", content="Name a colour."))


def parts(role: str, *texts: str) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text} for text in texts]}


SAYS: dict[str, dict[str, Any]] = {
    "OpenTelemetry, as JSON": {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.model": "gpt-4o-2024-08-06",
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
        "gen_ai.input.messages": json.dumps([parts("user", "Name a colour.")]),
        "gen_ai.output.messages": json.dumps([parts("assistant", "Blue.") | {"finish_reason": "stop"}]),
    },
    "OpenTelemetry, structured": {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.input.messages": [parts("system", "Be brief."), parts("user", "Name a colour.")],
        "gen_ai.output.messages": [parts("assistant", "Blue.")],
    },
    "OpenLLMetry": {
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o",
        "llm.request.type": "chat",
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": "Be brief.",
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": json.dumps([{"type": "text", "text": "Name a colour."}]),
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": "Blue.",
        "gen_ai.completion.0.finish_reason": "stop",
    },
    "OpenLLMetry, the older names": {
        "llm.vendor": "openai",
        "llm.request.model": "gpt-4o",
        "llm.request.type": "chat",
        "llm.prompts.0.role": "system",
        "llm.prompts.0.content": "Be brief.",
        "llm.prompts.1.role": "user",
        "llm.prompts.1.content": "Name a colour.",
        "llm.completions.0.role": "assistant",
        "llm.completions.0.content": "Blue.",
    },
    "OpenInference": {
        "openinference.span.kind": "LLM",
        "llm.provider": "openai",
        "llm.model_name": "gpt-4o",
        "llm.input_messages.0.message.role": "system",
        "llm.input_messages.0.message.content": "Be brief.",
        "llm.input_messages.1.message.role": "user",
        "llm.input_messages.1.message.contents.0.message_content.type": "text",
        "llm.input_messages.1.message.contents.0.message_content.text": "Name a colour.",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.content": "Blue.",
        "input.value": json.dumps({"messages": "as the API has them"}),
        "input.mime_type": "application/json",
        "output.value": "Blue.",
    },
    "Vercel AI SDK": {
        "ai.operationId": "ai.generateText.doGenerate",
        "ai.model.id": "gpt-4o",
        "ai.model.provider": "openai",
        "ai.prompt.messages": json.dumps(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Name a colour."}]},
            ]
        ),
        "ai.response.text": "Blue.",
    },
    "Langfuse": {
        "langfuse.observation.type": "generation",
        "langfuse.observation.model.name": "gpt-4o",
        "gen_ai.system": "openai",
        "langfuse.observation.input": json.dumps(
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
        ),
        "langfuse.observation.output": json.dumps({"role": "assistant", "content": "Blue."}),
    },
    "MLflow": {
        "mlflow.spanType": '"CHAT_MODEL"',
        "mlflow.llm.model": "gpt-4o",
        "mlflow.llm.provider": "openai",
        "mlflow.spanInputs": json.dumps(
            {"model": "gpt-4o", "messages": [{"role": t.role, "content": t.content} for t in ASKED]}
        ),
        "mlflow.spanOutputs": json.dumps({"message": {"role": "assistant", "content": "Blue."}}),
    },
    "LangChain's own JSON": {
        "langsmith.span.kind": "llm",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.prompt": json.dumps(
            {
                "messages": [
                    [
                        {"lc": 1, "type": "constructor", "kwargs": {"content": "Be brief.", "type": "system"}},
                        {"lc": 1, "type": "constructor", "kwargs": {"content": "Name a colour.", "type": "human"}},
                    ]
                ]
            }
        ),
        "gen_ai.completion": json.dumps({"content": "Blue.", "type": "ai"}),
    },
}


@pytest.mark.parametrize("who", SAYS)
def test_a_chat_reads_alike_whoever_reports_it(who: str) -> None:  # A0.01: the span that features are read of
    reading = read("chat gpt-4o", SAYS[who], [])
    assert (reading.kind, reading.model, reading.provider) == ("llm", "gpt-4o", "openai")
    assert reading.input == ASKED
    assert reading.output == "Blue."


def events(*named: tuple[str, dict[str, Any]]) -> list[SpanEvent]:
    return [SpanEvent(name, 10 * at, attributes) for at, (name, attributes) in enumerate(named)]


EVENTS = {
    "OpenTelemetry": events(
        ("gen_ai.system.message", {"content": "Be brief."}),
        ("gen_ai.user.message", {"content": "Name a colour."}),
        ("gen_ai.choice", {"index": 0, "finish_reason": "stop", "message": json.dumps({"content": "Blue."})}),
    ),
    "Azure": events(
        ("gen_ai.system.message", {"gen_ai.event.content": json.dumps({"role": "system", "content": "Be brief."})}),
        ("gen_ai.user.message", {"gen_ai.event.content": json.dumps({"role": "user", "content": "Name a colour."})}),
        (
            "gen_ai.choice",
            {
                "gen_ai.event.content": json.dumps(
                    {"message": {"content": "Blue."}, "finish_reason": "stop", "index": 0}
                )
            },
        ),
    ),
    "Bedrock's blocks": events(
        ("gen_ai.system.message", {"content": json.dumps([{"text": "Be brief."}])}),
        ("gen_ai.user.message", {"content": json.dumps([{"text": "Name a colour."}])}),
        ("gen_ai.choice", {"finish_reason": "stop", "message": json.dumps([{"text": "Blue."}])}),
    ),
    "all in one": events(
        (
            "gen_ai.client.inference.operation.details",
            {
                "gen_ai.input.messages": [parts("system", "Be brief."), parts("user", "Name a colour.")],
                "gen_ai.output.messages": [parts("assistant", "Blue.") | {"finish_reason": "stop"}],
            },
        )
    ),
    "the first convention": events(
        (
            "gen_ai.content.prompt",
            {"gen_ai.prompt": json.dumps([{"role": t.role, "content": t.content} for t in ASKED])},
        ),
        (
            "gen_ai.content.completion",
            {"gen_ai.completion": json.dumps([{"role": "assistant", "content": "Blue.", "finish_reason": "stop"}])},
        ),
    ),
}


@pytest.mark.parametrize("who", EVENTS)
def test_messages_may_come_as_events(who: str) -> None:
    reading = read("chat gpt-4o", {"gen_ai.request.model": "gpt-4o"}, EVENTS[who])
    assert reading.input == ASKED
    assert reading.output == "Blue."
    assert reading.finish_reasons == ("stop",)
    assert reading.kind == "llm"
    assert set(reading.events) == set(range(len(EVENTS[who])))


def test_an_answer_may_be_one_more_message() -> None:
    said = events(("gen_ai.user.message", {"content": "Hi"}), ("gen_ai.assistant.message", {"content": "Hello"}))
    assert (read("chat", {}, said).input, read("chat", {}, said).output) == (
        (Turn(role="user", content="Hi"),),
        "Hello",
    )


def test_what_a_turn_has_no_place_for_stands_in_it_as_json_and_is_kept() -> None:
    call = {"type": "tool_call", "id": "1", "name": "weather", "arguments": {"city": "Paris"}}
    sent = {
        "gen_ai.input.messages": [
            {"role": "user", "parts": [{"type": "text", "content": "Look:"}, {"type": "uri", "uri": "x"}]}
        ],
        "gen_ai.output.messages": [{"role": "assistant", "parts": [call], "finish_reason": "tool_call"}],
    }
    reading = read("chat", sent, [])
    assert reading.input == (Turn(role="user", content='Look:\n{"type": "uri", "uri": "x"}'),)
    assert json.loads(str(reading.output)) == call
    assert reading.used == {"gen_ai.output.messages"}, "two parts are joined in a text: what was sent stays as well"
    spread = {
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.tool_calls.0.name": "weather",
        "gen_ai.completion.0.tool_calls.0.arguments": "{}",
    }
    reading = read("chat", spread, [])
    assert json.loads(str(reading.output)) == [{"name": "weather", "arguments": "{}"}]
    assert reading.used == frozenset()


def test_several_answers_stay_apart() -> None:
    sent = {"gen_ai.completion.1.content": "B", "gen_ai.completion.0.content": "A", "gen_ai.completion.10.content": "C"}
    assert [turn.content for turn in read("chat", sent, []).output if isinstance(turn, Turn)] == ["A", "B", "C"]


def test_a_completion_is_a_text_that_the_model_was_to_go_on_writing() -> None:
    for sent in (
        {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.prompt.0.content": "def f",
            "gen_ai.prompt.0.role": "user",
        },
        {"llm.request.type": "completion", "llm.prompts.0.content": "def f"},
        {"llm.prompts": ["def f"]},
        {"gen_ai.prompt": "def f"},
        {"llm.prompts.0.prompt.text": "def f", "llm.request.type": "completion"},
    ):
        assert read("completion", sent, []).input == "def f", sent


KINDS = [
    ("POST /", {"http.method": "POST"}, "span"),
    ("execute_tool weather", {}, "tool"),
    ("run", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "weather"}, "tool"),
    ("run", {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "gpt-4o"}, "agent"),
    ("run", {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": "ada"}, "embedding"),
    ("run", {"traceloop.span.kind": "workflow"}, "chain"),
    ("run", {"traceloop.span.kind": "tool"}, "tool"),
    ("run", {"openinference.span.kind": "GUARDRAIL"}, "guardrail"),
    ("run", {"openinference.span.kind": "UNKNOWN"}, "span"),
    ("ai.generateText", {"ai.operationId": "ai.generateText", "ai.model.id": "gpt-4o"}, "chain"),
    ("run", {"gen_ai.request.model": "gpt-4o"}, "llm"),
    ("run", {"gen_ai.operation.name": 7, "gen_ai.request.model": " "}, "span"),
    ("run", {"gen_ai.operation.name": "chat"}, "llm"),
]


@pytest.mark.parametrize(("name", "attributes", "kind"), KINDS)
def test_a_span_is_a_call_of_a_model_only_where_it_says_so(name: str, attributes: dict[str, Any], kind: str) -> None:
    assert read(name, attributes, []).kind == kind


def test_a_call_without_a_model_has_none() -> None:  # A0.23
    reading = read("chat", {"gen_ai.operation.name": "chat", "gen_ai.prompt.0.content": "Hi"}, [])
    assert (reading.kind, reading.model, reading.provider) == ("llm", None, None)


def test_a_tool_span_holds_what_it_was_called_with() -> None:
    sent = {"gen_ai.tool.name": "w", "gen_ai.tool.call.arguments": {"city": "Paris"}, "gen_ai.tool.call.result": "mild"}
    reading = read("execute_tool w", sent, [])
    assert (reading.input, reading.output) == ('{"city": "Paris"}', "mild")


def test_the_first_source_that_says_something_counts_and_others_stay() -> None:
    sent = {"gen_ai.prompt.0.content": "", "input.value": "the text", "output.value": "the answer"}
    reading = read("run", sent, [])
    assert (reading.input, reading.output) == ("the text", "the answer")
    assert reading.used == {"input.value", "output.value"}


def test_nothing_said_is_nothing_read() -> None:
    assert read("", {}, []) == Reading("span", None, None, "", "")
    odd = {
        "gen_ai.input.messages": 7,
        "gen_ai.output.messages": [],
        "llm.prompts": {},
        "gen_ai.prompt.x": "y",
        "gen_ai.prompt.0": 1,
    }
    assert read("", odd, []).output == ""
