"""Tools about suites: which there are, and what one asks."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field

from raylens.errors import UnknownNameError
from raylens.sources.suites import load_suite
from raylens.suites.shipped import shipped_names, shipped_suite
from raylens.suites.suite import Prompt, Suite, Variant
from raylens_app.mcp.answers import Answer, Document, clipped, paged, plural
from raylens_app.mcp.desk import Desk
from raylens_app.mcp.tool import Arguments, Offset, reading

SuiteName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=500,
        description="A suite that ships (list_suites), or a YAML file inside the base directory.",
    ),
]

_GIST: Final = 160


class ListSuites(Arguments):
    """Of ``list_suites``."""


class ShowSuite(Arguments):
    """Of ``show_suite``."""

    suite: SuiteName
    prompt: Annotated[str | None, Field(max_length=100, description="Id of one prompt, to show it whole.")] = None
    limit: Annotated[int, Field(ge=1, le=200, description="Prompts at most.")] = 20
    offset: Offset = 0


def list_suites(desk: Desk, _: ListSuites) -> Answer:
    """The suites that ship."""
    suites = [shipped_suite(name) for name in shipped_names()]
    rows = [{"suite": one.name, **_size(one), "description": one.description} for one in suites]
    return Document(
        f"{plural(len(rows), 'suite')} ship: {', '.join(row['suite'] for row in rows)}. A YAML file inside the base "
        "directory is one as well, by its path.",
        name="suites",
        rows=rows,
    )


def show_suite(desk: Desk, given: ShowSuite) -> Answer:
    """A suite's prompts, in short, or one whole."""
    suite = load_suite(given.suite, desk.base)
    if given.prompt is not None:
        return _prompt(suite, given.prompt)
    rows = [
        {"id": one.id, "tags": list(one.tags), "wordings": len(one.forms), "checks": _checks(one), "says": _gist(one)}
        for one in suite.prompts[given.offset : given.offset + given.limit]
    ]
    return Document(
        f"{suite.name}: {plural(len(suite.prompts), 'prompt')} in {plural(suite.n_forms, 'wording')}.",
        {"description": suite.description, "digest": suite.digest},
        "prompts",
        rows,
        paged(given.offset, len(suite.prompts), "prompts"),
    )


TOOLS: Final = (
    reading(
        "list_suites",
        "List the suites of prompts that audits can give to reference and candidate.",
        ListSuites,
        list_suites,
    ),
    reading("show_suite", "Show the prompts of a suite, or one of them whole.", ShowSuite, show_suite),
)


def _prompt(suite: Suite, name: str) -> Answer:
    found = next((one for one in suite.prompts if one.id == name), None)
    if found is None:
        raise UnknownNameError.among("prompt", name, (one.id for one in suite.prompts))
    return Document(
        f"prompt {found.id} of {suite.name}, in {plural(len(found.forms), 'wording')}.",
        {"tags": list(found.tags), "checks": [check.to_value() for check in found.checks]},
        "wordings",
        [{"kind": form.kind, **_words(form)} for form in found.forms],
    )


def _words(form: Variant) -> dict[str, Any]:
    if form.text is not None:
        return {"text": form.text}
    return {"chat": [{"role": one.role, "content": one.content} for one in form.chat or ()]}


def _checks(prompt: Prompt) -> list[str]:
    return [check.name for check in prompt.checks]


def _gist(prompt: Prompt) -> str:
    text = prompt.text if prompt.text is not None else "\n".join(turn.content for turn in prompt.chat or ())
    return clipped(text, _GIST)


def _size(suite: Suite) -> dict[str, int]:
    return {"prompts": len(suite.prompts), "wordings": suite.n_forms}
