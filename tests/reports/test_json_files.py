"""The JSON of a run: one way to write it, strict reading, schemas that other tools can use (A2.02)."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from made_run import made_run

from raylens.audit.artefacts import Artefacts
from raylens.errors import InputError
from raylens.reports.json_files import FILES, artefact_files, json_schemas, read_artefacts, to_json

SCHEMAS = Path(__file__).resolve().parents[2] / "docs/schemas/audit"
RENEW = ".venv/bin/python tests/reports/test_json_files.py"


def schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def changed(change: Callable[[dict[str, Any]], None], name: str = "score.json") -> dict[str, str]:
    """The files of a run, one of them changed."""
    files = artefact_files(made_run())
    values = json.loads(files[name])
    change(values)
    return files | {name: json.dumps(values)}


def test_files_are_written_one_way() -> None:  # A2.02
    files = artefact_files(made_run())
    assert list(files) == ["suite_results.json", "score.json", "interp_evidence.json", "decision.json"]
    assert "interp_evidence.json" not in artefact_files(made_run(with_sae=False))
    for text in files.values():
        assert text.endswith("}\n")
        assert text.startswith('{\n  "schema_version": 1,\n  "title": "Audit of')
    settings = json.loads(files["score.json"])["settings"]
    assert list(settings) == sorted(settings)


def test_what_is_written_is_read() -> None:
    for made in (made_run(), made_run(with_sae=False), made_run(n_benign=0), made_run(n_benign=5, score=0.05)):
        files = artefact_files(made)
        assert read_artefacts(files) == made
        assert artefact_files(read_artefacts(files | {"run.json": "{", "report.md": ""})) == files


def test_what_has_no_shape_is_escaped() -> None:
    made = made_run().decision.model_copy(update={"title": "a\u202eb\x9b\x7f\u200b\U000e0041é"})
    text = to_json(made)
    assert r'"a\u202eb\u009b\u007f\u200b\udb40\udc41é"' in text
    assert json.loads(text)["title"] == made.title


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "half \ud800 of a pair"])
def test_what_json_cannot_hold_is_not_written(value: Any) -> None:
    score = made_run().score.model_copy(update={"settings": {"k": value}})
    with pytest.raises(InputError, match="ScoreFile cannot be written as JSON"):
        to_json(score)


@pytest.mark.parametrize("name", ["decision.json", "score.json", "suite_results.json"])
def test_a_missing_file_is_named(name: str) -> None:
    files = artefact_files(made_run())
    del files[name]
    with pytest.raises(InputError, match=f"{name} is missing"):
        read_artefacts(files)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "is not valid"),
        ("\ufeff{}", "is not JSON"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 500 + "]" * 500, "is not valid"),
        ('{"title": "\\ud800"}', "is not valid"),
        ('{"title": "\ud800"}', "is not valid"),
        ("1" * 5000, "is not JSON"),
    ],
)
def test_what_is_no_file_of_a_run(text: str, said: str) -> None:
    with pytest.raises(InputError, match=r"^score\.json") as caught:
        read_artefacts(artefact_files(made_run()) | {"score.json": text})
    assert said in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["aggregate_score", "k"])
def test_a_number_is_finite(number: str, key: str) -> None:
    files = artefact_files(made_run())
    written = files["score.json"].replace(f'"{key}": ', f'"{key}": {number}, "x": ', 1)
    with pytest.raises(InputError, match=r"^score\.json is not JSON"):
        read_artefacts(files | {"score.json": written})


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda file: file.update(values)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (_set(colour="red"), "colour"),
        (lambda file: file.pop("methods"), "methods"),
        (_set(aggregate_score="0.1"), "aggregate_score"),
        (_set(aggregate_score=True), "aggregate_score"),
        (_set(schema_version=2), "schema_version"),
        (lambda file: file["methods"][1].update(p_value=1.5), "methods.1.p_value"),
        (lambda file: file["methods"][1].update(n_benign=-1), "methods.1.n_benign"),
        (lambda file: file["null"][3].pop("family"), "null.3.family"),
        (lambda file: file["triggers"][0].update(features=[-1]), "triggers.0.features.0"),
        (lambda file: file["settings"].update(k=[1]), "settings.k"),
        (lambda file: file["suite"].update(n_prompts=1.5), "suite.n_prompts"),
        (_set(title=None), "title"),
    ],
)
def test_a_wrong_key_is_named(change: Callable[[dict[str, Any]], None], key: str) -> None:
    with pytest.raises(InputError) as caught:
        read_artefacts(changed(change))
    assert caught.value.message.startswith(f"score.json: {key}")
    assert caught.value.hint


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a JSON value but the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [one for key, inner in items for one in [(*path, key), *leaves(inner, (*path, key))]]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_changed_anywhere_is_read_or_refused_in_words(name: str) -> None:
    draw = random.Random(name)
    made = made_run(n_benign=3, score=0.06)
    files = artefact_files(made)
    whole = json.loads(files[name])
    paths, messages = leaves(whole), list[str]()
    for path in draw.sample(paths, min(60, len(paths))):
        values = copy.deepcopy(whole)
        inner = values
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = draw.choice([None, "x", -1, 2.5, True, [], {}, 10**30])
        try:
            read = read_artefacts(files | {name: json.dumps(values)})
        except InputError as refused:
            messages.append(refused.message)
        else:
            assert isinstance(read, Artefacts)
    assert len(messages) > 20
    assert all(".json: " in one for one in messages)


def test_schemas_are_current() -> None:
    committed = {path.name.replace(".schema.json", ".json"): path.read_text("utf-8") for path in SCHEMAS.glob("*.json")}
    assert committed == {name: schema_text(schema) for name, schema in json_schemas().items()}, f"renew with {RENEW}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_another_tool_can_check_a_file(name: str) -> None:  # A2.02
    schema = json_schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    value = json.loads(artefact_files(made_run())[name])
    check.validate(value)
    assert not check.is_valid(value | {"colour": "red"})
    assert not check.is_valid({key: inner for key, inner in value.items() if key != "run"})
    assert not check.is_valid(value | {"reference": {"name": 3, "revision": ""}})


if __name__ == "__main__":
    SCHEMAS.mkdir(parents=True, exist_ok=True)
    for file, schema in json_schemas().items():
        (SCHEMAS / file.replace(".json", ".schema.json")).write_text(schema_text(schema), "utf-8")
