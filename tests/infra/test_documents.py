"""What documents and the comments of manifests tell people to type and to set is real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shown_commands import UnknownCommandError, command_lines, fenced, require_known

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/deploy.md"
FILES = sorted(path for path in (ROOT / "infra").rglob("*") if path.is_file())
# Of others: not checked beyond the files that they name.
PROGRAMS = {"docker", "kubectl", "openssl", "pip", "umask", "mkdir", "export"}
PATH = re.compile(r"(?<![\w./-])infra/[\w./-]*\w")
VARIABLE = re.compile(r"\bRAYLENS_[A-Z_]+[A-Z]\b")


def shown() -> list[list[str]]:
    inline = re.findall(r"`((?:raylens|serve) [a-z][^`…]* --?[^`…]*)`", DOCUMENT.read_text())
    lines = [*fenced(DOCUMENT.read_text()), *(words for line in inline for words in command_lines(line))]
    for path in FILES:
        if path.suffix in {".yaml", ""}:
            comments = [line.lstrip("#") for line in path.read_text().splitlines() if line.startswith("#   ")]
            lines += [
                words for line in comments for words in command_lines(line) if words[0] in {"raylens", "serve", "ray"}
            ]
    return lines


@pytest.mark.parametrize("words", shown(), ids=lambda words: " ".join(words)[:70])
def test_a_command_is_one_that_there_is(words: list[str]) -> None:
    assert require_known(words) or words[0] in PROGRAMS


def test_every_job_that_takes_an_address_is_shown() -> None:
    import typer

    from raylens_app.cli.main import app

    def with_address(command: object, names: tuple[str, ...]) -> set[tuple[str, ...]]:
        if found := getattr(command, "commands", None):
            return {one for name, inner in found.items() for one in with_address(inner, (*names, name))}
        hidden = command.hidden  # pyright: ignore  (another name of a command)
        return {names} if not hidden and any("--address" in one.opts for one in command.params) else set()  # pyright: ignore

    submitted = [words[words.index("--") + 4 :] for words in fenced(DOCUMENT.read_text()) if "submit" in words]
    for names in with_address(typer.main.get_command(app), ()) - {("serve", "up"), ("demo",)}:
        assert any(tuple(words[: len(names)]) == names for words in submitted), names


def test_commands_that_are_wrong_are_told() -> None:
    for line in (
        "raylens nothing",
        "raylens cache --modl x",
        "raylens cache --n-tokens many",
        "serve deploi x.yaml",
        "ray up x.yaml --nothing",
        "ray job submit -- python -m raylens cache --modl x",
        "python -m raylens raylens/pico --nothing 3",
    ):
        with pytest.raises(UnknownCommandError):
            require_known(line.split())


@pytest.mark.parametrize("path", [DOCUMENT, *FILES], ids=lambda path: path.name)
def test_files_and_links_are_there(path: Path) -> None:
    text = path.read_text()
    for named in set(PATH.findall(text)):
        assert (ROOT / named).exists(), named
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if path.suffix == ".md" else ():
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", [DOCUMENT, *FILES], ids=lambda path: path.name)
def test_variables_are_read_by_somebody(path: Path) -> None:
    sources = [file for top in ("platform", "jobs", "serve", "app") for file in (ROOT / top).rglob("*.py")]
    read = "\n".join(file.read_text() for file in [*sources, *FILES])
    for name in set(VARIABLE.findall(path.read_text())):
        assert f'"{name}"' in read or f"${{{name}" in read, name


def test_nothing_names_an_index_of_packages_or_holds_a_secret() -> None:
    for path in [DOCUMENT, *FILES]:
        text = path.read_text()
        assert not re.search(r"download\.pytorch\.org|pypi\.org|index-url +http", text), path
        assert not re.search(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|ghp_\w{20,})", text), path
