"""The app starts without the model stack (A0.20), proved in a subprocess with every page drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from browsed import make_browsed

HEAVY = {
    "torch", "ray", "transformers", "sae_lens", "interp_engine", "datasets", "sklearn", "sentence_transformers",
    "faiss",
}  # fmt: skip

PROBE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"the app imported {{name}}", name=name)

sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {support!r})
from app_here import app_on, page
from raylens_app.web.launch import warm
from raylens_app.web.registry import PAGES
from raylens_app.web.settings import AppSettings

warm(AppSettings({workspace!r}))
with app_on({workspace!r}):
    for one in PAGES:
        page(one.name)
    for part in ("activations and logits", "causes", "your text"):
        page("feature", id="tiny-res/layer_3/1", part=part)
    page("features", q="harmful words")
    page("features", view="scatter")
loaded = sorted({heavy!r} & set(sys.modules))
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""


def test_every_page_is_drawn_without_the_model_stack(tmp_path: Path) -> None:  # A0.20
    workspace = make_browsed(tmp_path / "workspace")
    support = str(Path(__file__).parents[1] / "support")
    # What makes the workspace needs more than what shows it: the probe itself begins bare.
    body = PROBE.format(heavy=HEAVY, support=support, workspace=workspace.url)
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
