"""Changes of weights against what is done to outputs, step by step; random linear maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from raylens.engine.stream_writers import Writer
from raylens.errors import InputError
from raylens.workbench.patch_factors import Factors, OutputChange

D, N = 7, 5


def writer(
    generator: torch.Generator, *, conv: bool, bias: bool, gain: Tensor | None = None, factor: float = 1.0
) -> Writer:
    module: nn.Linear | Conv1D = Conv1D(D, N) if conv else nn.Linear(N, D, bias=bias)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return Writer(0, "mlp", module, gain, factor)


@given(data=st.data())
def test_weights_do_what_is_done_to_outputs(data: st.DataObject) -> None:
    """Any number of directions, at any angle to one another, and vectors that are added between them."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    own = writer(generator, conv=data.draw(st.booleans()), bias=data.draw(st.booleans()))
    x = torch.randn(11, N, generator=generator)
    change, output, w = OutputChange(own), own.module(x).double(), torch.zeros(D).double()
    before = output.clone()
    steps = data.draw(st.lists(st.sampled_from(["project", "oblique", "add"]), min_size=1, max_size=5))
    for step in steps:
        u, w = torch.randn(2, D, generator=generator).double()
        if step == "add":
            change.add(u)
            output = output + u
            continue
        if step == "project":
            u = w = u / u.norm()
        change.take_off(u, w)
        output = output - (output @ w)[:, None] * u
    made = change.factors()
    assert made.rank == sum(step != "add" for step in steps)
    torch.testing.assert_close(before + made(x).double(), output, atol=1e-3, rtol=1e-3)
    if steps[-1] == "project":
        assert ((before + made(x).double()) @ w).abs().max() < 1e-3 * before.abs().max() + 1e-4


@given(seed=st.integers(0, 2**20), zero=st.booleans())
def test_of_what_a_norm_gives_nothing_is_left_along_the_direction(seed: int, zero: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    gain = torch.randn(D, generator=generator)
    direction = torch.randn(D, generator=generator)
    if zero:  # what the norm lets nothing through of, the writer need not take off
        gain[2], direction[2] = 0.0, 0.0
    direction /= direction.norm()
    own = writer(generator, conv=False, bias=True, gain=gain)
    change = OutputChange(own)
    change.take_off(direction, direction)
    x = torch.randn(11, N, generator=generator)
    output = own.module(x).double() + change.factors()(x).double()
    normed = gain.double() * output / output.square().mean(-1, keepdim=True).sqrt()
    assert (normed @ direction.double()).abs().max() < 1e-3 * normed.abs().max()


def test_an_added_vector_reaches_the_stream_through_a_factor() -> None:
    generator = torch.Generator().manual_seed(1)
    own = writer(generator, conv=False, bias=False, factor=0.25)
    change = OutputChange(own)
    vector = torch.randn(D, generator=generator)
    change.add(vector)
    made = change.factors()
    assert made.rank == 0
    torch.testing.assert_close(0.25 * made(torch.randn(3, N)), vector.expand(3, D))
    own_output = OutputChange(own)
    own_output.add(vector, in_stream=False)
    torch.testing.assert_close(own_output.factors()(torch.randn(3, N)), vector.expand(3, D))


def test_two_changes_of_one_module_add_up() -> None:
    first = Factors(torch.randn(2, N), torch.randn(D, 2), torch.randn(D))
    second = Factors(torch.randn(1, N), torch.randn(D, 1))
    x = torch.randn(4, N)
    torch.testing.assert_close(first.joined(second)(x), first(x) + second(x))
    assert (first.joined(second).rank, second.joined(second).bias) == (3, None)
    ids = torch.tensor([0, 4, 2])
    torch.testing.assert_close(first(ids), first(torch.eye(N))[ids])


def test_quantized_weights_are_refused() -> None:
    module = nn.Linear(N, D)
    module.weight = nn.Parameter(torch.zeros(D, N, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="the mlp of block 3 is stored quantized"):
        OutputChange(Writer(3, "mlp", module))
