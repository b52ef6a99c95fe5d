"""Sessions of the workbench in the gateway: which model, which SAEs, which patches, and what comes of them.

A session is a name that a client sends. What it holds stands in the workspace (:mod:`raylens.store.patches`); the
Encoder is told all of it with every request, so that no replica remembers anybody.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from raylens.api.edits import Edit, FeatureMax, Patch, PatchSpec
from raylens.api.workbench import (
    Edited,
    ExportedSae,
    ExportSaeRequest,
    Held,
    Hold,
    InferenceAnswer,
    InferenceRequest,
    LoadModelRequest,
    LoadSaeRequest,
    MaximaRequest,
    PatchRequest,
    SaeExport,
    SessionAnswer,
    TextPart,
)
from raylens.errors import InputError, MismatchError, RaylensError, UnknownNameError
from raylens.ids import FeatureId
from raylens.labels.workspace_features import WorkspaceFeatures
from raylens.store.patches import Patches, Session
from raylens_serve.patch_checks import check_direction, find_feature
from raylens_serve.served import Served
from raylens_serve.services import EncoderClient

_REMEMBERED: Final = 64
NO_SESSION: Final = InputError(
    "the request names no session that has a model.",
    hint="POST /load-model first, and send its session as X-Raylens-Session, or its cookie.",
)

T = TypeVar("T")

_Key = tuple[str | None, str | None, tuple[tuple[str, bool], ...]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the Encoder is asked, and which patches that are."""

    edited: Edited
    patches: tuple[str, ...]


