"""A suite's YAML as a tree that knows its lines, so that every slip is told by file, line and key.

PyYAML's events are read one by one and nothing is constructed from them. So a tag makes no object, an anchor cannot
be expanded a billion times, and depth is bounded before anything recurses. Only what a suite needs is read: one
document of lists, mappings with text keys, and scalars; tags, anchors, aliases and merge keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import yaml

from raylens.errors import InputError

MAX_BYTES: Final = 2**20
MAX_DEPTH: Final = 8

# libyaml reads a megabyte in a fraction of a second, PyYAML's own parser in many.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN: Final = "write plain YAML; text with colons, quotes or several lines goes into a block (text: |)."
_QUOTE: Final = "put it in quotes where it is meant as text."
_STR: Final = "str"
# Escapes in double quotes can make what a file may not hold as it is.
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file.

    Attributes:
        file: As it is shown to people.
        line: From 1.
        key: Path of keys and of numbers (from 1), such as ``prompts.3.text``; empty for the whole.
    """

    file: str
    line: int
    key: str = ""

    def wrong(self, what: str, hint: str) -> InputError:
        """The error that ``what`` is wrong here: ``<file>, line <n>: <key> <what>.``"""
        return InputError(f"{self.file}, line {self.line}: {self.key or 'the file'} {what}.", hint=hint)

    def below(self, key: str | int, line: int) -> Place:
        return Place(self.file, line, f"{self.key}.{key}" if self.key else str(key))


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text, a number, a truth value or nothing; ``kind`` is what YAML takes it for (``str``, ``int``, ``bool`` …)."""

    at: Place
    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    at: Place
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping; each key has a place of its own."""

    at: Place
    fields: dict[str, tuple[Place, Node]]

    def get(self, key: str) -> Node | None:
        found = self.fields.get(key)
        return found[1] if found else None

    def only(self, known: Collection[str], what: str) -> None:
        """Refuse any key but ``known``.

        Raises:
            InputError: The first unknown one, with the known that looks most like it.
        """
        for key, (place, _) in self.fields.items():
            if key not in known:
                close = get_close_matches(key, known, n=1)
                meant = f"did you mean {close[0]}? " if close else ""
                raise place.wrong(f"is not a key of {what}", f"{meant}it has {', '.join(known)}.")


Node = Scalar | Items | Fields


