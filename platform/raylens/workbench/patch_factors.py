"""What becomes of writers' weights: low-rank factors and biases, one a module, and the same as hooks.

With W a writer's matrix, b its bias and x what it reads, its output is o = Wx + b. To take ``u (w · o)`` off it is

    o − u (w · o) = (W − u wᵀW) x + b − u (w · b),

a change of rank 1, B = −u and A = wᵀW, and of the bias where there is one. Directional ablation has u = w = d̂ (Arditi
et al., "Refusal in language models is mediated by a single direction", 2024, section 4.1). Several such changes, one
after the other, are one of as many ranks: with M the product of the matrices I − u wᵀ, M − I = Σ bᵢ vᵢᵀ, where the
next pair is b = −u and v = Mᵀw. Directions need not be orthogonal.

A norm after the writer (Gemma 2) gives g ∘ o / rms(o): taking off ``(u / g) ((g ∘ w) · o)`` before it takes u (w · …)
off what it gives, but for rms(o), which changes by a factor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raylens.engine.load import LoadedModel
from raylens.engine.stream_writers import Writer
from raylens.errors import InputError

_TINY = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """A change of one module: ``x`` gives ``b (a x) + bias`` more; of an embedding, whose ``x`` are ids, ``b a[:, x]``.

    Attributes:
        a: ``[rank, inputs]`` float32; of rank 0 where only a bias is added.
        b: ``[outputs, rank]`` float32.
        bias: ``[outputs]`` float32, or None.
    """

    a: Tensor
    b: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """``[…, outputs]`` in float32, of ``[…, inputs]``, or of ids ``[…]``."""
        a, b = self.a.to(x.device), self.b.to(x.device)
        found = (x.float() @ a.T if x.is_floating_point() else a.T[x]) @ b.T
        return found if self.bias is None else found + self.bias.to(x.device)

    @property
    def rank(self) -> int:
        return len(self.a)

    def joined(self, other: Factors) -> Factors:
        """Both at once, ranks added up."""
        biases = [one.bias for one in (self, other) if one.bias is not None]
        bias = torch.stack(biases).sum(dim=0) if biases else None
        return Factors(torch.cat([self.a, other.a]), torch.cat([self.b, other.b], dim=1), bias)


Changes = Mapping[str, Factors]
"""By the module's path in the model."""


class OutputChange:
    """What is done to the output of one writer, step by step.

    Args:
        writer: Whose.

    Raises:
        InputError: Its weights are stored in fewer bits.
    """

    def __init__(self, writer: Writer) -> None:
        if not writer.weight.is_floating_point():
            raise InputError(
                f"the {writer.kind} of block {writer.layer} is stored quantized, so that it cannot be projected.",
                hint="load the model without quantization; the adapter fits the quantized one as well.",
            )
        self._writer = writer
        self._b: list[Tensor] = []
        self._v: list[Tensor] = []
        self._constant: Tensor | None = None

    def take_off(self, u: Tensor, w: Tensor, *, in_stream: bool = True) -> None:
        """Take ``u (w · …)`` off what it adds to the stream, or off its own output; both ``[d_model]``."""
        u, w = u.detach().cpu().double(), w.detach().cpu().double()
        if in_stream and self._writer.gain is not None:
            gain = self._writer.gain.detach().cpu().double()
            u, w = _divided(u, gain), w * gain
        v = w.clone()
        for b, before in zip(self._b, self._v, strict=True):
            v += (w @ b) * before
        self._b.append(-u)
        self._v.append(v)
        if self._constant is not None:
            self._constant = self._constant - u * (w @ self._constant)

    def add(self, constant: Tensor, *, in_stream: bool = True) -> None:
        """Add a vector ``[d_model]`` to the stream, or to its own output; a norm that follows scales it besides."""
        constant = constant.detach().cpu().double()
        if in_stream:
            constant = for_stream(self._writer, constant)
        self._constant = constant if self._constant is None else self._constant + constant

    def factors(self) -> Factors:
        """The change as weights."""
        weight, bias = self._writer.weight.detach().cpu(), self._writer.bias
        constant = self._constant
        if not self._b:
            a, b = torch.zeros(0, weight.shape[1]), torch.zeros(weight.shape[0], 0)
        else:
            v = torch.stack(self._v)
            b = torch.stack(self._b, dim=1)
            a = v @ weight.double()
            if bias is not None:
                own = b @ (v @ bias.detach().cpu().double())
                constant = own if constant is None else constant + own
        return Factors(a.float(), b.float(), None if constant is None else constant.float())


def for_stream(writer: Writer, vector: Tensor) -> Tensor:
    """What a writer's output has to hold more, ``[d_model]``, for the stream to hold ``vector`` more.

    A norm that follows is taken for its gain: what it divides by is another number for each token.
    """
    vector = vector.detach().cpu().double() / writer.factor
    return vector if writer.gain is None else _divided(vector, writer.gain.detach().cpu().double())


@contextmanager
def applied(loaded: LoadedModel, changes: Changes) -> Iterator[None]:
    """Forward passes in this block are of the model with the changes, as an adapter hooks them in.

    Raises:
        KeyError: The model has no such module.
    """
    modules = dict(loaded.model.named_modules())
    with loaded.lock, ExitStack() as hooks:
        for name, factors in changes.items():

            def more(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor, own: Factors = factors) -> Tensor:
                return output + own(args[0]).to(output)

            hooks.callback(modules[name].register_forward_hook(more).remove)
        yield


def _divided(vector: Tensor, gain: Tensor) -> Tensor:
    """By a norm's gain; nothing passes where that is all but 0."""
    passes = gain.abs() > _TINY * gain.abs().max()
    return torch.where(passes, vector / torch.where(passes, gain, 1.0), 0.0)
