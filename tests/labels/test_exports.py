"""Bulk import of export files, whole, broken and hostile."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuronpedia import SOURCE, page
from raylens.errors import InputError
from raylens.labels.exports import KINDS, OversizeError, bounded_lines, import_exports
from raylens.labels.label_store import LabelStore
from raylens.labels.names import NeuronpediaId
from raylens.store.workspace import Workspace


def line(index: int, description: Any = None, source: NeuronpediaId = SOURCE, **more: Any) -> dict[str, Any]:
    """A line of explanations/batch-N.jsonl.gz."""
    return {
        "modelId": source.model,
        "layer": source.source,
        "index": str(index),
        "description": f"feature {index}" if description is None else description,
        "typeName": "oai_token-act-pair",
        "explanationModelName": "gpt-4o-mini",
        "embedding": [0.5] * 8,
        **more,
    }


def write(root: Path, kind: str, number: int, rows: list[Any], source: NeuronpediaId = SOURCE) -> Path:
    path = root / "v1" / source.model / source.source / kind / f"batch-{number}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Three batches of explanations and one each of features and activations."""
    root = tmp_path / "export"
    for number in (0, 1, 10):
        write(root, "explanations", number, [line(index) for index in range(10 * number, 10 * number + 10)])
    features = [
        {key: value for key, value in page(i).items() if key not in ("activations", "explanations")} for i in range(5)
    ]
    write(root, "features", 0, features)
    texts = [
        {"modelId": SOURCE.model, "layer": SOURCE.source, "index": str(i), "tokens": ["a", "b"], "values": [0, v]}
        | {"maxValue": v, "dataIndex": str(n)}
        for i in range(2)
        for n, v in enumerate((1.0, 7.0, 3.0))
    ]
    write(root, "activations", 0, texts)
    return root


def contents(store: LabelStore) -> dict[int, list[str]]:
    known = store.look(SOURCE, store.explained(SOURCE).tolist())
    return {index: sorted(one.description for one in found.explanations) for index, found in known.items()}


def test_an_export_is_imported_whole_and_a_second_time_changes_nothing(
    workspace: Workspace, store: LabelStore, export: Path
) -> None:  # A2.11
    told: list[tuple[int, int, str]] = []
    report = import_exports(store, export, progress=lambda done, total, name: told.append((done, total, name)))
    assert (report.files, report.explanations, report.pages, report.n_bad, report.broken) == (4, 30, 5, 0, {})
    assert report.left_out == {"activations": 1}
    assert told[-1][0] == told[-1][1] > 0
    assert [name for _, _, name in told][:3] == [
        f"v1/{SOURCE}/explanations/batch-{number}.jsonl.gz" for number in (0, 1, 10)
    ]
    expected = {i: [f"feature {i}"] for i in [*range(20), *range(100, 110)]}
    assert contents(store) == expected
    found = store.page(SOURCE, 3)
    assert found is not None
    assert found["pos_str"] == ["a", "b"]
    assert found["explanations"][0]["description"] == "feature 3"
    assert "embedding" not in found["explanations"][0]
    before = store.counts(SOURCE)
    with LabelStore(workspace.files) as again:
        second = import_exports(again, export)
        assert (second.explanations, second.pages, second.already) == (0, 0, 35)
        assert again.counts(SOURCE) == before
        third = import_exports(again, export, kinds=KINDS)
        assert third.pages == 2
        strong = again.page(SOURCE, 1)
        assert strong is not None
        assert [one["maxValue"] for one in strong["activations"]] == [7.0, 3.0, 1.0]
        assert import_exports(again, export, kinds=KINDS).pages == 0


def test_a_single_file_and_one_that_is_not_packed(store: LabelStore, tmp_path: Path) -> None:
    plain = tmp_path / "explanations" / "batch-3.jsonl"
    plain.parent.mkdir()
    plain.write_text(json.dumps(line(1)) + "\n\n" + json.dumps(line(2)))
    assert import_exports(store, plain).explanations == 2
    assert contents(store) == {1: ["feature 1"], 2: ["feature 2"]}


