"""Local text in every format, good and bad; each refusal names the file, the row and the remedy (A1.13)."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylens.errors import CorpusError
from raylens.sources import Document, check_sources, files, parse_source, read_documents

TEXTS = ["one\n", "", 'zwei, "quoted"\r\nline', "üñí 日本 🙂", "last"]
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def read(spec: object, column: str | None = None, seed: int = -1) -> list[Document]:
    sources = [parse_source(str(spec), column)]
    check_sources(sources)
    return list(read_documents(sources, seed=seed))


def write_jsonl(path: Path, values: list[Any], column: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": i, column: v}) + "\n" for i, v in enumerate(values)))
    return path


def write_csv(path: Path, values: list[str], column: str = "text") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", column], *([i, v] for i, v in enumerate(values))])
    return path


def write_parquet(path: Path, values: list[Any], column: str = "text") -> Path:
    pq.write_table(pa.table({"id": list(range(len(values))), column: values}), path, row_group_size=2)
    return path


def write_gz(path: Path, values: list[Any]) -> Path:
    plain = write_jsonl(path.with_suffix(""), values)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return path


def write_zst(path: Path, values: list[Any]) -> Path:
    plain = write_jsonl(path.with_suffix(""), values)
    with pa.output_stream(str(path), compression="zstd") as file:
        file.write(plain.read_bytes())
    plain.unlink()
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", write_jsonl),
        ("a.csv", write_csv),
        ("a.parquet", write_parquet),
        ("a.jsonl.gz", write_gz),
        ("a.jsonl.zst", write_zst),
    ],
)
def test_rows_come_back_as_written(tmp_path: Path, name: str, write: Callable[[Path, list[Any]], Path]) -> None:
    path = write(tmp_path / name, TEXTS)
    found = read(path)
    assert [d.text for d in found] == TEXTS
    assert [d.path for d in found] == [f"{name}#{i}" for i in range(1, 6)]
    assert {(d.source, d.domain, d.split, d.messages) for d in found} == {(str(path), ".", "all", None)}


@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), max_size=8))
def test_any_text_survives_csv_and_jsonl(values: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    sources = [parse_source(str(write_jsonl(folder / "a.jsonl", values)))]
    assert [d.text for d in read_documents(sources, seed=-1)] == values
    sources = [parse_source(str(write_csv(folder / "a.csv", values)))]
    assert [d.text for d in read_documents(sources, seed=-1)] == values


def test_a_txt_file_is_one_document_bytes_kept(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffline\r\nnext ü\n".encode())
    assert [(d.text, d.path) for d in read(tmp_path / "a.txt")] == [("line\r\nnext ü\n", "a.txt")]


@pytest.mark.parametrize("text", ["ab\ncdé\n" * 40, "é" * 200, "🙂" * 99 + "\n", "x" * 64, "x" * 65])
def test_a_large_txt_file_is_several_documents(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", 64)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = read(tmp_path / "a.txt")
    assert "".join(d.text for d in found) == text
    assert all(0 < len(d.text.encode()) <= 64 for d in found)
    if len(text.encode()) <= 64:
        assert [d.path for d in found] == ["a.txt"]
    else:
        assert [d.path for d in found] == [f"a.txt#{i}" for i in range(1, len(found) + 1)]
    if "ab\n" in text:
        assert all(d.text.endswith("\n") for d in found)


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b.txt", "a/x.txt", "a/deep/y.txt", "a/z.md", ".hidden/h.txt", "[odd].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    write_jsonl(tmp_path / "a/rows.jsonl", ["r"])
    everything = ["[odd].txt", "a/deep/y.txt", "a/rows.jsonl#1", "a/x.txt", "b.txt"]
    assert [d.path for d in read(tmp_path)] == everything
    assert [d.domain for d in read(tmp_path)] == [".", "a", "a", "a", "."]
    assert [d.path for d in read(tmp_path / "**")] == everything
    assert [d.path for d in read(tmp_path / "**/*.txt")] == [p for p in everything if p.endswith(".txt")]
    assert [(d.path, d.domain) for d in read(tmp_path / "a/*.txt")] == [("x.txt", ".")]
    assert [(d.path, d.domain) for d in read(tmp_path / "*/x.*")] == [("a/x.txt", "a")]
    assert [d.path for d in read(tmp_path / "[odd].txt")] == ["[odd].txt"]  # a name before a pattern
    assert [d.path for d in read(tmp_path / "[ab].txt")] == ["b.txt"]


def test_files_are_shuffled_by_the_seed(tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"{index:02}.txt").write_text("x")
    orders = [tuple(d.path for d in read(tmp_path, seed=seed)) for seed in (-1, 1, 1, 2)]
    assert orders[0] == tuple(sorted(orders[0]))
    assert orders[1] == orders[2]
    assert len(set(orders)) == 3


@pytest.mark.parametrize(("name", "write"), [("a.jsonl", write_jsonl), ("a.parquet", write_parquet)])
def test_a_column_of_chat_messages(tmp_path: Path, name: str, write: Callable[..., Path]) -> None:
    found = read(write(tmp_path / name, [CHAT, [], None], "chat"), "chat")
    assert [d.messages for d in found] == [tuple(CHAT), None, None]
    assert [d.text for d in found] == ["", "", ""]


def test_null_text_and_half_surrogates(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null}\n\n{"text": "a\\ud800b \\ud83d\\ude00"}\n')
    assert [(d.text, d.path) for d in read(tmp_path / "a.jsonl")] == [("", "a.jsonl#1"), ("a\ufffdb 😀", "a.jsonl#3")]


def test_dictionary_and_large_strings(tmp_path: Path) -> None:
    columns = {
        "large": pa.array(["a", "b"], pa.large_string()),
        "dict": pa.array(["a", "b"]).dictionary_encode(),
        "view": pa.array(["a", "b"], pa.string_view()),
    }
    for name, column in columns.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": column}), path)
        assert [d.text for d in read(path)] == ["a", "b"]


def test_sources_are_mixed_and_each_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("aaaa")
    write_jsonl(tmp_path / "b.jsonl", ["b"] * 6)
    write_csv(tmp_path / "c.csv", ["c"] * 6)
    sources = [parse_source(str(tmp_path / name)) for name in ("a.txt", "b.jsonl", "c.csv")]
    mixed = [document.source for document in read_documents(sources, seed=-1)]
    assert mixed[:3] == [source.spec for source in sources]
    assert sorted(mixed) == sorted(document.source for document in read_documents(sources, seed=3))


def test_stdlib_has_two_disjoint_parts() -> None:
    everything = read("stdlib", seed=22)
    held_out = {document.path for document in read("stdlib:held_out")}
    assert {d.path for d in everything if d.split == "held_out"} == held_out
    assert {d.split for d in everything} == {"train", "held_out"}
    assert [d.path for d in everything] != sorted(d.path for d in everything)


def refusal(spec: object, column: str | None = None) -> str:
    with pytest.raises(CorpusError) as raised:
        check_sources([parse_source(str(spec), column)])
    assert raised.value.exit_code == 2
    return str(raised.value)


def test_missing_and_empty_text_is_refused(tmp_path: Path) -> None:
    assert "there is no file or folder" in refusal(tmp_path / "gone.txt")
    assert "matches no text file." in refusal(tmp_path / "*.txt")
    assert "matches no text file." in refusal(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    assert "only .md." in refusal(tmp_path)
    assert "is not a kind of text file" in refusal(tmp_path / "notes.md")
    assert "is not a glob" in refusal(tmp_path / "**.txt")
    for name in ("zero.txt", "blank.txt", "zero.jsonl", "blank.jsonl"):
        text = {"zero": "", "blank.txt": " \n\t\n", "blank.jsonl": '\n{"text": " "}\n'}
        (tmp_path / name).write_text(text.get(name, ""))
        assert "is empty: it holds no text" in refusal(tmp_path / name)
    assert "is empty" in refusal(write_csv(tmp_path / "rows.csv", []))
    assert "is empty" in refusal(write_parquet(tmp_path / "rows.parquet", [""]))


def test_one_empty_file_among_others_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("text")
    assert [d.text for d in read(tmp_path)] == ["text"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_binary_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"some\0bytes")
    assert "has a NUL byte at offset 4" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(b"caf\xe9 au lait")
    assert "has a byte that is not UTF-8 at offset 3" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes("cut off ü".encode()[:-1])
    assert "not UTF-8 at offset 8" in refusal(tmp_path / name)


def test_a_character_across_the_end_of_the_checked_head_is_fine(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * (64 * 1024 - 1) + "ü".encode())
    assert len(read(tmp_path / "a.txt")[0].text) == 64 * 1024


def test_binary_beyond_the_head_is_found_while_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 100_000 + b"\0")
    sources = [parse_source(str(tmp_path / "a.txt"))]
    check_sources(sources)
    with pytest.raises(CorpusError, match="NUL byte at offset 100000"):
        list(read_documents(sources, seed=0))


@pytest.mark.parametrize(
    ("name", "write"), [("a.jsonl", write_jsonl), ("a.csv", write_csv), ("a.parquet", write_parquet)]
)
def test_a_missing_column_lists_those_there_are(
    tmp_path: Path, name: str, write: Callable[[Path, list[Any], str], Path]
) -> None:
    message = refusal(write(tmp_path / name, ["x"], "body"))
    assert "has no column 'text'" in message
    assert "id, body" in message
    assert [d.text for d in read(tmp_path / name, "body")] == ["x"]


def test_a_column_of_another_type_is_refused(tmp_path: Path) -> None:
    assert "'id' of" in refusal(write_parquet(tmp_path / "a.parquet", ["x"]), "id")
    assert "holds int64, not text" in refusal(tmp_path / "a.parquet", "id")
    assert "a.jsonl:1 holds a number, not text" in refusal(write_jsonl(tmp_path / "a.jsonl", ["x"]), "id")
    assert "holds a truth value" in refusal(write_jsonl(tmp_path / "b.jsonl", [True]))
    assert "holds an object" in refusal(write_jsonl(tmp_path / "c.jsonl", [{"a": 1}]))
    assert "an object with from, value" in refusal(write_jsonl(tmp_path / "d.jsonl", [[{"from": "a", "value": "b"}]]))
    assert "holds text, not chat messages" in refusal(write_jsonl(tmp_path / "e.jsonl", [["a"]]))
    assert "not text" in refusal(write_parquet(tmp_path / "f.parquet", [[1, 2]]))


def test_malformed_rows_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": "cut\n')
    assert f"{path}:2 is not JSON" in refusal(path)
    path.write_text('{"text": "fine"}\n["list"]\n')
    assert f"{path}:2 holds a list, not an object" in refusal(path)
    path.write_text('{"text": "fine"}\n{"other": "x"}\n')
    assert f"{path}:2 has no column 'text'" in refusal(path)
    path = write_jsonl(tmp_path / "late.jsonl", ["x"] * 500)
    path.write_text(path.read_text() + "broken\n")
    sources = [parse_source(str(path))]
    check_sources(sources)  # bounded: it reads heads
    with pytest.raises(CorpusError, match=r"late\.jsonl:501 is not JSON"):
        list(read_documents(sources, seed=1))


def test_malformed_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,x\n2,y,z\n")
    assert "a.csv:3 has 3 columns where the header has 2" in refusal(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really")
    assert "a.parquet is malformed" in refusal(tmp_path / "a.parquet")
    whole = write_parquet(tmp_path / "b.parquet", ["x"] * 50).read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[:-20])
    assert "b.parquet is malformed" in refusal(tmp_path / "b.parquet")
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip at all")
    assert "a.jsonl.gz cannot be read" in refusal(tmp_path / "a.jsonl.gz")


def test_a_line_without_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylens.sources.rows.MAX_ROW_BYTES", 1 << 20)
    (tmp_path / "a.jsonl").write_text('{"text": "' + "x" * (1 << 20) + '"}')
    assert "a.jsonl:1 is longer than" in refusal(tmp_path / "a.jsonl")


def test_an_open_quote_does_not_read_the_file_whole(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ["short", "x" * 200_000])
    assert [len(d.text) for d in read(path)] == [5, 200_000]
    path.write_text('id,text\n1,fine\n2,"open\n' + "3,more\n" * 10)
    assert "a.csv is malformed near line 13: unexpected end of data" in refusal(path)
