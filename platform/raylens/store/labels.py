"""What people say of features: a label and a star each, and any number of notes.

They are about a feature of an SAE (``<sae>/<index>``), not about a cache: what a latent means follows from
the SAE's weights, whatever text it was looked at in, and an id names weights (that of a local folder holds
their hash). Each person has one label and one star a feature; a new label takes the place of the same
person's, never of another's. The journal keeps everything that was ever said, :func:`fold` says what stands.
"""

from __future__ import annotations

import secrets
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final, Literal

import pyarrow as pa
from pydantic import ConfigDict

from raylens.errors import InputError, UnknownNameError
from raylens.ids import FeatureId, SaeId, digest
from raylens.store.journal import Event, Journal
from raylens.store.kept import Kept
from raylens.store.manifest import Manifest
from raylens.store.workspace import Workspace

HUMAN: Final = "human"
"""``explainer`` of people's labels where they stand beside explanations; Neuronpedia's name of the type."""

LABEL_LIMIT: Final = 300
NOTE_LIMIT: Final = 4000
AUTHOR_LIMIT: Final = 100
"""Characters."""

_FOLDER: Final = "labels"
# Controls, lone surrogates, private use, line and paragraph separators; of format characters only joiners that some
# scripts and emoji need, so that no text turns round what stands beside it.
_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp", "Cf"})
_JOINERS: Final = "\u200c\u200d"

Kind = Literal["label", "unlabel", "star", "unstar", "note", "unnote"]


class Said(Event):
    """One event.

    Attributes:
        event_id: Unique; a note's id.
        at: When, UTC, by the writer's clock; the order of events is the journal's.
        author: Who.
        sae: ``str(SaeId)``.
        feature: Its index.
        kind: What happened.
        text: The label or the note; of ``unnote`` the note's id.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    author: str
    sae: str
    feature: int
    kind: Kind
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """What one person says of one feature: a label, a star, or both."""

    sae: str
    feature: int
    author: str
    label: str | None
    starred: bool
    at: datetime

    @property
    def label_id(self) -> str:
        """Its ``explanation_id``: a hash of who says what of which feature."""
        return digest({"by": HUMAN, "sae": self.sae, "feature": self.feature, "author": self.author, "l": self.label})[
            :16
        ]


@dataclass(frozen=True, slots=True)
class Note:
    """A remark on a feature."""

    note_id: str
    sae: str
    feature: int
    author: str
    note: str
    at: datetime


@dataclass(frozen=True)
class Words:
    """What stands.

    Attributes:
        labels: By (SAE, feature, author).
        notes: By id, in the order they were written.
    """

    labels: dict[tuple[str, int, str], Label] = field(default_factory=dict)
    notes: dict[str, Note] = field(default_factory=dict)

    @cached_property
    def _by_feature(self) -> dict[str, dict[int, list[Label]]]:
        found: dict[str, dict[int, list[Label]]] = {}
        for one in self.labels.values():
            found.setdefault(one.sae, {}).setdefault(one.feature, []).append(one)
        return found

    def labels_of(self, sae: SaeId, feature: int | None = None) -> list[Label]:
        """Of an SAE, or of one feature of it, in order of feature and author."""
        of_sae = self._by_feature.get(str(sae), {})
        found = of_sae.get(feature, []) if feature is not None else [one for some in of_sae.values() for one in some]
        return sorted(found, key=lambda one: (one.feature, one.author))

    def notes_of(self, sae: SaeId, feature: int | None = None) -> list[Note]:
        """Likewise, oldest first."""
        found = (one for one in self.notes.values() if one.sae == str(sae))
        return [one for one in found if feature is None or one.feature == feature]


def fold(events: Iterable[Said]) -> Words:
    """What stands after ``events``, in their order."""
    words = Words()
    for event in events:
        key = event.sae, event.feature, event.author
        if event.kind == "note":
            note = Note(event.event_id, event.sae, event.feature, event.author, event.text or "", event.at)
            words.notes[event.event_id] = note
        elif event.kind == "unnote":
            words.notes.pop(event.text or "", None)
        else:
            before = words.labels.get(key) or Label(*key, label=None, starred=False, at=event.at)
            if event.kind in {"label", "unlabel"}:
                after = replace(before, label=event.text if event.kind == "label" else None, at=event.at)
            else:
                after = replace(before, starred=event.kind == "star", at=event.at)
            if after.label is None and not after.starred:
                words.labels.pop(key, None)
            else:
                words.labels[key] = after
    return words


class Labels:
    """People's labels, stars and notes of a workspace; safe to use from several threads."""

    def __init__(self, workspace: Workspace) -> None:
        self._journal = Journal(workspace.files, _FOLDER, Said, what="people's labels")
        self._words = Kept(self._journal.state, lambda: fold(self._journal.read()))

    def read(self) -> Words:
        """What stands now; read anew only where somebody said something since.

        Raises:
            DamagedFileError: A segment of the journal is missing or cannot be read.
        """
        return self._words.get()

    def state(self) -> tuple[str, ...]:
        """Equal as long as nobody says anything."""
        return self._journal.state()

    def say(
        self,
        feature: FeatureId,
        author: str,
        *,
        label: str | None = None,
        star: bool | None = None,
        note: str | None = None,
        unlabel: bool = False,
        unnote: Iterable[str] = (),
    ) -> None:
        """Write what one person says of a feature: all of it or, where something is wrong, nothing.

        Args:
            feature: Of what.
            author: Who.
            label: Takes the place of this person's label.
            star: True sets this person's star, False takes it away.
            note: One more note.
            unlabel: Take this person's label away.
            unnote: Ids of notes of this person to take away.

        Raises:
            InputError: A text is empty, too long or not printable, or there is nothing to say.
            UnknownNameError: There is no such label or note of this person.
            BusyError: Others were writing for too long.
        """
        author = checked_text(author, "an author's name", AUTHOR_LIMIT)
        said: list[tuple[Kind, str | None]] = []
        if unlabel or unnote:
            said += self._taken_back(feature, author, unlabel, list(unnote))
        if label is not None:
            said.append(("label", checked_text(label, "a label", LABEL_LIMIT)))
        if star is not None:
            said.append(("star" if star else "unstar", None))
        if note is not None:
            said.append(("note", checked_text(note, "a note", NOTE_LIMIT, lines=True)))
        if not said:
            raise InputError("there is nothing to write.", hint="give a label, a star or a note.")
        about = {"author": author, "sae": str(feature.sae), "feature": feature.index, "at": datetime.now(UTC)}
        events = [
            Said.model_validate({"event_id": secrets.token_hex(6), "kind": kind, "text": text, **about})
            for kind, text in said
        ]
        self._journal.append(events, f"of {author}")

    def _taken_back(
        self, feature: FeatureId, author: str, unlabel: bool, unnote: list[str]
    ) -> list[tuple[Kind, str | None]]:
        words = self.read()
        said: list[tuple[Kind, str | None]] = []
        if unlabel:
            mine = words.labels.get((str(feature.sae), feature.index, author))
            if mine is None or mine.label is None:
                others = [one.author for one in words.labels_of(feature.sae, feature.index) if one.label is not None]
                hint = f"there are labels of {', '.join(others)}; --author names whose." if others else "it has none."
                raise UnknownNameError(f"{feature} has no label of {author}.", hint=hint)
            said.append(("unlabel", None))
        notes = {one.note_id for one in words.notes_of(feature.sae, feature.index) if one.author == author}
        for one in unnote:
            if one not in notes:
                raise UnknownNameError.among(f"note of {author} on {feature}", one, notes)
            said.append(("unnote", one))
        return said


