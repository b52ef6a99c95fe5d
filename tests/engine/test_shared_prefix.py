"""What follows a shared beginning against reading each sequence whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylens.engine.load import LoadedModel
from raylens.engine.shared_prefix import logits_after, read_prefix


@pytest.mark.parametrize("n_prefix", [1, 3, 12])
def test_rows_after_a_beginning_are_those_of_whole_sequences(
    n_prefix: int, loaded_models: dict[str, LoadedModel]
) -> None:
    for name, loaded in loaded_models.items():
        network: Any = loaded.model
        generator = torch.Generator().manual_seed(n_prefix)
        beginning = torch.randint(3, loaded.info.vocab_size, (n_prefix,), generator=generator)
        rows = torch.randint(3, loaded.info.vocab_size, (4, 9), generator=generator)
        with torch.inference_mode():
            prefix = read_prefix(network, beginning.tolist(), loaded.device)
            assert prefix is not None, name
            whole = network(torch.cat([beginning.expand(4, -1), rows], dim=1), use_cache=False).logits
            torch.testing.assert_close(prefix.last[0], whole[0, n_prefix - 1], msg=name)
            for _ in range(2):  # the beginning stays as it was read
                torch.testing.assert_close(logits_after(network, prefix, rows), whole[:, n_prefix:], msg=name)
            last = logits_after(network, prefix, rows[:2], keep=3)
            torch.testing.assert_close(last, whole[:2, -3:], msg=name)
