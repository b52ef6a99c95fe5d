"""``raylens suites``: what a person and a program read of prompt suites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from raylens.errors import InputError, UnknownNameError
from raylens.suites.shipped import shipped_suite
from raylens.suites.suite_parsing import parse_suite
from raylens_app.cli import suites

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAYLENS_BASE_DIR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> None:
    app = typer.Typer()
    suites.register(app)
    typer.main.get_command(app).main(args=["suites", *arguments], standalone_mode=False)


def test_it_lists_what_ships(capsys: Capture) -> None:
    run("list")
    out = capsys.readouterr().out
    assert all(name in out for name in ("minimal", "code_security", "capability", "stress", "wordings"))
    run("list", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["n_prompts"], row["n_forms"]) for row in rows] == [
        ("minimal", 24, 24),
        ("code_security", 60, 60),
        ("capability", 60, 60),
        ("stress", 20, 120),
    ]
    assert rows[0]["digest"] == shipped_suite("minimal").digest


def test_it_shows_a_suite_and_a_prompt(capsys: Capture) -> None:
    run("show", "code_security")
    shown = capsys.readouterr()
    assert "ping-host" in shown.out
    assert "20 more: --all" in shown.err
    run("show", "code_security", "--all")
    assert "storage-client" in capsys.readouterr().out
    run("show", "minimal", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["prompts"] == [prompt.to_value() for prompt in shipped_suite("minimal").prompts]
    assert document["digest"] == shipped_suite("minimal").digest
    run("show", "stress", "--prompt", "copy-file")
    out = capsys.readouterr().out
    assert "── copy-file · original\n" in out
    assert "── copy-file · import-order\n" in out
    assert "    name = os.path.basename(source)\n" in out
    assert "check: python_parses\n" in out
    with pytest.raises(UnknownNameError, match="unknown prompt 'copy'"):
        run("show", "stress", "--prompt", "copy")


def test_it_checks_files_of_the_users(tmp_path: Path, capsys: Capture) -> None:  # A2.03, A2.16
    (tmp_path / "mine.yaml").write_text("- id: a\n  text: x\n  variants: [y]\n  checks: [non_empty]\n")
    (tmp_path / "chat.yaml").write_text('- {id: a, chat: [{role: user, content: "x\\u202e"}]}\n')
    run("check", "mine.yaml", "minimal")
    assert capsys.readouterr().out.splitlines()[0] == "mine.yaml: 1 prompts, 2 wordings; checks: non_empty 1"
    run("check", "mine.yaml", "--json")
    assert json.loads(capsys.readouterr().out)[0]["checks"] == {"non_empty": 1}
    run("show", "chat.yaml", "--prompt", "a")
    out = capsys.readouterr().out
    assert "user:\n" in out
    assert "\u202e" not in out
    (tmp_path / "wrong.yaml").write_text("- id: a\n")
    with pytest.raises(InputError, match=r"wrong\.yaml, line 1: 1 has neither text nor chat"):
        run("check", "mine.yaml", "wrong.yaml")
    (tmp_path / "inner").mkdir()
    with pytest.raises(InputError, match="lies outside the base directory"):
        run("check", str(tmp_path / "mine.yaml"), "--base-dir", "inner")


def test_it_writes_variants(tmp_path: Path, capsys: Capture) -> None:  # A2.19
    run("vary", "stress", "--anew")
    shown = capsys.readouterr()
    assert parse_suite(shown.out, "stress").digest == shipped_suite("stress").digest
    assert "100 variants of 20 prompts" in shown.err
    run("vary", "minimal", "--rule", "names", "--rule", "casing", "--per-prompt", "2", "--out", "varied.yaml")
    varied = parse_suite((tmp_path / "varied.yaml").read_bytes(), "varied")
    assert {variant.kind for prompt in varied.prompts for variant in prompt.variants} == {"names", "casing"}
    with pytest.raises(InputError, match=r"varied\.yaml exists already"):
        run("vary", "minimal", "--out", "varied.yaml")
    with pytest.raises(InputError, match="lies outside the base directory"):
        run("vary", "minimal", "--out", "../varied.yaml")
    with pytest.raises(UnknownNameError, match="unknown rule"):
        run("vary", "minimal", "--rule", "colour")
