"""Prompt files: each is a whole chat with places to fill in, and a user may put another in its stead (A1.09).

A file begins with ``version: N``; then come turns, each after a line ``--- system``, ``--- user`` or
``--- assistant``. In a turn ``{name}`` is a placeholder; any other brace is only a brace, so that JSON can be
written as it is::

    version: 1
    --- system
    You name what the marked tokens have in common.
    --- user
    {examples}

Rooms keep theirs in ``raylens/<room>/prompts``. File names are unique over all rooms, so one ``--prompt-dir`` serves
them all: a file there replaces the packaged one of the same name, and has to fill in the same placeholders.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import cast

from raylens.chat import Message, Role
from raylens.errors import InputError, UnknownNameError

PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_VERSION = re.compile(r"version: (\d{1,6})")
_TURN = re.compile(r"--- (\S.*?)\s*")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt file.

    Attributes:
        name: Of the file, without ``.txt``.
        version: As its first line says.
        turns: Role and text, placeholders unfilled; the last is the user's.
        sha256: Of its text with line feeds as line ends, hexadecimal.
    """

    name: str
    version: int
    turns: tuple[Message, ...]
    sha256: str

    @property
    def placeholders(self) -> frozenset[str]:
        return frozenset(name for turn in self.turns for name in PLACEHOLDER.findall(turn.content))

    def fill(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """The chat, with every placeholder replaced once: what is filled in is not searched for more of them.

        Raises:
            KeyError: ``values`` lacks one; that is a defect of the caller, since files are checked when read.
        """
        return tuple(
            Message(turn.role, PLACEHOLDER.sub(lambda found: values[found.group(1)], turn.content))
            for turn in self.turns
        )


@dataclass(frozen=True)
class Prompts:
    """The prompt files that one kind of request is built from."""

    files: Mapping[str, Prompt]

    def __getitem__(self, name: str) -> Prompt:
        if name not in self.files:
            raise UnknownNameError.among("prompt", name, self.files)
        return self.files[name]

    @cached_property
    def prompt_hash(self) -> str:
        """SHA-256 over names and contents of all its files, whatever order they were named in; hexadecimal."""
        lines = [f"{name} {prompt.sha256}\n" for name, prompt in sorted(self.files.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_prompts(room: str | Path, names: Sequence[str], override: Path | None = None) -> Prompts:
    """The named prompts of a room, each from ``override`` where a file of its name is there.

    Args:
        room: ``explain``, ``score`` …, or a folder of prompt files.
        names: File names without ``.txt``.
        override: The user's folder (``--prompt-dir``). Hidden files are passed over.

    Raises:
        UnknownNameError: A name that no packaged prompt has.
        InputError: ``override`` is no folder, holds a file that replaces nothing, or one that cannot be read as a
            prompt with the same placeholders as the packaged one. Every file there is checked, also those that this
            room does not use, so that a slip is seen before a run and not in the middle of it.
    """
    packaged = _packaged(room)
    everywhere = dict(packaged)
    if isinstance(room, str):
        for other in resources.files("raylens").iterdir():
            everywhere |= _text_files(other / "prompts")
    replaced = _replacements(override, everywhere) if override is not None else {}
    chosen: dict[str, Prompt] = {}
    for name in names:
        if name not in packaged:
            raise UnknownNameError.among("prompt", name, packaged)
        chosen[name] = replaced.get(name) or read_prompt(name, _read(packaged[name]), str(packaged[name]))
    return Prompts(chosen)


def packaged_names(room: str | Path) -> list[str]:
    """Names of a room's prompts."""
    return sorted(_packaged(room))


def read_prompt(name: str, text: str, where: str) -> Prompt:
    """A prompt of its file's text; ``where`` names the file in errors.

    Raises:
        InputError: It does not begin with a version, has text before the first turn, an unknown role, an empty turn,
            a system turn that is not first, or does not end with the user's.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    version = _VERSION.fullmatch(lines[0].rstrip())
    if version is None:
        raise _wrong(where, 1, "should read 'version: 1', or another number", "state the version of your wording there")
    turns: list[tuple[Role, int, list[str]]] = []
    for number, line in enumerate(lines[1:], start=2):
        turn = _TURN.fullmatch(line)
        if turn:
            role = turn.group(1)
            if role not in _ROLES:
                raise _wrong(where, number, f"names no role: {role!r}", f"write {', '.join(_ROLES)} after '---'")
            if role == "system" and turns:
                raise _wrong(where, number, "has a system turn after another", "a system turn can only be the first")
            turns.append((cast(Role, role), number, []))
        elif turns:
            turns[-1][2].append(line)
        elif line.strip():
            raise _wrong(where, number, "is text before the first turn", "begin a turn with '--- system' or '--- user'")
    if not turns or turns[-1][0] != "user":
        raise _wrong(where, len(lines), "ends a chat whose last turn is not the user's", "end with a '--- user' turn")
    messages: list[Message] = []
    for role, number, body in turns:
        content = "\n".join(body).strip("\n")
        if not content.strip():
            raise _wrong(where, number, "begins a turn without text", "write the turn below it, or leave the line out")
        messages.append(Message(role, content))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Prompt(name, int(version.group(1)), tuple(messages), digest)


def _wrong(where: str, line: int, what: str, hint: str) -> InputError:
    return InputError(f"{where}, line {line} {what}.", hint=f"{hint}.")


def _packaged(room: str | Path) -> dict[str, Traversable]:
    return _text_files(room if isinstance(room, Path) else resources.files("raylens") / room / "prompts")


def _text_files(folder: Traversable) -> dict[str, Traversable]:
    if not folder.is_dir():
        return {}
    return {file.name.removesuffix(".txt"): file for file in folder.iterdir() if file.name.endswith(".txt")}


def _read(file: Traversable) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _wrong(str(file), line, "is not UTF-8", "save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.", hint="check the file's permissions.") from error


def _replacements(folder: Path, packaged: Mapping[str, Traversable]) -> dict[str, Prompt]:
    """The user's prompts by name, each checked against the packaged one that it replaces."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a folder of prompts.", hint="name a folder with --prompt-dir, or leave it out."
        )
    found: dict[str, Prompt] = {}
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        name = file.name.removesuffix(".txt")
        if name == file.name or name not in packaged:
            raise UnknownNameError.among("prompt file", str(file), (f"{n}.txt" for n in packaged))
        text = _read(file)
        prompt = read_prompt(name, text, str(file))
        allowed = read_prompt(name, _read(packaged[name]), str(packaged[name])).placeholders
        _check_placeholders(text, str(file), allowed)
        missing = sorted(allowed - prompt.placeholders)
        if missing:
            raise _wrong(
                str(file), text.count("\n") + 1, f"ends the prompt without {_braced(missing)}",
                "a prompt has to show what is asked about; put each where its text should stand",
            )  # fmt: skip
        found[name] = prompt
    return found


def _check_placeholders(text: str, where: str, allowed: frozenset[str]) -> None:
    for number, line in enumerate(text.splitlines(), start=1):
        unknown = [name for name in PLACEHOLDER.findall(line) if name not in allowed]
        if unknown:
            can = f"it can fill in {_braced(sorted(allowed))}" if allowed else "it fills in none"
            raise _wrong(where, number, f"has the unknown placeholder {_braced(unknown[:1])}", can)


def _braced(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