class Sessions:
    """What clients do at the workbench; for one event loop.

    Args:
        patches: What is kept.
        encoder: Runs models.
        served: Models of the configuration, with their SAEs.
        features: Knows features' maxima where a cache holds them.
    """

    def __init__(self, patches: Patches, encoder: EncoderClient, served: Served, features: WorkspaceFeatures) -> None:
        self._patches, self._encoder, self._served, self._features = patches, encoder, served, features
        self._held: dict[_Key, Held] = {}
        self._watching: dict[str, set[asyncio.Event]] = defaultdict(set)

    # ------------------------------------------------------------------ what is loaded

    async def load_model(self, session: str, request: LoadModelRequest) -> SessionAnswer:
        """Have a session work on a model from now on; patches for another one stay, and rest.

        Raises:
            UnknownNameError: There is no such model.
            InputError, MismatchError: It or its adapter cannot be used.
        """
        held = await self._hold(request.model, request.adapter, self._offered(request.model))
        model = request.model or self._served.rows()[0].model
        kept = await self._in_thread(partial(self._patches.open, session, model, request.adapter))
        self._tell(session)
        return _answer(kept, held)

    async def load_sae(self, session: str, request: LoadSaeRequest) -> SessionAnswer:
        """Read with one more SAE, once it was held against the model (the guard, A0.04).

        Raises:
            UnknownNameError: There is none.
            MismatchError: It was trained on another model, or does not fit.
        """
        found = await self.session(session)
        saes = self._saes(found) | {request.sae: request.override_guard}
        held = await self._hold(found.model, found.adapter, saes)
        kept = await self._in_thread(
            partial(self._patches.attach, session, request.sae, override_guard=request.override_guard)
        )
        return _answer(kept, held)

    async def export_sae(self, session: str, request: ExportSaeRequest) -> ExportedSae:
        """Write one of the session's SAEs.

        Raises:
            UnknownNameError: The session has no such SAE.
            InputError: The folder is there already, or lies outside the base directory.
        """
        found = await self.session(session)
        saes = self._saes(found)
        held = await self._hold(found.model, found.adapter, saes)
        refs = {one.sae: ref for ref, one in zip(saes, held.saes, strict=True)}
        ref = request.sae if request.sae in saes else refs.get(request.sae)
        if ref is None:
            raise UnknownNameError.among("SAE", request.sae, refs, hint="Others are attached with load-sae.")
        wanted = SaeExport(
            model=found.model or "",
            adapter=found.adapter,
            sae=ref,
            override_guard=saes[ref],
            path=request.path,
        )
        return await self._encoder.export_sae(wanted)

    async def show(self, session: str) -> SessionAnswer:
        """What stands in a session."""
        found = await self.session(session)
        return _answer(found, await self._hold(found.model, found.adapter, self._saes(found)))

    async def session(self, name: str | None) -> Session:
        """A session that has a model.

        Raises:
            InputError: It has none.
        """
        found = await self._in_thread(lambda: self._patches.session(name or ""))
        if name is None or found.model is None:
            raise InputError(NO_SESSION.message, hint=NO_SESSION.hint)
        return found

    # ------------------------------------------------------------------ patches

    async def create(self, session: str, request: PatchRequest) -> Patch:
        """Keep a patch for the session's model.

        Raises:
            InputError: An edit names a feature or a point that there is not, or there are too many patches.
            MismatchError: It was made for another model or width.
        """
        found = await self.session(session)
        spec, maxima = await self._checked(found, request.spec(found.model or ""))
        made = await self._in_thread(partial(self._patches.create, session, spec, maxima, enabled=request.enabled))
        self._tell(session)
        return made

    async def change(self, session: str, patch: str, request: PatchRequest) -> Patch:
        """Have a patch do something else; raises as :meth:`create`, and UnknownNameError where there is none."""
        found = await self.session(session)
        await self.patch(session, patch)
        spec, maxima = await self._checked(found, request.spec(found.model or ""))
        changed = await self._in_thread(partial(self._patches.change, session, patch, spec, maxima))
        if "enabled" in request.model_fields_set:
            changed = await self._in_thread(partial(self._patches.switch, session, patch, request.enabled))
        self._tell(session)
        return changed

    async def add(self, session: str, spec: PatchSpec, *, enabled: bool = True) -> Patch:
        """Keep a patch that was made elsewhere; raises as :meth:`create`."""
        found = await self.session(session)
        if spec.model is not None and spec.model != found.model:
            raise MismatchError(
                f"the patch is for {spec.model}, and the session works on {found.model}.",
                hint="load that model first, or make the patch for this one.",
            )
        whole, maxima = await self._checked(found, spec.model_copy(update={"model": found.model}))
        made = await self._in_thread(partial(self._patches.create, session, whole, maxima, enabled=enabled))
        self._tell(session)
        return made

    async def patch(self, session: str, patch: str) -> Patch:
        """One patch of a session; UnknownNameError where there is none."""
        return await self._in_thread(lambda: self._patches.get(session, patch))

    async def toggle(self, session: str, patch: str, enabled: bool | None) -> Patch:
        """Turn a patch on or off; UnknownNameError where there is none."""
        switched = await self._in_thread(partial(self._patches.switch, session, patch, enabled))
        self._tell(session)
        return switched

    async def delete(self, session: str, patch: str) -> None:
        """Delete a patch; UnknownNameError where there is none."""
        await self._in_thread(partial(self._patches.delete, session, patch))
        self._tell(session)

    async def _checked(self, session: Session, spec: PatchSpec) -> tuple[PatchSpec, dict[str, FeatureMax]]:
        """A patch with whole names of features, and their maxima where strengths are in units of them."""
        saes = self._saes(session)
        held = await self._hold(session.model, session.adapter, saes)
        refs = dict(zip(saes, held.saes, strict=True))
        for one in spec.directions:
            check_direction(one, held)
        edits: list[Edit] = []
        wanted: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for edit in spec.edits:
            if edit.feature is None:
                edits.append(edit)
                continue
            ref, index = find_feature(edit.feature, refs, spec.sae)
            name = f"{refs[ref].sae}/{index}"
            edits.append(edit.model_copy(update={"feature": name}))
            if edit.unit == "max" and edit.method in ("add", "clamp"):
                wanted[ref].append((name, index))
        maxima: dict[str, FeatureMax] = {}
        for ref, some in wanted.items():
            maxima |= await self._maxima(session, ref, saes[ref], some)
        return spec.model_copy(update={"edits": tuple(edits), "sae": None}), maxima

    # ------------------------------------------------------------------ what comes of them

    async def infer(self, session: str, request: InferenceRequest) -> InferenceAnswer:
        """What the session's model says of a text, untouched and patched.

        Raises:
            UnknownNameError: A patch that is named is not there.
            InputError: There is nothing to read, or it is too long to write after.
            RunError, OutOfMemoryError: It could not be read.
        """
        asked = await self._asked(session, request)
        found = await self._encoder.predict(asked.edited)
        texts = {"baseline": "", "patched": ""} if request.max_new_tokens else {}
        if texts:
            async for part in self._encoder.write(asked.edited):
                texts[part.which] += part.text
            if not asked.patches:
                texts["patched"] = texts["baseline"]
        about = {"session": session, "model": asked.edited.model, "patches": asked.patches, **texts}
        return InferenceAnswer.model_validate(found.model_dump() | about)

    async def write(self, session: str, request: InferenceRequest) -> AsyncIterator[TextPart]:
        """What both models write, as it comes; raises as :meth:`infer`."""
        asked = await self._asked(session, request)
        async for part in self._encoder.write(asked.edited):
            yield part

    def watch(self, session: str, changed: asyncio.Event) -> None:
        """Have an event set whenever patches of a session change here."""
        self._watching[session].add(changed)

    def unwatch(self, session: str, changed: asyncio.Event) -> None:
        """Not any more."""
        self._watching[session].discard(changed)
        if not self._watching[session]:
            del self._watching[session]

    def _tell(self, session: str) -> None:
        for changed in self._watching.get(session, ()):
            changed.set()

    async def _asked(self, name: str, request: InferenceRequest) -> _Asked:
        session = await self.session(name)
        if request.patches is None:
            chosen = session.active()
        else:
            chosen = [await self.patch(name, one) for one in request.patches]
            other = next((one for one in chosen if one.spec.model != session.model), None)
            if other is not None:
                raise MismatchError(
                    f"patch {other.id} is for {other.spec.model}, and the session works on {session.model}.",
                    hint="load that model again, or leave the patch out.",
                )
        saes = self._saes(session)
        held = await self._hold(session.model, session.adapter, saes)
        refs = {one.sae: ref for ref, one in zip(saes, held.saes, strict=True)}
        needed: dict[str, bool] = {}
        for edit in (edit for one in chosen for edit in one.spec.edits if edit.feature is not None):
            sae = str(FeatureId.parse(edit.feature or "").sae)
            if sae not in refs:
                raise UnknownNameError(
                    f"{edit.feature} is of an SAE that the session does not have.", hint="attach it with load-sae."
                )
            needed[refs[sae]] = saes[refs[sae]]
        edited = Edited(
            model=session.model or "",
            adapter=session.adapter,
            saes=needed,
            specs=tuple(one.absolute() for one in chosen),
            text=request,
        )
        return _Asked(edited, tuple(one.id for one in chosen))

    # ------------------------------------------------------------------ inside

    def _offered(self, model: str | None) -> dict[str, bool]:
        """SAEs that a model comes with: those of the configuration, else the one that the catalogue would suggest."""
        return dict.fromkeys(self._served.suggested(model), False)

    def _saes(self, session: Session) -> dict[str, bool]:
        return self._offered(session.model) | session.saes

    async def _hold(self, model: str | None, adapter: str | None, saes: dict[str, bool]) -> Held:
        key: _Key = model, adapter, tuple(saes.items())
        if key not in self._held:
            held = await self._encoder.hold(Hold(model=model, adapter=adapter, saes=saes))
            while len(self._held) >= _REMEMBERED:
                self._held.pop(next(iter(self._held)))
            self._held[key] = held
        return self._held[key]

    async def _maxima(
        self, session: Session, ref: str, override: bool, some: Iterable[tuple[str, int]]
    ) -> dict[str, FeatureMax]:
        found: dict[str, FeatureMax] = {}
        unknown: dict[str, int] = {}
        for name, index in some:
            known = await self._in_thread(partial(self._of_cache, name))
            if known is None:
                unknown[name] = index
            else:
                found[name] = known
        if unknown:
            request = MaximaRequest(
                model=session.model or "",
                adapter=session.adapter,
                sae=ref,
                override_guard=override,
                features=tuple(unknown.values()),
            )
            found |= dict(zip(unknown, await self._encoder.maxima(request), strict=True))
        return found

    def _of_cache(self, name: str) -> FeatureMax | None:
        try:
            one, index = self._features.find(name)
            largest = self._features.largest(one, index)
        except RaylensError:  # no cache holds it, or none that can be read
            return None
        return FeatureMax(value=largest, source=f"cache {one.cache_id}") if largest else None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.to_thread(work)


def _answer(session: Session, held: Held) -> SessionAnswer:
    return SessionAnswer(
        session=session.id,
        model=session.model or held.model,
        adapter=session.adapter,
        n_layers=held.n_layers,
        d_model=held.d_model,
        saes=held.saes,
        patches=tuple(session.patches.values()),
    )