def test_lines_that_cannot_be_used_are_counted_and_named(store: LabelStore, tmp_path: Path) -> None:
    other = NeuronpediaId("gemma-2-2b", "12-gemmascope-res-16k")
    rows: list[Any] = [
        line(1),
        b"{not json",
        b'["a list"]',
        line(2, source=other),
        line(3) | {"index": "three"},
        line(4) | {"index": -4},
        line(5) | {"index": 2**40},
        line(6) | {"index": True},
        line(7) | {"modelId": None},
        line(8, description=["a", "list"]),
        line(9, description="  "),
        line(10) | {"description": None},
        b"\xff\xfe\x00",
        b'{"description": "' + b"x" * 3000 + b'"}',
        line(11) | {"modelId": "../../etc"},
        line(12),
        {key: value for key, value in line(13).items() if key not in ("modelId", "layer")},
    ]
    write(tmp_path, "explanations", 0, rows)
    report = import_exports(store, tmp_path, line_limit=2000)
    assert contents(store) == {1: ["feature 1"], 12: ["feature 12"], 13: ["feature 13"]}
    assert (report.explanations, report.silent, report.n_bad) == (3, 2, 12)
    [bad] = report.bad.values()
    assert bad.lines == [2, 3, 4, 5, 6, 7, 8, 9, 10, 13]
    [complaint] = report.complaints()
    assert "12 lines left out (2, 3, 4, 5, 6, 7, 8, 9, 10, 13 …)" in complaint
    assert f"is not of {SOURCE}" in bad.why
    json.dumps(report.fields())


def test_a_file_that_breaks_off_is_taken_as_far_as_it_goes(store: LabelStore, tmp_path: Path) -> None:
    random = [line(i, description=f"{i} {'%x' % (i * 7919**5)}") for i in range(3000)]
    path = write(tmp_path, "explanations", 0, random)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    write(tmp_path, "explanations", 1, [line(5000)])
    damaged = write(tmp_path, "explanations", 2, random)
    flipped = bytearray(damaged.read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    damaged.write_bytes(flipped)
    (damaged.parent / "batch-3.jsonl.gz").write_bytes(b"\x1f\x8bnot gzip at all")
    report = import_exports(store, tmp_path)
    found = contents(store)
    assert 100 < len(found) < 3002
    assert 5000 in found
    assert len(report.broken) == 3
    said = "\n".join(report.complaints())
    assert "batch-0.jsonl.gz ends in the middle; what stands before that was taken" in said
    assert "batch-2.jsonl.gz is damaged" in said


def test_a_small_file_cannot_fill_memory_or_disk(store: LabelStore, tmp_path: Path) -> None:
    one_line = gzip.compress(
        json.dumps(line(1)).encode() + b"\n" + b" " * 30_000_000 + b"\n" + json.dumps(line(2)).encode()
    )
    path = write(tmp_path, "explanations", 0, [])
    path.write_bytes(one_line)
    assert len(one_line) < 100_000
    report = import_exports(store, path, line_limit=1_000_000)
    assert contents(store) == {1: ["feature 1"], 2: ["feature 2"]}
    assert [one.lines for one in report.bad.values()] == [[2]]
    endless = gzip.compress((json.dumps(line(3)).encode() + b"\n") + b"{}\n" * 200_000)
    path.write_bytes(endless)
    report = import_exports(store, path, file_limit=100_000)
    assert 3 in contents(store)
    assert "unpacks to more than 100,000 bytes" in report.complaints()[-1]
    path.write_bytes(one_line)
    assert import_exports(store, path, line_limit=1000, file_limit=1_000_000).broken


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.integers(1, 9), st.booleans()
)
def test_lines_are_those_of_split_but_bounded(lines: list[bytes], limit: int, packed: bool) -> None:
    data = b"".join(one + b"\n" for one in lines)
    if not packed and data.startswith(b"\x1f\x8b"):
        return
    file = io.BytesIO(gzip.compress(data) if packed else data)
    found = list(bounded_lines(file, limit, 10_000))
    assert [number for number, _ in found] == list(range(1, len(lines) + 1))
    assert [one and one.rstrip(b"\n") for _, one in found] == [one if len(one) <= limit else None for one in lines]
    if len(data) > 3:
        with pytest.raises(OversizeError):
            list(bounded_lines(io.BytesIO(data if not data.startswith(b"\x1f\x8b") else b"aaaa"), limit, 3))


def test_what_is_no_export_is_refused(store: LabelStore, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(InputError):
            import_exports(store, path)
    stray = tmp_path / "batch-0.jsonl.gz"
    stray.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(InputError, match="kind is not known"):
        import_exports(store, stray)


def test_only_the_source_that_was_asked_for(store: LabelStore, export: Path) -> None:
    report = import_exports(store, export, source=NeuronpediaId("other", "1-x"))
    assert (report.explanations, report.pages, report.n_bad) == (0, 0, 35)
