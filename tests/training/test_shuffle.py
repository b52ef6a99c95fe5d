"""The order of training: a function of seed and step, which covers everything, in bounded memory."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylens.errors import InputError
from raylens.store.dense import DenseRecord
from raylens.store.dense_shuffle import ShuffledRows

from .conftest import D_IN, HOOK, MakeRecord

ROW_BYTES = 2 * D_IN
SHARD_ROWS = 256 - 8  # eight BOS rows each


def rows_of(record: DenseRecord, buffer_rows: int, batch_size: int = 50, seed: int = 0) -> ShuffledRows:
    return ShuffledRows(record, HOOK, batch_size=batch_size, seed=seed, buffer_bytes=buffer_rows * ROW_BYTES)


def counted(batches: list[np.ndarray]) -> Counter[bytes]:
    return Counter(row.tobytes() for batch in batches for row in batch)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 60), buffer_rows=st.integers(1, 1500), batch_size=st.integers(1, 300), seed=st.integers(0, 3)
)
def test_a_batch_depends_on_seed_and_step_alone(
    make_record: MakeRecord, start: int, buffer_rows: int, batch_size: int, seed: int
) -> None:
    record = make_record()
    rows = rows_of(record, buffer_rows, batch_size, seed)
    straight = list(islice(rows.batches(), start + 3))
    resumed = list(islice(rows.batches(start), 3))
    assert all(batch.shape == (batch_size, D_IN) and batch.dtype == np.float32 for batch in straight)
    assert all((a == b).all() for a, b in zip(straight[start:], resumed, strict=True))


@pytest.mark.parametrize("buffer_rows", [1, 2 * SHARD_ROWS, 10_000])
def test_an_epoch_holds_every_text_token_once_but_for_remainders(make_record: MakeRecord, buffer_rows: int) -> None:
    record = make_record()
    everything = Counter(row.tobytes() for i in range(4) for row in record.read(i, HOOK).astype(np.float32))
    blocks = {1: 4, 2 * SHARD_ROWS: 2, 10_000: 1}[buffer_rows]
    steps = blocks * (4 // blocks * SHARD_ROWS // 50)
    batches = list(islice(rows_of(record, buffer_rows).batches(), 2 * steps))
    for epoch in (batches[:steps], batches[steps:]):
        served = counted(epoch)
        assert served <= everything
        assert served.total() == steps * 50
    assert (batches[0] != batches[steps]).any()  # another order
    assert max(map(np.abs, batches), key=np.max).max() < 1000  # BOS rows are left out


def test_rows_of_several_shards_mix_within_the_buffer(make_record: MakeRecord) -> None:
    record = make_record()
    of_shard = {row.tobytes(): i for i in range(4) for row in record.read(i, HOOK).astype(np.float32)}
    first = next(rows_of(record, 10_000, batch_size=200).batches())
    assert len({of_shard[row.tobytes()] for row in first}) == 4


def test_less_than_a_batch_is_refused(make_record: MakeRecord) -> None:
    with pytest.raises(InputError, match=r"992 tokens, fewer than a batch of 1,000"):
        rows_of(make_record(), 10_000, batch_size=1000)
