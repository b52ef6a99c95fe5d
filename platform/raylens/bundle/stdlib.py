r"""The corpus every CPython carries: the standard library's own source and reference text.

It needs no download and is real text, so the embedded models are trained on it and the demo
runs on it. Test folders are left out (repetitive, and full of deliberate nonsense), and so are
the generated charmap tables of ``encodings`` (1.3 MB of ``'\u0123'`` lines).

The split is by file, fixed by the list below: nothing in ``HELD_OUT`` is ever trained on, by the
model, its tokenizer, its SAEs or the sentence embedding.

Apart from this corpus, the test folders can be read as ``tests``: more text of a like kind, for SAEs that have
seen all else. Tests of what is held out are not among them, as they quote it.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

Split = Literal["train", "held_out", "tests", "all"]
"""``all`` is ``train`` and ``held_out``."""

HELD_OUT: frozenset[str] = frozenset(
    {
        "asyncio/streams.py",
        "csv.py",
        "difflib.py",
        "email/header.py",
        "fractions.py",
        "ftplib.py",
        "graphlib.py",
        "heapq.py",
        "json/__init__.py",
        "json/decoder.py",
        "json/encoder.py",
        "json/scanner.py",
        "json/tool.py",
        "pydoc_data/topics/formatstrings.txt",
        "pydoc_data/topics/typesmapping.txt",
        "queue.py",
        "shlex.py",
        "statistics.py",
        "tarfile.py",
        "textwrap.py",
        "timeit.py",
        "tkinter/filedialog.py",
        "wsgiref/handlers.py",
        "xmlrpc/client.py",
    }
)
"""Paths (as in :attr:`StdlibFile.path`) that no training step may read."""

# Topics that the training split holds word for word inside a longer topic (``compound``,
# ``execmodel``), while no training step read them alone: in neither split, so that no held-out
# figure rests on text that was trained on.
_REPEATED = frozenset({"pydoc_data/topics/async.txt", "pydoc_data/topics/dynamic-features.txt"})

_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages"})
_TESTS_OF_HELD_OUT = frozenset(
    f"test_{part}" for path in HELD_OUT for part in PurePosixPath(path).with_suffix("").parts
)
_GENERATED = re.compile(r"encodings/(cp|iso|mac_|koi8|hp_|palmos|ptcp|tis|kz|charmap)|config-|_sysconfigdata")
_REFERENCE_SUFFIXES = (".txt",)


@dataclass(frozen=True, slots=True)
class StdlibFile:
    """One document of the corpus.

    ``path`` is POSIX and relative to the standard library (a topic of the reference manual reads
    ``pydoc_data/topics/<topic>.txt``); ``domain`` is the top-level package, ``"."`` for modules.
    """

    path: str
    text: str

    @property
    def domain(self) -> str:
        head, _, tail = self.path.partition("/")
        return head if tail else "."

    @property
    def split(self) -> Literal["train", "held_out", "tests"]:
        if not _TEST_FOLDERS.isdisjoint(PurePosixPath(self.path).parts[:-1]):
            return "tests"
        return "held_out" if self.path in HELD_OUT else "train"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def stdlib_root() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def python_version() -> str:
    """``major.minor.micro`` of the running interpreter, which names the corpus."""
    return ".".join(map(str, sys.version_info[:3]))


def read_stdlib(split: Split = "all") -> Iterator[StdlibFile]:
    """Yield the corpus in a fixed order: sources by path, then reference text by path."""
    root = stdlib_root()
    skipped = _SKIPPED_FOLDERS if split == "tests" else _SKIPPED_FOLDERS | _TEST_FOLDERS
    for suffixes in ((".py",), _REFERENCE_SUFFIXES):
        for path in _walk(root, suffixes, skipped):
            text = path.read_bytes().decode("utf-8", errors="replace").replace("\r\n", "\n")
            relative = path.relative_to(root).as_posix()
            files = _topics(text) if relative == "pydoc_data/topics.py" else [StdlibFile(relative, text)]
            for file in files:
                usable = file.text.strip() and file.path not in _REPEATED and not _tests_held_out(file.path)
                if usable and split in ("all", file.split):
                    yield file


def _tests_held_out(path: str) -> bool:
    """Whether a file of ``tests`` may quote a held-out one, by its name or that of a folder that it is in."""
    return not _TESTS_OF_HELD_OUT.isdisjoint(PurePosixPath(path).with_suffix("").parts)


def _walk(root: Path, suffixes: tuple[str, ...], skipped: frozenset[str]) -> list[Path]:
    found: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in skipped]
        found += [Path(folder, name) for name in names if name.endswith(suffixes)]
    relative = ((path.relative_to(root).as_posix(), path) for path in found if path.is_file())
    return [path for name, path in sorted(relative) if not _GENERATED.match(name)]


def _topics(source: str) -> list[StdlibFile]:
    """The reference manual's topics, read as data: a dict literal of topic → prose."""
    assign = next(node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    topics: dict[str, str] = ast.literal_eval(assign.value)
    return [StdlibFile(f"pydoc_data/topics/{name}.txt", text) for name, text in sorted(topics.items())]
