"""A tool: its name, its arguments as a type, and what it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Generic, Self, TypeVar

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raylens.errors import InputError
from raylens_app.mcp.answers import Answer, clipped
from raylens_app.mcp.desk import Call, Desk

_SHOWN: Final = 80

RunName = Annotated[
    str, Field(min_length=1, max_length=210, description="A run's name, how it begins, or session/run (list_runs).")
]
SaeName = Annotated[
    str,
    Field(min_length=1, max_length=300, description="An SAE's id, as get_decision gives it."),
]
Offset = Annotated[int, Field(ge=0, le=10_000_000, description="Rows to pass over.")]


class Arguments(BaseModel):
    """Base of every tool's arguments: none that is unknown, numbers within their ranges, text of bounded length."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, tool: str, values: Mapping[str, Any]) -> Self:
        """What a client sent, checked; the first problem becomes one sentence.

        Raises:
            InputError: An argument is unknown, missing, of another kind or out of range.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "arguments"
        got = "" if first["type"] == "missing" else f" (got {clipped(repr(first['input']), _SHOWN)})"
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{tool}: {clipped(where, _SHOWN)}: {message[0].lower()}{message[1:].rstrip('.')}{got}.",
            hint=f"{tool} takes {', '.join(cls.listed()) or 'no arguments'}.",
        )

    @classmethod
    def listed(cls) -> list[str]:
        """Names of the arguments; those that must be given are marked."""
        fields = cls.model_fields.items()
        return [f"{name} (required)" if one.is_required() else name for name, one in fields]

    @classmethod
    def schema_for_clients(cls) -> dict[str, Any]:
        """JSON Schema, without the titles and descriptions that pydantic derives from names and docstrings."""
        schema = _without_titles(cls.model_json_schema())
        schema.pop("description", None)
        return {"type": "object", "properties": {}, **schema}


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, slots=True)
class Tool(Generic[A]):
    """One tool.

    Attributes:
        name: As clients call it.
        description: For whoever chooses between tools.
        arguments: Their type.
        run: Answers a call.
        runs_models: Whether it starts work and writes runs: not offered by a server that only reads.
    """

    name: str
    description: str
    arguments: type[A]
    run: Callable[[Call, A], Awaitable[Answer]]
    runs_models: bool = False

    async def __call__(self, call: Call, values: Mapping[str, Any]) -> Answer:
        """Check the arguments and answer.

        Raises:
            RaylensError: They are wrong, or what was asked for cannot be done.
        """
        return await self.run(call, self.arguments.of(self.name, values))


def reading(name: str, description: str, arguments: type[A], read: Callable[[Desk, A], Answer]) -> Tool[A]:
    """A tool that reads, in a thread: the server goes on answering others meanwhile."""

    async def run(call: Call, given: A) -> Answer:
        # A call that is cancelled leaves the thread to end by itself: it changes nothing.
        return await to_thread.run_sync(partial(read, call.desk, given), abandon_on_cancel=True)

    return Tool(name, description, arguments, run)


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_titles(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key == "properties":
            kept[key] = {name: _without_titles(one) for name, one in value.items()}
        elif key != "title":
            kept[key] = _without_titles(value)
    return kept
