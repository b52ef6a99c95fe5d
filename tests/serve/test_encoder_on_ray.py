"""The Encoder as a deployment: requests batched in a replica, errors whole, and models made known to Ray Serve."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import serve
from ray.serve.handle import DeploymentHandle

from fine_tunes import PICO_FOLDER
from raylens.api.reading import AblateRequest, EncodeRequest, ValuesRequest
from raylens.errors import UnknownNameError
from raylens_serve.encoder import Encoder
from raylens_serve.problems import as_raylens
from raylens_serve.services import EncoderClient, Handle, Local
from raylens_serve.settings import PICO_SAES

NAME = "encoder-alone"
CODE = "def area(radius):\n    return math.pi * radius**2\n"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    assert PICO_FOLDER is not None
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(PICO_FOLDER, folder)
    return str(folder)


def settings(workspace: Path, other: str) -> dict[str, Any]:
    models = [{"model": "raylens/pico", "saes": list(PICO_SAES)}, {"model": other, "saes": []}]
    return {"workspace": str(workspace), "models": models, "encoder": {"models_per_replica": 2}}


@pytest.fixture(scope="module")
def handle(ray_cluster: None, other: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeploymentHandle]:
    deployment: Any = serve.deployment(
        Encoder, name="Encoder", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0}
    )
    serve.start(proxy_location="Disabled")
    app = deployment.bind(settings(tmp_path_factory.mktemp("encoder"), other))
    yield serve.run(app, name=NAME, route_prefix=None)
    serve.shutdown()


def held_names(handle: DeploymentHandle) -> set[str]:
    """Models that Ray Serve knows the replicas hold."""
    router: Any = handle._router
    known = router._asyncio_router.request_router._multiplexed_model_id_to_replica_ids
    return {name for name, replicas in known.items() if replicas}


def test_requests_are_answered_as_in_process(handle: DeploymentHandle, other: str, tmp_path: Path) -> None:
    here = EncoderClient(Local(Encoder(settings(tmp_path, other))))
    there = EncoderClient(Handle(handle))
    encode = EncodeRequest(text=CODE * 3, top_k=5, next_tokens=3)
    values = ValuesRequest(text=CODE, sae=PICO_SAES[0], features=(214, 3))
    ablate = AblateRequest(input="x = ", output="1", n_tokens=3)

    async def work() -> None:
        answers = await asyncio.gather(*(there.encode(encode) for _ in range(20)))
        expected = await here.encode(encode)
        for answer in answers:
            assert answer.tokens == expected.tokens
            assert [one.id for one in answer.next_tokens] == [one.id for one in expected.next_tokens]
            for one, own in zip(answer.saes, expected.saes, strict=True):
                assert [peak.activation for peak in one.peaks] == pytest.approx(
                    [peak.activation for peak in own.peaks], abs=2e-4
                )
        assert (await there.values(values)).token_ids == (await here.values(values)).token_ids
        assert (await there.ablate(ablate)).log_prob == pytest.approx((await here.ablate(ablate)).log_prob, abs=1e-4)
        with pytest.raises(Exception) as caught:
            await there.encode(EncodeRequest(text="x", model="gpt2"))
        error = as_raylens(caught.value)
        assert isinstance(error, UnknownNameError)
        assert "raylens/pico" in error.hint
        status = await there.status()
        assert {row["model"]: row["loaded"] for row in status["models"]} == {"raylens/pico": True, other: False}

    asyncio.run(work())


def test_ray_serve_knows_which_models_are_held(handle: DeploymentHandle, other: str) -> None:
    there = EncoderClient(Handle(handle))
    for name in ("Raylens/Pico", other):
        answer = asyncio.run(there.encode(EncodeRequest(text="x", model=name, saes=())))
        assert answer.model in ("raylens/pico", other)
    until = time.monotonic() + 30
    while held_names(handle) != {"raylens/pico", other}:
        assert time.monotonic() < until, held_names(handle)
        time.sleep(0.05)
