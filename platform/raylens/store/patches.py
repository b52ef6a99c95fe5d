"""Sessions of the workbench and their patches: a journal that the gateway and the command line append to.

A session has a model, SAEs that were attached to it, and patches in the order they were made. What one session does
is in no other's answers.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal

import pyarrow as pa
from pydantic import ConfigDict, Field

from raylens.api.edits import FeatureMax, Patch, PatchSpec
from raylens.errors import InputError, UnknownNameError
from raylens.store.journal import Event, Journal
from raylens.store.kept import Kept
from raylens.store.workspace import Workspace

MOST_PATCHES: Final = 256
"""Of a session."""
_FOLDER: Final = "patches"

Kind = Literal["opened", "attached", "created", "changed", "switched", "deleted"]


class PatchEvent(Event):
    """One event.

    Attributes:
        event_id: Unique; that of ``created`` is the patch's id.
        at: When, UTC.
        session: Whose.
        kind: What happened.
        model: Of ``opened``: the model from now on.
        adapter: Likewise, a LoRA on it.
        sae: Of ``attached``.
        override_guard: Likewise: whether it may have been trained on another model.
        patch: Of ``changed``, ``switched`` and ``deleted``: which.
        enabled: Of ``created`` and ``switched``.
        spec: Of ``created`` and ``changed``.
        maxima: Likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    session: str
    kind: Kind
    model: str | None = None
    adapter: str | None = None
    sae: str | None = None
    override_guard: bool = False
    patch: str | None = None
    enabled: bool = True
    spec: PatchSpec | None = None
    maxima: dict[str, FeatureMax] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Session:
    """What stands in one session.

    Attributes:
        id: Its name.
        model: That it works on; None before one was loaded.
        adapter: A LoRA on it.
        saes: Attached ones, each with whether the guard is overridden.
        patches: By id, in the order they were made; also those for other models than the present one.
    """

    id: str
    model: str | None = None
    adapter: str | None = None
    saes: dict[str, bool] = field(default_factory=dict[str, bool])
    patches: dict[str, Patch] = field(default_factory=dict[str, Patch])

    def active(self) -> list[Patch]:
        """Patches that are on and for the session's model, in order."""
        return [one for one in self.patches.values() if one.enabled and one.spec.model == self.model]


def fold(events: Iterable[PatchEvent]) -> dict[str, Session]:
    """What stands after ``events``, in their order."""
    sessions: dict[str, Session] = {}
    for event in events:
        session = sessions.setdefault(event.session, Session(event.session))
        if event.kind == "opened":
            same = (session.model, session.adapter) == (event.model, event.adapter)
            saes = session.saes if same else {}
            sessions[event.session] = replace(session, model=event.model, adapter=event.adapter, saes=saes)
        elif event.kind == "attached" and event.sae is not None:
            session.saes[event.sae] = event.override_guard
        elif event.kind == "created" and event.spec is not None:
            session.patches[event.event_id] = Patch(
                id=event.event_id,
                session=event.session,
                spec=event.spec,
                enabled=event.enabled,
                maxima=event.maxima,
                at=event.at,
            )
        elif event.patch in session.patches:
            if event.kind == "deleted":
                del session.patches[event.patch]
            elif event.kind == "changed" and event.spec is not None:
                session.patches[event.patch] = session.patches[event.patch].model_copy(
                    update={"spec": event.spec, "maxima": event.maxima}
                )
            elif event.kind == "switched":
                session.patches[event.patch] = session.patches[event.patch].model_copy(
                    update={"enabled": event.enabled}
                )
    return sessions


