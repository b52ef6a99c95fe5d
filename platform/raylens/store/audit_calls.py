"""``tool_calls.jsonl``: what a program asked of an audit session, a line a call, in the order of asking (A2.02).

No store appends to a file that two write, so a call is a file of its own, made by a conditional write of the next
number: nobody writes over anybody. The transcript is written from these after each call; whoever wrote an older one
over a newer one sees the number after its own last, and writes once more.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from raylens.store.audit_paths import TRANSCRIPT, session_folder
from raylens.store.files import Files
from raylens.store.redact import plain_settings

_OWN: Final = ("number", "id", "at")
# What some programs take for the end of a line, and what steers a terminal: escaped, as JSON allows in a string.
_ESCAPED: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


class ToolCalls:
    """The calls of one session; its methods may be called from any thread.

    Args:
        files: The workspace's.
        session: Its name.

    Raises:
        InputError: ``session`` cannot name one.
    """

    def __init__(self, files: Files, session: str) -> None:
        self._files = files
        self._folder = f"{session_folder(session)}/_calls"
        self.path = f"{session_folder(session)}/{TRANSCRIPT}"
        self._guard = threading.Lock()
        self._lines: dict[int, bytes] | None = None

    def append(self, call: Mapping[str, object]) -> int:
        """Add a call; durable when this returns.

        Args:
            call: ``tool``, ``arguments`` and whatever else is to be known, JSON values; secrets are left out.
                ``number``, ``id`` and ``at`` (UTC) are added in front.

        Returns:
            Its number in the session, from 1.

        Raises:
            DiskFullError: No space; nothing was added, or the call is there and the transcript follows later.
        """
        said = {name: value for name, value in plain_settings(call).items() if name not in _OWN}
        with self._guard:
            lines = self._known()
            while True:
                number = max(lines, default=0) + 1
                about = {"number": number, "id": secrets.token_hex(6), "at": datetime.now(UTC).isoformat()}
                line = _line(about | said)
                if self._files.commit_if_absent(self._file(number), line) or self._stored(number) == line:
                    lines[number] = line
                    break
                if not self._follow(lines):
                    self._lines = None
                    lines = self._known()
            self._write(lines)
        return number

    def read(self) -> list[dict[str, Any]]:
        """Every call, in order."""
        with self._guard:
            self._lines = None
            lines = self._known()
        return [json.loads(lines[number]) for number in sorted(lines)]

    def _known(self) -> dict[int, bytes]:
        """Lines by number. What the transcript has as well is not read a second time, a file each."""
        if self._lines is None:
            lines = self._transcript()
            for one in self._files.scan(self._folder, recursive=False):
                name = one.path.rpartition("/")[2].removesuffix(".json")
                if one.temporary or not name.isdecimal():
                    continue
                if (number := int(name)) not in lines or len(lines[number]) != one.size:
                    lines[number] = self._files.read_bytes(one.path)
            self._lines = lines
        return self._lines

    def _transcript(self) -> dict[int, bytes]:
        lines: dict[int, bytes] = {}
        try:
            written = self._files.read_bytes(self.path)
        except FileNotFoundError:
            return lines
        for line in written.split(b"\n"):
            try:
                number = json.loads(line)["number"]
            except (ValueError, TypeError, KeyError):
                continue  # somebody edited it; the files of the calls say what it was
            if isinstance(number, int) and number > 0:
                lines[number] = line
        return lines

    def _write(self, lines: dict[int, bytes]) -> None:
        while True:
            self._files.commit(self.path, b"".join(lines[number] + b"\n" for number in sorted(lines)))
            if not self._follow(lines):
                return

    def _follow(self, lines: dict[int, bytes]) -> bool:
        """Add calls of others behind the last known one; whether there were any."""
        before = len(lines)
        while (line := self._stored(number := max(lines, default=0) + 1)) is not None:
            lines[number] = line
        return len(lines) > before

    def _stored(self, number: int) -> bytes | None:
        try:
            return self._files.read_bytes(self._file(number))
        except FileNotFoundError:
            return None

    def _file(self, number: int) -> str:
        return f"{self._folder}/{number:09d}.json"


def _line(call: Mapping[str, object]) -> bytes:
    text = json.dumps(call, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
