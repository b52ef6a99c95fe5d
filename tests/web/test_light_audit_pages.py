"""Every part of the pages about audits, scores and comparisons is drawn without the model stack (A0.20)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from audit_pages import made_audit, store_made
from browsed import make_browsed
from scored import two_explainers
from small_cache import CACHE_ID, SAE

HEAVY = ("torch", "ray", "transformers", "sae_lens", "peft", "sklearn", "sentence_transformers", "faiss")

PROBE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"the app imported {{name}}", name=name)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {support!r})
from app_here import app_on, page

with app_on({workspace!r}):
    for part in ("verdict", "features", "outputs", "inserts", "capability", "files"):
        assert page("audit", run="s/r", show=part).title[0].value == "A candidate"
    page("audits", do="start an audit")
    for part in ("summary", "distributions", "precision and recall", "by density", "failures"):
        assert not page("score_card", card_part=part).error
    for part in ("side by side", "activations and logits", "windows", "on a text"):
        assert not page("compare", features={features!r}, compared=part).error
loaded = sorted(set({heavy!r}) & set(sys.modules))
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""


def test_every_part_is_drawn_without_the_model_stack(tmp_path: Path) -> None:  # A0.20
    workspace = make_browsed(tmp_path / "workspace")
    two_explainers(workspace.cache(CACHE_ID))
    store_made(workspace, made_audit())
    support = str(Path(__file__).parents[1] / "support")
    # What makes the workspace needs more than what shows it: the probe itself begins bare.
    body = PROBE.format(heavy=HEAVY, support=support, workspace=workspace.url, features=f"{SAE}/1,{SAE}/2")
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
