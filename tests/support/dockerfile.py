"""A Dockerfile as instructions, a stage each; enough of the format for one that this project writes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Final

_HEREDOC: Final = re.compile(r"<<-?'?(\w+)'?")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: In capitals.
        value: What follows it, in one line.
        heredoc: The text that it is given, where there is one.
    """

    name: str
    value: str
    heredoc: str = ""


@dataclass(frozen=True)
class Stage:
    """What stands between two ``FROM``; arguments before the first are a stage without a name."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def values(self, name: str) -> list[str]:
        return [one.value for one in self.instructions if one.name == name]


def read_dockerfile(text: str) -> dict[str, Stage]:
    """Stages by name, in order."""
    stages = {"": Stage("", "")}
    here = stages[""]
    for one in _instructions(text):
        if one.name == "FROM":
            base, _, name = one.value.partition(" AS ")
            here = stages[name] = Stage(name, base)
        else:
            here.instructions.append(one)
    return stages


def _instructions(text: str) -> list[Instruction]:
    found, lines = [], iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        whole = line
        while whole.endswith("\\"):
            whole = whole[:-1] + next(lines)
        name, _, value = whole.partition(" ")
        heredoc = []
        if end := _HEREDOC.search(value):
            while (inner := next(lines)) != end[1]:
                heredoc.append(inner)
        found.append(Instruction(name, " ".join(value.split()), "\n".join(heredoc)))
    return found


def is_sent(path: str, ignore: str) -> bool:
    """Whether a path of the context reaches the build, by the rules of a ``.dockerignore`` (the last match counts)."""
    sent = True
    for line in ignore.splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        pattern = rule.removeprefix("!")
        parts = path.split("/")
        heads = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        if any(fnmatch(head, pattern) or fnmatch("/" + head, pattern.replace("**/", "*/")) for head in heads):
            sent = rule.startswith("!")
    return sent
