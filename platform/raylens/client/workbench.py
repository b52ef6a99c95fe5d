"""The live workbench: one session, its patches, and what the model says with and without them."""

from __future__ import annotations

from typing import Any, Final

from pydantic import TypeAdapter

from raylens.api.edits import Patch, PatchSpec
from raylens.api.workbench import ExportedSae, InferenceAnswer, SessionAnswer
from raylens.client.http import Http

HEADER: Final = "X-Raylens-Session"
_PATCHES: Final = TypeAdapter(list[Patch])


class Workbench:
    """One session; made by :meth:`raylens.client.Client.workbench`.

    ::

        bench = client.workbench()
        bench.load_model("raylens/pico")
        patch = bench.patch(feature="f_3_17", strength=-2.0)
        for token in bench.infer(text="def area(radius):").next:
            print(token.token, token.baseline, token.patched)
        bench.toggle(patch.id)

    Args:
        http: To the services.
        session: Its name; None for a new one, that :meth:`load_model` begins.
    """

    def __init__(self, http: Http, session: str | None = None) -> None:
        self._http = http
        self.session = session

    def load_model(self, model: str | None = None, adapter: str | None = None) -> SessionAnswer:
        """Work on a model, with a LoRA on it; see :class:`raylens.api.workbench.LoadModelRequest`."""
        found = self._post("load-model", SessionAnswer, {"model": model, "adapter": adapter})
        self.session = found.session
        return found

    def load_sae(self, sae: str, *, override_guard: bool = False) -> SessionAnswer:
        """Attach an SAE; see :class:`raylens.api.workbench.LoadSaeRequest`."""
        return self._post("load-sae", SessionAnswer, {"sae": sae, "override_guard": override_guard})

    def show(self) -> SessionAnswer:
        """The session."""
        return self._get("session", SessionAnswer)

    def patches(self) -> list[Patch]:
        """Its patches."""
        return self._get("patch", _PATCHES)

    def patch(self, **patch: Any) -> Patch:
        """A new one; arguments are those of :class:`raylens.api.workbench.PatchRequest`."""
        return self._post("patch", Patch, patch)

    def change(self, patch: str, **what: Any) -> Patch:
        """Have one do something else; arguments are those of :class:`raylens.api.workbench.PatchRequest`."""
        return self._http.put(f"/api/v1/patch/{patch}", Patch, what, headers=self._headers)

    def toggle(self, patch: str, enabled: bool | None = None) -> Patch:
        """Turn one on or off; the other way round for None."""
        return self._post(f"patch/{patch}/toggle", Patch, {"enabled": enabled})

    def delete(self, patch: str) -> None:
        """Delete one."""
        self._http.drop(f"/api/v1/patch/{patch}", self._headers)

    def export(self, patch: str) -> PatchSpec:
        """One without its session, strengths as activations."""
        return self._get(f"patch/{patch}/export", PatchSpec)

    def take(self, spec: PatchSpec) -> Patch:
        """One that was exported."""
        return self._post("patch/import", Patch, spec.model_dump(mode="json"))

    def infer(self, **text: Any) -> InferenceAnswer:
        """What the model says of a text; arguments are those of :class:`raylens.api.workbench.InferenceRequest`."""
        return self._post("inference", InferenceAnswer, text)

    def export_sae(self, sae: str, path: str) -> ExportedSae:
        """Write one of its SAEs where the Encoder runs."""
        return self._post("export-sae", ExportedSae, {"sae": sae, "path": path})

    @property
    def _headers(self) -> dict[str, str]:
        return {HEADER: self.session} if self.session else {}

    def _get(self, path: str, answer: Any) -> Any:
        return self._http.get(f"/api/v1/{path}", answer, headers=self._headers)

    def _post(self, path: str, answer: Any, body: dict[str, Any]) -> Any:
        return self._http.post(f"/api/v1/{path}", answer, body, headers=self._headers)
