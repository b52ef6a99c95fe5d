"""Reading a suite's YAML strictly: whatever is wrong is one sentence that names file, line and key (A2.03)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar, cast

from raylens.chat import Message, Role
from raylens.suites.checks import CHECK_NAMES, INSECURE_KINDS, Check, pattern_problem
from raylens.suites.suite import ORIGINAL, Prompt, Suite, Variant
from raylens.suites.suite_file import (
    Fields,
    Items,
    Node,
    Place,
    Scalar,
    fields_of,
    list_of,
    read_tree,
    share_of,
    text_of,
    truth_of,
)

MAX_PROMPTS: Final = 10_000
MAX_TEXT: Final = 20_000
"""Characters of one text or turn."""
MAX_TURNS: Final = 100
MAX_VARIANTS: Final = 100
MAX_LIST: Final = 50
"""Tags or checks of one prompt."""

_SLUG: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SUITE: Final = ("name", "description", "prompts")
_PROMPT: Final = ("id", "text", "chat", "tags", "variants", "checks")
_VARIANT: Final = ("text", "chat", "kind")
_TURN: Final = ("role", "content")
_ROLES: Final = ("system", "user", "assistant")
_T = TypeVar("_T")


def parse_suite(data: bytes | str, name: str, file: str | None = None) -> Suite:
    """Read a suite.

    Args:
        data: YAML, at most ``suite_file.MAX_BYTES``.
        name: Of the suite, unless it names itself.
        file: What errors call it; by default ``name``.

    Raises:
        InputError: One sentence that names the file, the line and the key of the first thing that is wrong.
    """
    root = read_tree(data.encode() if isinstance(data, str) else data, file or name)
    description = ""
    if isinstance(root, Fields):
        root.only(_SUITE, "a suite")
        name = _slug(node) if (node := root.get("name")) else name
        description = text_of(node, MAX_TEXT) if (node := root.get("description")) else ""
        listed = root.get("prompts")
        if listed is None:
            raise root.at.wrong("has no prompts", "list them under prompts.")
    else:
        listed = root
    nodes = list_of(listed, "prompts")
    at = listed.at if listed.at.key else Place(listed.at.file, listed.at.line, "prompts")
    if not nodes:
        raise at.wrong("has no prompt", "begin each with '- id:'.")
    if len(nodes) > MAX_PROMPTS:
        raise at.wrong(f"has {len(nodes):,} prompts", f"{MAX_PROMPTS:,} are allowed; split the suite.")
    return Suite(name, _prompts(nodes), description)


def is_name(text: str) -> bool:
    """Whether a suite, prompt, tag or kind of variant may be called so."""
    return _SLUG.fullmatch(text) is not None


def _prompts(nodes: Sequence[Node]) -> tuple[Prompt, ...]:
    prompts: list[Prompt] = []
    ids: dict[str, Place] = {}
    said: dict[object, str] = {}
    for node in nodes:
        prompt = _prompt(fields_of(node, _PROMPT, "a prompt"), said)
        at = cast(Fields, node).fields["id"][0]
        if prompt.id in ids:
            raise at.wrong(
                f"{prompt.id!r} is given in line {ids[prompt.id].line} already", "give each an id of its own."
            )
        ids[prompt.id] = at
        prompts.append(prompt)
    return tuple(prompts)


def _prompt(fields: Fields, said: dict[object, str]) -> Prompt:
    identity = fields.get("id")
    if identity is None:
        raise fields.at.wrong("has no id", "give each prompt one, such as id: read-lines.")
    name = _slug(identity)
    original = Variant(*_said(fields, "a prompt", said, name), ORIGINAL)
    variants: tuple[Variant, ...] = ()
    if (node := fields.get("variants")) is not None:
        variants = tuple(_variant(item, said, name) for item in _few(node, "variants", MAX_VARIANTS))
    return Prompt(name, original, variants, _tags(fields), _checks(fields))


def _variant(node: Node, said: dict[object, str], prompt: str) -> Variant:
    if isinstance(node, Scalar):
        text = text_of(node, MAX_TEXT)
        _say(text, node.at, said, prompt)
        return Variant(text)
    fields = fields_of(node, _VARIANT, "a variant")
    kind = fields.get("kind")
    text, chat = _said(fields, "a variant", said, prompt)
    return Variant(text, chat, _slug(kind)) if kind is not None else Variant(text, chat)


def _said(
    fields: Fields, what: str, said: dict[object, str], prompt: str
) -> tuple[str | None, tuple[Message, ...] | None]:
    text, chat = fields.get("text"), fields.get("chat")
    if text is not None and chat is not None:
        raise fields.fields["chat"][0].wrong("stands beside text", f"{what} has one of the two.")
    if text is None and chat is None:
        raise fields.at.wrong("has neither text nor chat", f"{what} has one of the two.")
    found = (text_of(text, MAX_TEXT), None) if text is not None else (None, _turns(cast(Node, chat)))
    _say(found[0] or found[1], cast(Node, text or chat).at, said, prompt)
    return found


def _say(words: object, at: Place, said: dict[object, str], prompt: str) -> None:
    if words in said:
        raise at.wrong(f"says what {said[words]!r} says already", "one text under two names would count twice.")
    said[words] = prompt


def _turns(node: Node) -> tuple[Message, ...]:
    turns: list[Message] = []
    for item in _few(node, "turns", MAX_TURNS):
        fields = fields_of(item, _TURN, "a turn")
        role, content = fields.get("role"), fields.get("content")
        if role is None or content is None:
            raise fields.at.wrong(f"has no {'role' if role is None else 'content'}", "a turn has role and content.")
        name = text_of(role, MAX_TEXT)
        if name not in _ROLES:
            raise role.at.wrong(f"is no role: {name!r}", f"there are {', '.join(_ROLES)}.")
        if name == "system" and turns:
            raise role.at.wrong("is a system turn after another", "a system turn can only be the first.")
        turns.append(Message(cast(Role, name), text_of(content, MAX_TEXT)))
    if turns[-1].role != "user":
        raise node.at.wrong("ends with a turn that is not the user's", "let the last role be user.")
    return tuple(turns)


def _tags(fields: Fields) -> tuple[str, ...]:
    node = fields.get("tags")
    return tuple(_without_repeats(_few(node, "tags", MAX_LIST), _slug)) if node is not None else ()


def _checks(fields: Fields) -> tuple[Check, ...]:
    node = fields.get("checks")
    return tuple(_without_repeats(_few(node, "checks", MAX_LIST), _check)) if node is not None else ()


def _check(node: Node) -> Check:
    if isinstance(node, Scalar):
        name = text_of(node, MAX_TEXT)
        if name == "regex":
            raise node.at.wrong("names no pattern", 'write {regex: "…"}.')
        _known_check(name, node.at)
        return Check(name)
    if not isinstance(node, Fields) or not node.fields:
        raise node.at.wrong("is no check", f"write one of {', '.join(CHECK_NAMES)}.")
    name, (place, argument) = next(iter(node.fields.items()))
    _known_check(name, place)
    if name == "regex":
        return _regex(node)
    node.only((name,), f"the check {name}")
    if name == "max_repetition":
        return Check(name, limit=share_of(argument))
    if name == "no_insecure_call":
        return Check(name, kinds=tuple(_without_repeats(_few(argument, "classes", MAX_LIST), _insecure_kind)))
    raise place.wrong("takes no argument", f"write it alone: - {name}.")


def _regex(fields: Fields) -> Check:
    fields.only(("regex", "absent", "ignore_case"), "the check regex")
    place, node = fields.fields["regex"]
    pattern = text_of(node, MAX_TEXT)
    if problem := pattern_problem(pattern):
        raise place.wrong(problem, "patterns are RE2's: no lookaround, no backreference.")
    absent, ignore_case = (
        flag is not None and truth_of(flag) for flag in (fields.get("absent"), fields.get("ignore_case"))
    )
    return Check("regex", pattern, absent, ignore_case)


def _known_check(name: str, at: Place) -> None:
    if name not in CHECK_NAMES:
        raise at.wrong(f"{name!r} is no check", f"there are {', '.join(CHECK_NAMES)}.")


def _insecure_kind(node: Node) -> str:
    kind = text_of(node, MAX_TEXT)
    if kind not in INSECURE_KINDS:
        raise node.at.wrong(f"{kind!r} is no class", f"there are {', '.join(INSECURE_KINDS)}.")
    return kind


def _few(node: Node, what: str, limit: int) -> tuple[Node, ...]:
    nodes = list_of(node, what)
    if not nodes:
        raise node.at.wrong("is an empty list", "leave it out.")
    if len(nodes) > limit:
        raise cast(Items, node).at.wrong(f"has {len(nodes)} {what}", f"{limit} are allowed.")
    return nodes


def _without_repeats(nodes: Iterable[Node], read: Callable[[Node], _T]) -> list[_T]:
    found: list[_T] = []
    for node in nodes:
        one = read(node)
        if one in found:
            raise node.at.wrong("is given twice", "keep one of them.")
        found.append(one)
    return found


def _slug(node: Node) -> str:
    text = text_of(node, MAX_TEXT)
    if not is_name(text):
        shown = text if len(text) <= 40 else text[:39] + "…"
        raise node.at.wrong(f"is {shown!r}", "write up to 64 lower-case letters, digits, dots, dashes and underscores.")
    return text
