"""Messages that instrumentations send as events of a span, one event a message or all of them in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raylens.traces.bounds import decoded
from raylens.traces.messages import Said, read_messages

_ROLES: Final = {
    "gen_ai.system.message": "system",
    "gen_ai.developer.message": "developer",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
    "gen_ai.tool.message": "tool",
    "gen_ai.content.prompt": "user",
}
_CHOICES: Final = frozenset({"gen_ai.choice", "gen_ai.content.completion"})
_DETAILS: Final = frozenset({"gen_ai.client.inference.operation.details"})
_BODIES: Final = ("gen_ai.event.content", "gen_ai.prompt", "gen_ai.completion", "body", "message")
_FIELDS: Final = ("role", "gen_ai.event.role", "content", "tool_calls", "finish_reason")

Told = Mapping[int, frozenset[str]]
"""Of each event by its place, the attributes of it that are in the turns."""
Spoken = tuple[Said, Told]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """An event of a span.

    Attributes:
        name: What happened.
        time_unix_nano: When, nanoseconds since the epoch; 0 where that was not said.
        attributes: Cleaned JSON values.
    """

    name: str
    time_unix_nano: int
    attributes: Mapping[str, Any]


def read_events(events: Sequence[SpanEvent]) -> tuple[list[Spoken], list[Spoken]]:
    """What went in and what came out, as events say: each in as many versions as there are, the fullest first."""
    into, out = (
        _details(events, "gen_ai.input.messages", "user"),
        _details(events, "gen_ai.output.messages", "assistant"),
    )
    asked = [found for at, event in enumerate(events) if (found := _message(at, event, _ROLES.get(event.name)))]
    chosen = [
        found
        for at, event in enumerate(events)
        if event.name in _CHOICES and (found := _message(at, event, "assistant"))
    ]
    if not chosen and len(asked) > 1 and asked[-1][0].turns[-1].role == "assistant":
        asked, chosen = asked[:-1], asked[-1:]  # some report the answer as one more message
    return into + _joined(asked), out + _joined(chosen)


def _details(events: Sequence[SpanEvent], key: str, role: str) -> list[Spoken]:
    """Messages of an event that holds all of them."""
    found = []
    for at, event in enumerate(events):
        said = read_messages(event.attributes.get(key), role) if event.name in _DETAILS else None
        if said is not None:
            found.append((said, {at: frozenset({key})} if said.whole else {}))
    return found


def _message(at: int, event: SpanEvent, role: str | None) -> Spoken | None:
    """The message of an event that holds one."""
    if role is None:
        return None
    held = next((key for key in _BODIES if event.attributes.get(key) is not None), None)
    if held is not None:
        body = event.attributes[held]
        inside = decoded(body) if isinstance(body, str) else body
        if isinstance(inside, list):
            said = read_messages(inside, role, loose=False) or read_messages({"role": role, "content": inside}, role)
        else:
            said = read_messages(_with_role(inside, role) if isinstance(inside, Mapping) else [body], role)
        used = {held}
    else:
        fields = {key: event.attributes[key] for key in _FIELDS if event.attributes.get(key) is not None}
        used = set(fields)
        said_role = fields.pop("gen_ai.event.role", None)
        said = read_messages(_with_role(fields, str(said_role or role)), role) if fields else None
    if said is None or not said.turns:
        return None
    reason = event.attributes.get("finish_reason")
    reasons = said.finish_reasons or ((reason,) if isinstance(reason, str) and reason else ())
    # Why something stopped is kept of answers alone.
    told = said.whole and (event.name in _CHOICES or not said.finish_reasons)
    return Said(said.turns, said.whole, reasons), {at: frozenset(used)} if told else {}


def _with_role(message: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    return message if "role" in message or "message" in message else {"role": role, **message}


def _joined(messages: Sequence[Spoken]) -> list[Spoken]:
    if not messages:
        return []
    said = Said(
        tuple(turn for one, _ in messages for turn in one.turns),
        all(one.whole for one, _ in messages),
        tuple(reason for one, _ in messages for reason in one.finish_reasons),
    )
    return [(said, {at: keys for _, told in messages for at, keys in told.items()})]