def read_tree(data: bytes, file: str) -> Node:
    """The one document of ``data``; ``file`` names it in errors.

    Raises:
        InputError: It is larger than ``MAX_BYTES``, not UTF-8, no YAML, empty, more than one document, nested deeper
            than ``MAX_DEPTH``, or has a key twice, a key that is no text, a tag, an anchor or an alias.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{file} is larger than {MAX_BYTES // 2**20} MiB.", hint="split it into several suites.")
    text = _decoded(data, file)
    try:
        return _built(text, file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = " ".join(str(error.problem or error.context).split())
        raise InputError(f"{file}, line {line}: this is no YAML: {said}.", hint=_PLAIN) from None
    except yaml.YAMLError as error:
        raise InputError(f"{file} is no YAML: {' '.join(str(error).split())}.", hint=_PLAIN) from None


def text_of(node: Node, limit: int) -> str:
    """A scalar as text that is not blank and can be given to any tokenizer.

    Raises:
        InputError: It is no text, blank, longer than ``limit`` characters, or holds a control character other than
            tab and line ends, or half of a surrogate pair.
    """
    if not isinstance(node, Scalar) or node.kind != _STR:
        raise node.at.wrong(f"should be text and is {_described(node)}", _QUOTE)
    if not node.value.strip():
        raise node.at.wrong("is empty", "write its text, or leave it out.")
    if len(node.value) > limit:
        raise node.at.wrong(f"has {len(node.value):,} characters", f"{limit:,} are allowed.")
    odd = next(
        (c for c in node.value if (c < " " and c not in "\t\n\r") or c == "\x7f" or "\ud800" <= c <= "\udfff"), ""
    )
    if odd:
        raise node.at.wrong(f"holds the character U+{ord(odd):04X}", "leave control characters out.")
    return node.value


def list_of(node: Node, what: str) -> tuple[Node, ...]:
    """The items of a list.

    Raises:
        InputError: It is no list.
    """
    if not isinstance(node, Items):
        raise node.at.wrong(f"should be a list of {what} and is {_described(node)}", "begin each with a dash.")
    return node.items


def fields_of(node: Node, known: Collection[str], what: str) -> Fields:
    """A mapping of no other keys than ``known``.

    Raises:
        InputError: It is no mapping, or has another key.
    """
    if not isinstance(node, Fields):
        raise node.at.wrong(f"should be {what} and is {_described(node)}", f"{what} has {', '.join(known)}.")
    node.only(known, what)
    return node


def truth_of(node: Node) -> bool:
    """``true`` or ``false``.

    Raises:
        InputError: It is neither.
    """
    if not isinstance(node, Scalar) or node.kind != "bool":
        raise node.at.wrong(f"should be true or false and is {_described(node)}", "write one of the two, unquoted.")
    return node.value.lower() in {"true", "yes", "on"}


def share_of(node: Node) -> float:
    """A number from 0 to 1.

    Raises:
        InputError: It is none.
    """
    try:
        value = float(node.value) if isinstance(node, Scalar) and node.kind in {"int", "float"} else None
    except ValueError:  # YAML's own ways to write a number, such as 0x1 and 1:30
        value = None
    if value is None or not 0 <= value <= 1:
        raise node.at.wrong(f"should be a number from 0 to 1 and is {_described(node)}", "write 0.5, say.")
    return value


def _decoded(data: bytes, file: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{file}, line {line}: this is not UTF-8.", hint="save the file as UTF-8.") from None
    odd = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise InputError(
            f"{file}, line {line}: this holds the character U+{ord(odd.group()):04X}.",
            hint="leave control characters out.",
        )
    return text


def _built(text: str, file: str) -> Node:
    resolve = yaml.resolver.Resolver().resolve
    root: list[Node] = []
    # What is open, innermost last: its place, and where the next node goes.
    open_: list[_Open] = []
    documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise Place(file, line).wrong("goes on with a second document", "keep one suite in a file.")
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            done = open_.pop()
            (open_[-1].add if open_ else root.append)(done.node())
        elif isinstance(event, yaml.NodeEvent):
            place = open_[-1].place(event, line) if open_ else Place(file, line)
            _plain(event, place)
            if isinstance(event, yaml.ScalarEvent):
                tag = resolve(yaml.ScalarNode, event.value, event.implicit)
                scalar = Scalar(place, tag.rpartition(":")[2], event.value)
                (open_[-1].add if open_ else root.append)(scalar)
            elif len(open_) == MAX_DEPTH:
                raise place.wrong(f"is nested more than {MAX_DEPTH} deep", "a suite is a list of prompts.")
            else:
                open_.append(_OpenItems(place) if isinstance(event, yaml.SequenceStartEvent) else _OpenFields(place))
    if not root or (isinstance(root[0], Scalar) and root[0].kind == "null"):
        raise InputError(f"{file} is empty.", hint="a suite is a YAML list of prompts, each with id and text.")
    return root[0]


def _plain(event: yaml.NodeEvent, place: Place) -> None:
    if isinstance(event, yaml.AliasEvent):
        raise place.wrong(f"is an alias (*{event.anchor})", "write it out; a suite has no aliases.")
    if event.anchor is not None:
        raise place.wrong(f"has an anchor (&{event.anchor})", "leave it out; a suite has no anchors.")
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise place.wrong(f"has the tag {tag}", f"leave the tag out; {_QUOTE}")


class _OpenItems:
    """A list whose end has not come."""

    def __init__(self, at: Place) -> None:
        self.at = at
        self.items: list[Node] = []
        self.add: Callable[[Node], None] = self.items.append

    def place(self, event: yaml.NodeEvent, line: int) -> Place:
        return self.at.below(len(self.items) + 1, line)

    def node(self) -> Node:
        return Items(self.at, tuple(self.items))


class _OpenFields:
    """A mapping whose end has not come; keys and values take turns."""

    def __init__(self, at: Place) -> None:
        self.at = at
        self.fields: dict[str, tuple[Place, Node]] = {}
        self.key: Place | None = None
        self.name = ""

    def place(self, event: yaml.NodeEvent, line: int) -> Place:
        if self.key is not None:
            # Where a value begins; that it is missing is told at its key.
            return Place(self.key.file, line if getattr(event, "value", "-") else self.key.line, self.key.key)
        name = event.value if isinstance(event, yaml.ScalarEvent) else "a key"
        return self.at.below(name if name.strip() and len(name) <= 80 else "a key", line)

    def add(self, node: Node) -> None:
        if self.key is not None:
            self.fields[self.name] = (self.key, node)
            self.key = None
            return
        if not isinstance(node, Scalar) or node.kind != _STR:
            raise node.at.wrong(f"is a key that is {_described(node)}", "keys are plain words.")
        if node.value in self.fields:
            raise node.at.wrong("is given twice", "keep one of them.")
        self.key, self.name = node.at, node.value

    def node(self) -> Node:
        return Fields(self.at, self.fields)


_Open = _OpenItems | _OpenFields


def _described(node: Node) -> str:
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Fields):
        return "a mapping"
    if node.kind == "null":
        return "nothing"
    shown = node.value if len(node.value) <= 40 else node.value[:39] + "…"
    kinds = {_STR: "the text", "int": "the number", "float": "the number", "bool": "the truth value"}
    return f"{kinds.get(node.kind, 'the ' + node.kind)} {shown!r}"