class Patches:
    """Sessions and patches of a workspace; safe to use from several threads.

    Every method raises DamagedFileError where a segment of the journal cannot be read; those that write also
    BusyError where others wrote for too long, and DiskFullError.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._journal = Journal(workspace.files, _FOLDER, PatchEvent, what="patches")
        self._sessions = Kept(self._journal.state, lambda: fold(self._journal.read()))

    def session(self, name: str) -> Session:
        """What stands in a session; an empty one where nothing happened in it."""
        found = self._sessions.get().get(name)
        return Session(name) if found is None else found

    def sessions(self) -> dict[str, Session]:
        """All of them."""
        return self._sessions.get()

    def open(self, session: str, model: str, adapter: str | None = None) -> Session:
        """Have a session work on a model from now on; SAEs that were attached to another are not its own."""
        self._append(session, "opened", model=model, adapter=adapter)
        return self.session(session)

    def attach(self, session: str, sae: str, *, override_guard: bool = False) -> Session:
        """Have a session read with an SAE besides those that are served."""
        self._append(session, "attached", sae=sae, override_guard=override_guard)
        return self.session(session)

    def create(
        self, session: str, spec: PatchSpec, maxima: dict[str, FeatureMax] | None = None, *, enabled: bool = True
    ) -> Patch:
        """Keep a patch.

        Raises:
            InputError: The session has as many as it may.
        """
        if len(self.session(session).patches) >= MOST_PATCHES:
            raise InputError(f"session {session} has {MOST_PATCHES} patches.", hint="delete some.")
        made = self._append(session, "created", spec=spec, maxima=maxima or {}, enabled=enabled)
        return self.get(session, made)

    def get(self, session: str, patch: str) -> Patch:
        """One patch of a session.

        Raises:
            UnknownNameError: There is none (any more).
        """
        found = self.session(session).patches.get(patch)
        if found is None:
            raise UnknownNameError(
                f"session {session} has no patch {patch!r}.", hint="it may have been deleted; patches can be listed."
            )
        return found

    def switch(self, session: str, patch: str, enabled: bool | None = None) -> Patch:
        """Turn a patch on or off; the other way round for None.

        Raises:
            UnknownNameError: There is none (any more).
        """
        before = self.get(session, patch)
        on = not before.enabled if enabled is None else enabled
        if on != before.enabled:
            self._append(session, "switched", patch=patch, enabled=on)
        return self.get(session, patch)

    def change(self, session: str, patch: str, spec: PatchSpec, maxima: dict[str, FeatureMax] | None = None) -> Patch:
        """Have a patch do something else; it stays on or off, and in its place.

        Raises:
            UnknownNameError: There is none (any more).
        """
        self.get(session, patch)
        self._append(session, "changed", patch=patch, spec=spec, maxima=maxima or {})
        return self.get(session, patch)

    def delete(self, session: str, patch: str) -> None:
        """Delete a patch.

        Raises:
            UnknownNameError: There is none (any more).
        """
        self.get(session, patch)
        self._append(session, "deleted", patch=patch)

    def _append(self, session: str, kind: Kind, **what: Any) -> str:
        event = PatchEvent(event_id=secrets.token_hex(6), at=datetime.now(UTC), session=session, kind=kind, **what)
        self._journal.append([event], f"session {session}")
        self._sessions.look()
        return event.event_id


def patch_table(sessions: Iterable[Session], columns: pa.Schema) -> pa.Table:
    """The view ``patches``: a row an edit, in order of sessions, patches and edits."""
    rows: list[dict[str, Any]] = []
    for session in sorted(sessions, key=lambda one: one.id):
        for patch in session.patches.values():
            hooks = {one.name: one.hook for one in patch.spec.directions}
            about = {
                "patch_id": patch.id,
                "session": patch.session,
                "name": patch.spec.name,
                "model": patch.spec.model,
                "sae": patch.spec.sae,
                "enabled": patch.enabled,
                "created_at": patch.at,
            }
            rows += [
                about
                | {
                    "place": place,
                    "feature": edit.feature,
                    "direction": edit.direction,
                    "hook": hooks.get(edit.direction or ""),
                    "method": edit.method,
                    "strength": edit.strength,
                    "unit": edit.unit,
                    "tokens": edit.where,
                }
                for place, edit in enumerate(patch.spec.edits)
            ]
    return pa.Table.from_pylist(rows, columns)
