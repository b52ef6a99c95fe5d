"""Messages of chats, in the forms that instrumentations send them, as turns.

A message is known by what it holds, not by who sent it: a role, and content under ``content``, ``contents``,
``parts`` or ``text``, which is a text or a list of parts. The forms differ in how they wrap that: OpenTelemetry's
``{"role", "parts": [{"type": "text", "content"}]}``, OpenAI's ``{"role", "content": [{"type": "text", "text"}]}``,
Bedrock's ``[{"text"}]``, OpenInference's ``{"message": {…}}``, LangChain's ``{"kwargs": {…}}``.

What a turn has no place for (tool calls, images) stands in its content as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raylens.traces.bounds import as_text, decoded
from raylens.traces.span import TEXT_LIMIT, Turn

ROLE_CHARS: Final = 100
MOST_TURNS: Final = 10_000
"""Of one list of messages; what follows is not read."""
_DEEPEST: Final = 16
_INDEXED: Final = re.compile(r"([0-9]{1,9})\.(.+)", re.DOTALL)
_WRAPPERS: Final = ("message", "prompt", "completion", "kwargs", "message_content")
_CONTENTS: Final = ("content", "contents", "parts", "text")
_CALLS: Final = ("tool_calls", "function_call", "toolCalls", "function_call_name")
_TEXT_TYPES: Final = frozenset({"text", "input_text", "output_text"})
_THOUGHTS: Final = frozenset({"reasoning", "thinking"})
_RESULTS: Final = frozenset({"tool_call_response", "tool_result", "tool-result"})
_SPEAKERS: Final = {"human": "user", "user": "user", "ai": "assistant", "assistant": "assistant", "system": "system",
                    "tool": "tool"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """What was said.

    Attributes:
        turns: In order.
        whole: Whether they hold all that was sent: what they were read from need not be kept then.
        finish_reasons: Why each stopped, where that was said.
    """

    turns: tuple[Turn, ...]
    whole: bool
    finish_reasons: tuple[str, ...] = ()

    @property
    def is_silent(self) -> bool:
        """Whether no turn holds a text."""
        return not any(turn.content for turn in self.turns)


def read_messages(value: Any, role: str, *, loose: bool = True) -> Said | None:
    """The turns of a message or a list of them, given as values or as JSON text.

    Args:
        value: Cleaned.
        role: Of messages that name none.
        loose: Take what has no role as well: a bare text, a list of texts, a lone part.

    Returns:
        None where there are no messages in it.
    """
    if isinstance(value, str):
        inside = decoded(value)
        found = None if inside is None else read_messages(inside, role, loose=loose)
        if found is not None or not loose or not value:
            return found
        return _cut([Turn(role=role, content=value[:TEXT_LIMIT])], whole=len(value) <= TEXT_LIMIT)
    if isinstance(value, Mapping):
        return _read_request(value, role, loose) or _read_all([value], role, loose)
    if isinstance(value, Sequence) and value:
        if len(value) == 1 and isinstance(value[0], list):  # a batch of one, as LangChain sends it
            return read_messages(value[0], role, loose=loose)
        return _read_all(value, role, loose)
    return None


def indexed(attributes: Mapping[str, Any], prefix: str) -> tuple[list[Any], set[str]]:
    """Messages that are spread over attributes: ``<prefix>.0.role``, ``<prefix>.0.content`` …

    Returns:
        The messages by index, as nested values, and the names of the attributes they were made of.
    """
    tree: dict[str, Any] = {}
    used: set[str] = set()
    for key, value in attributes.items():
        match = _INDEXED.fullmatch(key, len(prefix) + 1) if key.startswith(f"{prefix}.") else None
        if match and _plant(tree.setdefault(match[1], _Folder()), match[2].split("."), value):
            used.add(key)
    return [_listed(tree[at]) for at in sorted(tree, key=int)], used


def _read_request(value: Mapping[str, Any], role: str, loose: bool) -> Said | None:
    """What was asked of an API: messages, or one prompt, and perhaps what the system says beside them."""
    key = next((key for key in ("messages", "prompt") if isinstance(value.get(key), str | list)), None)
    if key is None or "role" in value:
        return None
    found = read_messages(value[key], role, loose=loose)
    system = read_messages(value.get("system"), "system") if found else None
    if found is None:
        return None
    whole = (
        found.whole
        and set(value) <= {key, "system"}
        and (system is None or (system.whole and not system.finish_reasons))
    )
    return Said((*(system.turns if system else ()), *found.turns), whole, found.finish_reasons)


def _read_all(messages: Sequence[Any], role: str, loose: bool) -> Said | None:
    turns, whole, reasons = [], len(messages) <= MOST_TURNS, []
    for message in messages[:MOST_TURNS]:
        if isinstance(message, Mapping):
            opened, wrapped = _opened(message)
            if not loose and _speaker(opened) is None:
                return None
            if not any(key in opened for key in (*_CONTENTS, *_CALLS, "role")):
                opened = {"content": [message]}
            turn, complete = _turn(opened, role)
            reason = opened.get("finish_reason", message.get("finish_reason"))
            reasons += [reason] if isinstance(reason, str) and reason else []
            whole &= complete and not wrapped
        elif not loose:
            return None
        else:
            turn = Turn(role=role, content=as_text(message)[:TEXT_LIMIT])
        turns.append(turn)
    return _cut(turns, whole, reasons)


def _cut(turns: Sequence[Turn], whole: bool, reasons: Sequence[str] = ()) -> Said:
    """All turns together hold no more than one text may."""
    kept, left = [], TEXT_LIMIT
    for turn in turns:
        content = turn.content[:left]
        whole &= content == turn.content
        left -= len(content)
        kept.append(turn if content == turn.content else Turn(role=turn.role, content=content))
    return Said(tuple(kept), whole, tuple(reasons))


def _opened(message: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
    """The message inside of its wrapper, and whether the wrapper held more than that."""
    more = False
    while not any(key in message for key in ("role", *_CONTENTS)):
        inner = next((key for key in _WRAPPERS if isinstance(message.get(key), Mapping)), None)
        if inner is None:
            break
        more |= bool(set(message) - {inner, "index", "finish_reason"})
        message = message[inner]
    return message, more


def _speaker(message: Mapping[str, Any]) -> str | None:
    said = message.get("role") or message.get("type")
    if not isinstance(said, str):
        return None
    return said if "role" in message else _SPEAKERS.get(said)  # LangChain's word for a role is type


def _turn(message: Mapping[str, Any], role: str) -> tuple[Turn, bool]:
    """A message as a turn, and whether that holds all of it."""
    held = next((key for key in _CONTENTS if message.get(key) is not None), None)
    text, whole = _content(message[held]) if held else ("", True)
    calls = [as_text(message[key]) for key in _CALLS if message.get(key)]
    speaker, content = _speaker(message) or role, "\n".join([text, *calls] if text else calls)
    known = {"role", "finish_reason", held} | ({"type"} if _word(message.get("type")) in _TEXT_TYPES else set())
    whole &= not calls and not set(message) - known
    whole &= all(isinstance(message.get(key), str | None) for key in ("role", "finish_reason"))
    whole &= len(speaker) <= ROLE_CHARS and len(content) <= TEXT_LIMIT
    return Turn(role=speaker[:ROLE_CHARS], content=content[:TEXT_LIMIT]), whole


def _content(content: Any) -> tuple[str, bool]:
    """The text of a message's content, and whether that holds all of it."""
    if isinstance(content, str):
        parts = decoded(content)
        if not isinstance(parts, list) or not parts or not all(map(_is_part, parts)):
            return content, True
        content = parts
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        return as_text(content), True
    texts = [_part(part) for part in content]
    return "\n".join(text for text, _ in texts if text), len(texts) <= 1 and all(whole for _, whole in texts)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping) and ("text" in value or isinstance(value.get("type"), str))


