"""The Encoder without the model stack, and without memory: it says what to do, and lives on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

WITHOUT_TORCH = """
import asyncio, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "sae_lens", "interp_engine"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from raylens.api.reading import EncodeRequest
from raylens.errors import InputError
from raylens_serve.encoder import Encoder

async def work():
    encoder = Encoder({"workspace": sys.argv[1]})
    await encoder.check_health()
    told = []
    for _ in range(2):
        try:
            await encoder.encode(EncodeRequest(text="x"))
        except InputError as error:
            told.append([error.message, error.hint])
    print(json.dumps({"told": told, "status": await encoder.status()}))

asyncio.run(work())
"""

LITTLE_MEMORY = """
import asyncio, json, resource, sys

from raylens.api.reading import AblateRequest, EncodeRequest, ValuesRequest
from raylens.errors import OutOfMemoryError
from raylens_serve.encoder import Encoder

SAE = "raylens-pico-res/layer_5"
MEBIBYTE = 2**20

def size():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[0]) * resource.getpagesize()

async def tried(work):
    try:
        await work
    except OutOfMemoryError as error:
        return [error.message, error.hint]
    return "ok"

async def work():
    # What is free is not asked for: it is what is tested that a pass may fail all the same.
    settings = {"workspace": sys.argv[1], "encoder": {"threads": 1, "memory_bytes": 10**9}}
    encoder = Encoder(settings)
    large = EncodeRequest(text="x = 1\\n" * 400, saes=(SAE,), per_token=False)
    small = EncodeRequest(text="x = 1", saes=(SAE,), per_token=False)
    before = await encoder.encode(small)
    resource.setrlimit(resource.RLIMIT_AS, (size() + 8 * MEBIBYTE, resource.RLIM_INFINITY))
    found = {"large": await tried(encoder.encode(large))}
    found["values"] = await tried(encoder.values(ValuesRequest(text=large.text, sae=SAE, features=(1,))))
    found["ablate"] = await tried(encoder.ablate(AblateRequest(input=large.text[:900], output="y", sae=SAE)))
    found["small"] = await tried(encoder.encode(small))
    # Who is read with one that does not fit is answered.
    together = await asyncio.gather(*(tried(encoder.encode(one)) for one in (small, large, small)))
    found["together"] = [one if one == "ok" else "out of memory" for one in together]
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found["again"] = await tried(encoder.encode(large))
    after = await encoder.encode(small)
    found["same"] = [peak.index for peak in before.saes[0].peaks] == [peak.index for peak in after.saes[0].peaks]
    print(json.dumps(found))

asyncio.run(work())
"""


def run(program: str, folder: Path) -> dict[str, Any]:
    # Address space that glibc sets aside for each thread would be room that the limit does not take away.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_without_the_model_stack_each_request_says_how_to_install_it(tmp_path: Path) -> None:  # A0.20, A0.23
    found = run(WITHOUT_TORCH, tmp_path)
    for message, hint in found["told"]:
        assert "the model stack is not installed" in message
        assert "pip install 'raylens[models]'" in hint
    assert len(found["told"]) == 2
    assert found["status"]["models"] == []
    assert "the model stack is not installed" in found["status"]["missing"]


def test_a_pass_that_does_not_fit_fails_alone_and_the_next_is_answered(tmp_path: Path) -> None:  # A0.23
    found = run(LITTLE_MEMORY, tmp_path)
    for name in ("large", "values", "ablate"):
        message, hint = found[name]
        assert "ran out of memory" in message
        for said in ("batch_tokens", "dtype", "quantization", "Llama-3.1-8B about 16 GB"):
            assert said in hint
    assert found["small"] == "ok"
    assert found["together"] == ["ok", "out of memory", "ok"]
    assert found["again"] == "ok"
    assert found["same"]
