"""The JSON files of a run: how they are written, how they are read back and checked, and their schemas (A2.02).

A value is written one way only, so equal artefacts are equal bytes. Reading is strict: unknown keys, keys given twice,
NaN, and files that contradict one another are refused, with the file and the key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, Never

from pydantic import ValidationError

from raylens.audit.artefacts import About, Artefacts, DecisionFile, InterpEvidence, ScoreFile, SuiteResults
from raylens.config import Config
from raylens.errors import InputError
from raylens.reports.agreement import check_agreement
from raylens.reports.visible import SHAPELESS, one_line

DECISION: Final = "decision.json"
FILES: Final[Mapping[str, type[About]]] = {
    "suite_results.json": SuiteResults,
    "score.json": ScoreFile,
    "interp_evidence.json": InterpEvidence,
    DECISION: DecisionFile,
}
"""In the order in which they are to be written: a folder with the last of them is whole."""
OPTIONAL: Final = "interp_evidence.json"

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_HINT: Final = "restore the file, or make the run again with raylens audit run --again."


def to_json(file: Config) -> str:
    """``file`` as it is written: fields in their order, settings by name, two spaces a level, a line feed at the end.

    Raises:
        InputError: It holds what JSON or UTF-8 has no way to write: NaN, an infinity, half of a surrogate pair.
    """
    values = file.model_dump()
    if isinstance(settings := values.get("settings"), dict):
        values["settings"] = dict(sorted(settings.items()))
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError as error:
        raise InputError(
            f"{type(file).__name__} cannot be written as JSON: {one_line(str(error))}.",
            hint="leave NaN, infinities and halves of surrogate pairs out.",
        ) from None
    # In JSON as well as in reports, what has no shape does not hide, turn a line round or steer a terminal.
    return SHAPELESS.sub(_escaped, text.replace("\x7f", "\\u007f")) + "\n"


def artefact_files(artefacts: Artefacts) -> dict[str, str]:
    """File name → text, in the order in which they are to be written.

    Raises:
        InputError: As :func:`to_json`; or the files would contradict one another, as :func:`check_agreement`.
    """
    check_agreement(artefacts)
    found = {name: getattr(artefacts, name.removesuffix(".json")) for name in FILES}
    return {name: to_json(file) for name, file in found.items() if file is not None}


def read_artefacts(files: Mapping[str, str]) -> Artefacts:
    """The artefacts of a run from the text of its files.

    Args:
        files: File name → text; other names than those of :data:`FILES` are not looked at.

    Raises:
        InputError: A file is missing, is no JSON, has a key that is wrong, or contradicts another.
    """
    read: dict[str, About] = {}
    for name, kind in FILES.items():
        if name in files:
            read[name.removesuffix(".json")] = _read(name, kind, files[name])
        elif name != OPTIONAL:
            raise InputError(f"{name} is missing.", hint=f"a run has {', '.join(FILES)}. {_HINT}")
    artefacts = Artefacts.model_validate(read)
    check_agreement(artefacts)
    return artefacts


def json_schemas() -> dict[str, dict[str, Any]]:
    """File name → JSON Schema (2020-12) of what the file holds."""
    return {name: {"$schema": _DIALECT, **kind.model_json_schema()} for name, kind in sorted(FILES.items())}


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _read(name: str, kind: type[About], text: str) -> About:
    try:
        # Only for what the validator lets pass.
        json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{name} is not JSON: {one_line(reason)}.", hint=_HINT) from None
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = one_line(f"{first['msg'][0].lower()}{first['msg'][1:]}")
    at = f"{one_line(where)} is not valid" if where else "is not valid"
    got = "" if first["type"] in ("missing", "json_invalid") else f" (got {_short(first['input'])})"
    raise InputError(f"{name}: {at}: {reason}{got}.", hint=_HINT)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found


def _no_number(word: str) -> Never:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError(f"{digits[:20]} is beyond what a double holds")
    return number


def _short(value: object) -> str:
    text = one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:59]}…"
