"""Reading features of a real cache needs none of the model stack (A0.20); the other half is in test_light_imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "ray", "transformers", "sae_lens", "interp_engine", "datasets", "sklearn", "sentence_transformers"}

PROBE = """
import sys
from raylens_app.cli.main import main
code = main({arguments!r})
loaded = sorted({heavy!r} & set(sys.modules))
sys.exit(f"loaded: {{loaded}}" if loaded else code)
"""


@pytest.mark.parametrize(
    "words",
    ["features --sort interesting", "feature f_3_0", "feature f_3_0 --quantile 1/2 --json"],
)
def test_features_are_read_without_the_model_stack(tiny_workspace: Path, words: str) -> None:  # A0.20
    arguments = ["--workspace", str(tiny_workspace), *words.split()]
    command = [sys.executable, "-c", PROBE.format(arguments=arguments, heavy=HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "tiny-res/layer_3" in done.stdout
