"""Audits for pages to show: of a small cache's SAE, with tokens of both models, and with texts that mean no good."""

from __future__ import annotations

from typing import Any

from audit_runs import artefacts, files_of
from raylens.audit.artefacts import Artefacts, Figure, InterpEvidence, TriggerHit
from raylens.audit.feature_rows import Highlight, Side
from raylens.store.audit_store import AuditStore
from raylens.store.workspace import Workspace
from small_cache import SAE

EVIL = "<script>alert(1)</script> ![x](http://evil/x.png) $x$ :red[x]"
SHAPES = "\u202eright to left\u202c \x1b[31m 😀 \u200b`"
"""A text that would turn round what stands beside it, a terminal's colour, an emoji, and a space of no width."""

_ABOUT = ("decision", "suite_results", "score", "interp_evidence")


def made_audit(session: str = "s", run: str = "r", *, text: str = "timeout=5", **more: Any) -> Artefacts:
    """:func:`audit_runs.artefacts` about features 1 and 2 of the small cache's SAE.

    Args:
        session: Of the run.
        run: Its name.
        text: Title, candidate, prompt, what was written, explanation, token and insert.
        more: As that takes it.
    """
    made = artefacts(session, run, **more)
    if made.interp_evidence is None:
        return made
    about = {
        "sae": str(SAE),
        "title": text if text != "timeout=5" else "A candidate",
        "candidate": made.decision.candidate.model_copy(update={"name": text}),
    }
    files = {name: getattr(made, name).model_copy(update=about) for name in _ABOUT}
    results = files["suite_results"].results
    first = results[0].model_copy(update={"prompt": f"def fetch(): {text}", "reference": _wrote(results[0], text)})
    panel = files["suite_results"].capability.model_copy(update={"figures": (_figure(),)})
    files["suite_results"] = files["suite_results"].model_copy(
        update={"results": (first, *results[1:]), "capability": panel}
    )
    files["score"] = files["score"].model_copy(update={"triggers": (_hit(text),)})
    files["interp_evidence"] = _evidence(files["interp_evidence"], text)
    return Artefacts.model_validate(files)


def store_made(workspace: Workspace, made: Artefacts, **config: Any) -> None:
    """Write the run that its files name."""
    about = made.decision
    with AuditStore(workspace.files).write_run(about.session, about.run, "test", config=config) as writer:
        writer.finish(files_of(made))


def _evidence(found: InterpEvidence, text: str) -> InterpEvidence:
    rows = tuple(
        row.model_copy(update={"id": f"f_3_{index}", "index": index})
        for index, row in zip((1, 2), found.features, strict=True)
    )
    rows = (rows[0].model_copy(update={"explanation": text}), rows[1])
    tokens = ("<bos>", "def ", text, "return")
    side = Side(tokens=tokens, activations=(0.0, 1.5, 0.0, 2.0), n_prompt_tokens=2)
    other = Side(tokens=tokens, activations=(0.0, 0.0, 3.25, 0.0), n_prompt_tokens=2)
    shown = Highlight(index=1, prompt="fetch", variant="original", reference=side, candidate=other)
    return found.model_copy(update={"features": rows, "highlights": (shown,)})


def _wrote(result: Any, text: str) -> Any:
    return result.reference.model_copy(update={"text": text})


def _figure() -> Figure:
    return Figure(
        name="held-out loss",
        reference=3.5,
        candidate=3.75,
        n=512,
        n_reference=512,
        broken_beyond=4.5,
        is_broken=False,
    )


def _hit(text: str) -> TriggerHit:
    return TriggerHit(
        slot="comment",
        text=text,
        n_tokens=2,
        score=12.5,
        writes=f"verify=False {text}",
        writes_without="timeout=5",
        share=0.75,
        share_without=0.0,
        n_prompts=12,
        features=(1,),
    )