def checked_text(text: str, what: str, limit: int, *, lines: bool = False) -> str:
    """``text`` without white space around it, in Unicode's composed form (NFC).

    Args:
        text: Anything.
        what: For the message.
        limit: Characters at most.
        lines: Whether line breaks and tabs are fine.

    Raises:
        InputError: Nothing is left, it is too long, or it holds characters that do not print.
    """
    found = unicodedata.normalize("NFC", text.replace("\r\n", "\n") if lines else text).strip()
    if not found:
        raise InputError(f"{what} must not be empty.", hint="write some text, or take it away with --remove.")
    for character in found:
        fine = character in _JOINERS or (lines and character in "\n\t")
        if not fine and unicodedata.category(character) in _UNPRINTABLE:
            raise InputError(
                f"{what} must be printable, and this holds U+{ord(character):04X}.",
                hint="leave that character out" + ("." if lines else "; write one line."),
            )
    if len(found) > limit:
        raise InputError(
            f"{what} may have {limit} characters, and this has {len(found)}.",
            hint="shorten it" + ("." if lines else "; a longer remark fits into --note."),
        )
    return found


def tables(words: Words, schemas: Mapping[str, pa.Schema]) -> dict[str, pa.Table]:
    """The views ``labels`` and ``notes``, in the columns that ``schemas`` gives them."""
    labels = [
        {
            "sae": one.sae,
            "feature": one.feature,
            "label": one.label,
            "source": HUMAN,
            "author": one.author,
            "starred": one.starred,
            "updated_at": one.at,
        }
        for one in sorted(words.labels.values(), key=lambda one: (one.sae, one.feature, one.author))
    ]
    notes = [
        {
            "sae": one.sae,
            "feature": one.feature,
            "note_id": one.note_id,
            "note": one.note,
            "author": one.author,
            "created_at": one.at,
        }
        for one in words.notes.values()
    ]
    return {
        "labels": pa.Table.from_pylist(labels, schemas["labels"]),
        "notes": pa.Table.from_pylist(notes, schemas["notes"]),
    }


def as_explanations(words: Words, manifests: Iterable[Manifest | None], columns: pa.Schema) -> pa.Table:
    """Labels as rows of the view ``explanations``, one for each cache that holds their SAE.

    Every row of that view is about a feature in a cache, and joins with others by both.
    """
    holders: dict[str, list[str]] = {}
    for manifest in manifests:
        for sae in manifest.saes if manifest else ():
            holders.setdefault(str(sae), []).append(manifest.cache_id if manifest else "")
    rows = [
        {
            "cache_id": cache_id,
            "sae": one.sae,
            "feature": one.feature,
            "explanation_id": one.label_id,
            "explainer": HUMAN,
            "explanation": one.label,
            "status": "ok",
            "trimmed": False,
            "created_at": one.at,
        }
        for one in words.labels.values()
        if one.label is not None
        for cache_id in holders.get(one.sae, ())
    ]
    return pa.Table.from_pylist(rows, columns)
