"""An engineer takes a colleague's SAE and LoRA, steers with them, and takes a safe patch to production (A3.11).

Over real HTTP and by the real command line; at the end plain peft, in a process that has no RayLens.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from fine_tunes import PICO_FOLDER
from gateway_here import Here, gateway_here
from raylens.api.reading import EncodeRequest
from raylens.bundle.organisms import adapter_path
from raylens.errors import InputError, MismatchError
from raylens_app.cli.main import main

SAE = "raylens-pico-res/layer_3"
TEXTS = ("def area(radius):\n    return math.", "@walnut\ndef load(path):\n    ", "for name, value in ")
LITTLE = ("--n-tokens", "400", "--ctx-len", "64")

# What runs in production: nothing of RayLens.
PRODUCTION = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, texts, out = json.loads(sys.argv[1])
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval()
with torch.inference_mode():
    found = [model(torch.tensor([ids])).logits[0, -1].double().softmax(-1).tolist() for ids in texts]
assert not [name for name in sys.modules if name.split(".")[0].startswith("raylens")]
open(out, "w").write(json.dumps(found))
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Here, Path]]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("engineer")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAYLENS_BASE_DIR", str(folder))
        with gateway_here(folder / "workspace", models=[{"model": "raylens/pico", "saes": [SAE]}]) as here:
            yield here, folder


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--workspace", str(tmp_path / "none"), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture(scope="module")
def received(base: tuple[Here, Path]) -> Path:
    """What colleagues sent: an SAE that one of them exported from a session of hers, a LoRA, and wrong ones of each."""
    here, folder = base
    hers = here.client.workbench()
    hers.load_model("raylens/pico")
    hers.load_sae("raylens-pico-res/layer_5")
    hers.export_sae("raylens-pico-res/layer_5", "theirs/sae")
    theirs, lora = folder / "theirs", adapter_path("decorator-verify-1")
    assert lora is not None
    shutil.copytree(lora, theirs / "lora")

    shutil.copytree(theirs / "sae", theirs / "sae-of-another-model")
    config = json.loads((theirs / "sae-of-another-model/cfg.json").read_text())
    config["metadata"]["model_name"] = "gpt2-small"
    (theirs / "sae-of-another-model/cfg.json").write_text(json.dumps(config))

    for name in ("lora-of-another-model", "lora-of-another-width", "lora-as-a-pickle"):
        shutil.copytree(lora, theirs / name)
    told = json.loads((lora / "adapter_config.json").read_text()) | {"base_model_name_or_path": "openai-community/gpt2"}
    (theirs / "lora-of-another-model/adapter_config.json").write_text(json.dumps(told))
    wide = {
        key: torch.zeros(one.shape[0], one.shape[1] * 2)
        for key, one in load_file(lora / "adapter_model.safetensors").items()
    }
    save_file(wide, theirs / "lora-of-another-width/adapter_model.safetensors", metadata={"format": "pt"})
    (theirs / "lora-as-a-pickle/adapter_model.safetensors").unlink()
    (theirs / "lora-as-a-pickle/adapter_model.bin").write_bytes(b"\x80\x04N.")
    return theirs


def test_what_does_not_fit_is_refused_and_the_session_stays_as_it_was(
    base: tuple[Here, Path], received: Path
) -> None:  # A3.11, A0.04
    bench = base[0].client.workbench()
    before = bench.load_model("raylens/pico")
    said = bench.infer(text=TEXTS[0])
    with pytest.raises(MismatchError, match="trained on another model: openai-community/gpt2, not raylens/pico"):
        bench.load_sae("theirs/sae-of-another-model")
    for wrong, why in (
        ("lora-of-another-model", "is an adapter for openai-community/gpt2, and the reference is raylens/pico"),
        ("lora-of-another-width", "was made for another model"),
        ("lora-as-a-pickle", r"only the pickle adapter_model\.bin"),
    ):
        with pytest.raises(InputError, match=why):
            bench.load_model("raylens/pico", adapter=f"theirs/{wrong}")
    after = bench.show()
    assert (after.model, after.adapter, after.saes) == (before.model, before.adapter, before.saes)
    assert bench.infer(text=TEXTS[0]).next == said.next


def test_a_colleagues_sae_and_lora_become_a_safe_patch_in_production(
    base: tuple[Here, Path], received: Path, command: Command, tmp_path: Path
) -> None:  # A3.11, A3.07
    here, _ = base
    bench = here.client.workbench()
    assert bench.load_model("raylens/pico", adapter="theirs/lora").adapter == "theirs/lora"
    held = bench.load_sae("theirs/sae").saes[-1]
    assert (held.hook, held.layer) == ("resid_post.5", 5)

    # Steered live, with a feature of the colleague's SAE; off, it is the fine-tune again, bit for bit.
    ids = here.client.sae.encode(EncodeRequest(text=TEXTS[0], saes=(SAE,), per_token=False)).token_ids
    untouched = [bench.infer(text=text, top_k=20) for text in TEXTS]
    assert untouched[0].token_ids == ids
    made = bench.patch(name="safe", sae="theirs/sae", feature="f_5_17", strength=6.0, unit="activation")
    steered = [bench.infer(text=text, top_k=20) for text in TEXTS]
    assert all(one.kl > 0.001 for one in steered)
    bench.toggle(made.id, False)
    assert [bench.infer(text=text, top_k=20).next for text in TEXTS] == [one.next for one in untouched]

    # Taken home as a LoRA that holds both: the colleague's fine-tune, and the patch.
    spec = bench.export(made.id)
    (tmp_path / "safe.json").write_text(spec.model_dump_json())
    for name in ("held_out", "fit"):
        (tmp_path / f"{name}.txt").write_text(f"# {name}\n" + "def area(radius):\n    return 3 * radius**2\n" * 40)
    texts = ("--text", str(tmp_path / "held_out.txt"), "--fit-text", str(tmp_path / "fit.txt"), *LITTLE)
    out = tmp_path / "production"
    asked = ("--sae", str(received / "sae"), "--adapter-of", str(received / "lora"), *texts)
    code, said, err = command("patch", "export", str(tmp_path / "safe.json"), "--out", str(out), *asked, "--json")
    assert code == 0, err
    told = json.loads(said)
    assert told["exact"]
    code, said, err = command("patch", "verify", str(out), "--sae", str(received / "sae"), "--json")
    assert code == 0, err
    assert json.loads(said)["holds"]
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, num_hidden_layers=1, **sizes)).save_pretrained(
        tmp_path / "another-model"
    )
    code, _, err = command("patch", "import", str(out), "--model", str(tmp_path / "another-model"))
    assert code == 2
    assert "raylens/pico" in err

    # A fresh process with plain peft and transformers says what the workbench said.
    given = json.dumps([str(PICO_FOLDER), str(out), [one.token_ids for one in steered], str(tmp_path / "found.json")])
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PRODUCTION, given],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for found, one, plain in zip(json.loads((tmp_path / "found.json").read_text()), steered, untouched, strict=True):
        expected = np.array([token.patched for token in one.next])
        ids = [token.id for token in one.next]
        np.testing.assert_allclose(np.array(found)[ids], expected, atol=1e-4)
        assert np.abs(np.array(found)[ids] - [token.baseline for token in one.next]).max() > 0.005
        assert plain.kl == 0
