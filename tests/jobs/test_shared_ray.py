"""The tests' own Ray comes back after somebody kept a core."""

from __future__ import annotations

from typing import Any

import pytest

from shared_ray import CPUS, SHARED


def test_a_kept_core_is_named_and_given_back(ray_cluster: None) -> None:
    import ray

    class Keeper:
        def here(self) -> bool:
            return True

    make: Any = ray.remote(num_cpus=1)(Keeper)

    keeper = make.remote()
    assert ray.get(keeper.here.remote())
    with pytest.warns(UserWarning, match=r"Ray's cores were still held by: .*ray::.*Keeper"):
        SHARED.recover("this test", within_s=1)
    assert ray.available_resources()["CPU"] == CPUS