def _part(part: Any) -> tuple[str, bool]:
    """The text of one part, and whether that holds all of it."""
    if not isinstance(part, Mapping):
        return as_text(part), True
    inside = part.get("message_content")
    part = inside if isinstance(inside, Mapping) else part
    kind = _word(part.get("type"))
    text = next((part[key] for key in ("text", "content", "thinking") if isinstance(part.get(key), str)), None)
    if text is not None and ("type" not in part or kind in _TEXT_TYPES):
        return text, set(part) <= {"type", "text", "content"}
    if text is not None and kind in _THOUGHTS:
        return text, False
    if kind in _RESULTS:
        result = next((part[key] for key in ("response", "result", "content") if part.get(key) is not None), part)
        return _content(result)[0] if result is not part else as_text(part), False
    return as_text(part), True


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


class _Folder(dict[str, Any]):
    """An object that names of attributes spell, told from one that is the value of an attribute."""


def _plant(tree: _Folder, path: Sequence[str], value: Any) -> bool:
    """Set a leaf; False where a leaf is in the way, or it would be too deep."""
    *folders, leaf = path
    if len(folders) > _DEEPEST:
        return False
    for folder in folders:
        tree = tree.setdefault(folder, _Folder())
        if not isinstance(tree, _Folder):
            return False
    if leaf in tree:
        return False
    tree[leaf] = value
    return True


def _listed(tree: Any) -> Any:
    """Objects whose keys count become lists."""
    if not isinstance(tree, _Folder):
        return tree
    inside = {key: _listed(value) for key, value in tree.items()}
    if inside and all(re.fullmatch("[0-9]{1,9}", key) for key in inside):
        return [inside[key] for key in sorted(inside, key=int)]
    return inside
