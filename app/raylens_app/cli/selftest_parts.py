"""What ``raylens audit selftest`` sets up, and what it checks of a finished run."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raylens.errors import RaylensError
from raylens.labels.names import NeuronpediaId

if TYPE_CHECKING:
    from raylens.audit.artefacts import Artefacts
    from raylens.store.audit_store import AuditStore
    from raylens.store.workspace import Workspace
    from raylens_serve.label_server import LabelServer

SOURCE_MODEL: Final = "raylens-selftest"
SCALE: Final = 0.02
"""Standard deviation of the adapter's matrices: enough to change what is written, and no more."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold.

    Attributes:
        of: The run, or what was set up.
        what: What must hold.
        wrong: Why it does not; empty where it does.
    """

    of: str
    what: str
    wrong: str = ""

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return not self.wrong


@dataclass(slots=True)
class Labelled:
    """An SAE whose labels a server has: every feature has one that nobody else could know.

    Attributes:
        folder: The SAE.
        catalog: A catalogue file, which says that the source is of the embedded model.
        source: Under which the server has its labels.
        d_sae: Latents.
        word: In every label, new each time.
        asked: Features that the server was asked for.
    """

    folder: Path
    catalog: Path
    source: NeuronpediaId
    d_sae: int
    word: str = field(default_factory=lambda: secrets.token_hex(6))
    asked: list[int] = field(default_factory=list)

    def label(self, feature: int) -> str:
        """What the server says of a feature."""
        return f"selftest {self.word}: feature {feature}"


def labelled_sae(folder: Path) -> Labelled:
    """A copy of the embedded SAE in the middle that says where its labels are."""
    from raylens.bundle.paths import list_saes, sae_path

    folder.mkdir(parents=True, exist_ok=True)
    bundled = list_saes()[len(list_saes()) // 2]
    original = sae_path(bundled.id)
    assert original is not None
    copy = folder / bundled.id.name
    shutil.copytree(original, copy)
    config = json.loads((copy / "cfg.json").read_text())
    source = NeuronpediaId(SOURCE_MODEL, f"{bundled.hook.layer}-selftest")
    config["metadata"]["neuronpedia_id"] = str(source)
    (copy / "cfg.json").write_text(json.dumps(config))
    catalog = folder / "catalog.yaml"
    catalog.write_text(f"aliases:\n  {SOURCE_MODEL}: {bundled.model}\n")
    return Labelled(copy, catalog, source, bundled.width)


@contextmanager
def serving(labelled: Labelled, folder: Path) -> Iterator[LabelServer]:
    """The local label server over a workspace that holds those labels, with this process's environment set to it."""
    from raylens.labels.explanations import read_explanation
    from raylens.labels.label_store import LabelStore
    from raylens.labels.settings import BASE_URL_VARIABLE, KEY_VARIABLE, MODE_VARIABLE
    from raylens.store.workspace import Workspace
    from raylens_serve.label_server import LabelServer, label_app

    workspace = Workspace.open(folder, create=True)
    with LabelStore(workspace.files, commit_rows=labelled.d_sae) as store:
        for feature in range(labelled.d_sae):
            said = read_explanation({"description": labelled.label(feature), "typeName": "selftest"})
            assert said is not None
            store.put_explanation(labelled.source, feature, said, "export")
    app = label_app(workspace, token="")

    @app.middleware("http")
    async def _count(request: Any, go_on: Any) -> Any:
        *_, name, index = request.url.path.split("/")
        if name == labelled.source.source:
            labelled.asked.append(int(index))
        return await go_on(request)

    with (
        LabelServer(app) as server,
        environment({BASE_URL_VARIABLE: server.url, MODE_VARIABLE: "remote_fallback", KEY_VARIABLE: ""}),
    ):
        yield server


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """This process's environment with some values, put back afterwards."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def forget_labels(workspace: Workspace) -> None:
    """Remove what the audits of a selftest kept of its labels, and what one that was killed left behind."""
    from raylens.store.label_cache import label_folders

    for one in list(label_folders(workspace.files)):
        if one.model == SOURCE_MODEL:
            workspace.files.delete(one.path, recursive=True)


def make_adapter(folder: Path, seed: int) -> None:
    """A LoRA adapter on the embedded model with small random matrices, as peft saves one."""
    import torch
    from peft import LoraConfig, get_peft_model

    from raylens.bundle.paths import PICO
    from raylens.engine.load import load_model

    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"])
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = get_peft_model(load_model(PICO, device="cpu").model, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn_like(parameter) * SCALE)
        model.save_pretrained(str(folder))


def checks_of(store: AuditStore, session: str, run: str, labelled: Labelled, *, identical: bool) -> list[Check]:
    """All that must hold of a finished run."""
    texts = store.read_run(session, run)
    found = [
        Check(run, "files are there, of their types, and agree", _first(_typed(store, texts, session, run))),
        Check(run, "files are valid by their JSON Schemas", _first(_valid(texts))),
    ]
    try:
        artefacts = store.artefacts(session, run)
    except RaylensError:
        return found  # what is wrong is said
    found.append(Check(run, "reports are made anew byte for byte", _first(_reports(artefacts, texts))))
    found.append(Check(run, "coverage is of the label server's labels", _covered(artefacts, labelled, identical)))
    if identical:
        decision = artefacts.decision.decision
        same = decision.verdict == "not flagged" and decision.p_value == 1 and decision.aggregate_score == 0
        wrong = "" if same else f"{decision.verdict}, p = {decision.p_value}, score {decision.aggregate_score:g}"
        found.append(Check(run, "the reference differs in nothing from itself", wrong))
    return found


def _typed(store: AuditStore, texts: Mapping[str, str], session: str, run: str) -> list[str]:
    from raylens.store.audit_files import changed, problems

    found = problems(texts)
    made = store.run_file(session, run)
    if made is None:
        return [*(f"{one.file} {one.what}" for one in found), "run.json is missing"]
    return [f"{one.file} {one.what}" for one in [*found, *changed(texts, made)]]


def _valid(texts: Mapping[str, str]) -> list[str]:
    from jsonschema import Draft202012Validator

    from raylens.reports.json_files import json_schemas

    found = []
    for name, schema in json_schemas().items():
        if name in texts:
            errors = Draft202012Validator(schema).iter_errors(json.loads(texts[name]))
            found += [f"{name}: {error.json_path}: {error.message[:200]}" for error in errors]
    return found


def _reports(artefacts: Artefacts, texts: Mapping[str, str]) -> list[str]:
    from raylens.reports.report_html import report_html
    from raylens.reports.report_md import report_md

    anew = {"report.md": report_md(artefacts), "report.html": report_html(artefacts)}
    return [f"{name} is another one" for name, text in anew.items() if texts.get(name) != text]


def _covered(artefacts: Artefacts, labelled: Labelled, identical: bool) -> str:
    evidence = artefacts.interp_evidence
    if evidence is None:
        return "there is no evidence from features"
    if not evidence.features:
        return "" if identical else "no feature is listed"
    other = [row.index for row in evidence.features if row.explanation != labelled.label(row.index)]
    if other:
        return f"feature {other[0]} is not explained as the server explains it; {evidence.coverage.line}"
    unasked = [row.index for row in evidence.features if row.index not in labelled.asked]
    if unasked:
        return f"the server was never asked for feature {unasked[0]}"
    n = len(evidence.features)
    return "" if evidence.coverage.n_direct == n else f"the line is {evidence.coverage.line!r}"


def _first(problems: list[str]) -> str:
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}" if problems else ""
