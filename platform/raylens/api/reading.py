"""Reading a text through a model and its SAEs: which features fire on which token, and what comes next."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, model_validator

from raylens.api.base import Answer, Asked
from raylens.traces.span import Turn

KEPT: Final = 256
"""Features of a text that are kept, by their maximum."""
MOST_TOKENS: Final = 65_536
"""Of one request; a model may read fewer."""

TopK = Annotated[int, Field(ge=1, le=KEPT)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]


class Passage(Asked):
    """A text to be read: exactly one of ``text``, ``token_ids``, or ``input`` with ``output``.

    Attributes:
        text: Tokenised as the model's tokenizer does, BOS included.
        token_ids: Read as they are; nothing is put before them.
        input: Of a span: rendered by the model's chat template where it is turns and the model has one.
        output: Of a span; follows the input.
    """

    text: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    token_ids: (
        Annotated[tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(min_length=1, max_length=MOST_TOKENS)]
        | None
    ) = None
    input: str | tuple[Turn, ...] | None = None
    output: str | tuple[Turn, ...] | None = None

    @model_validator(mode="after")
    def _one(self) -> Passage:
        given = [self.text is not None, self.token_ids is not None, self.input is not None or self.output is not None]
        if sum(given) != 1:
            raise ValueError("give one of text, token_ids, or input and output")
        return self


class EncodeRequest(Passage):
    """Features of a text.

    Attributes:
        model: Which of the served models; None for the first one.
        saes: Which of its SAEs; None for all that are served with it.
        top_k: Features per token.
        per_token: Whether features of each token are wanted; maxima over the text always come.
        next_tokens: How many of the likeliest next tokens to give; 0 for none.
        override_guard: Read also with an SAE that was trained on another model (A0.04).
    """

    model: Name | None = None
    saes: tuple[Name, ...] | None = None
    top_k: TopK = 20
    per_token: bool = True
    next_tokens: Annotated[int, Field(ge=0, le=KEPT)] = 0
    override_guard: bool = False


class Firing(Answer):
    """A feature on a token."""

    index: int
    activation: float


class Peak(Answer):
    """A feature's maximum over a text, and the token where it is."""

    index: int
    activation: float
    position: int


class Peaks(Answer):
    """Maxima over a text as columns of one length, the largest first: what passes between processes and is kept.

    Attributes:
        indices: Features.
        activations: Their maxima.
        positions: The tokens where those are.
    """

    indices: tuple[int, ...] = ()
    activations: tuple[float, ...] = ()
    positions: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _even(self) -> Peaks:
        if not len(self.indices) == len(self.activations) == len(self.positions):
            raise ValueError("columns are not of one length")
        return self

    def __len__(self) -> int:
        return len(self.indices)

    def first(self, n: int) -> tuple[Peak, ...]:
        """The ``n`` largest, or all where there are fewer."""
        columns = zip(self.indices[:n], self.activations[:n], self.positions[:n], strict=True)
        return tuple(Peak(index=index, activation=value, position=at) for index, value, at in columns)


class SaeReading(Answer):
    """What one SAE reads.

    Attributes:
        sae: Its id.
        hook: Where it reads.
        layer: Likewise.
        peaks: The features with the largest maxima over the text's tokens, special ones (BOS) left out; at most
            :data:`KEPT`, the largest first, equal ones by index.
        tokens: Of each token its ``top_k`` largest; empty for special tokens, or where they were not asked for.
    """

    sae: str
    hook: str
    layer: int | None
    peaks: tuple[Peak, ...]
    tokens: tuple[tuple[Firing, ...], ...] = ()


class NextToken(Answer):
    """A token that may come next."""

    id: int
    token: str
    logit: float
    probability: float


class EncodeAnswer(Answer):
    """Features of a text.

    Attributes:
        model: The model's one name.
        token_ids: What was read.
        tokens: The same as text.
        special: Places of tokens that stand for no text.
        n_dropped: Tokens that the model cannot read, at the end of the text: they were left out.
        saes: A reading each.
        next_tokens: The likeliest at the end, where asked for.
    """

    model: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    special: tuple[int, ...] = ()
    n_dropped: int = 0
    saes: tuple[SaeReading, ...] = ()
    next_tokens: tuple[NextToken, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        # Between processes as JSON: 60,000 small objects (1,024 tokens, three SAEs) take pickle several times as long.
        return type(self).model_validate_json, (self.model_dump_json(),)


class PeaksRequest(Passage):
    """The largest features of a text by one SAE, and nothing else of it.

    Attributes:
        model: As in :class:`EncodeRequest`.
        sae: Which of its SAEs.
        override_guard: As in :class:`EncodeRequest`.
    """

    model: Name | None = None
    sae: Name
    override_guard: bool = False


class PeaksAnswer(Answer):
    """What one SAE reads of a text.

    Attributes:
        layer: Where that reads.
        peaks: As in :class:`SaeReading`.
        n_tokens: Tokens that were read.
        n_dropped: As in :class:`EncodeAnswer`.
    """

    layer: int | None
    peaks: Peaks
    n_tokens: int
    n_dropped: int = 0


class ValuesRequest(Passage):
    """Exact activations of some features on a text.

    Attributes:
        model: As in :class:`EncodeRequest`.
        sae: Whose features.
        features: Their indices.
    """

    model: Name | None = None
    sae: Name
    features: Annotated[tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(min_length=1, max_length=KEPT)]
    override_guard: bool = False


class FeatureValues(Answer):
    """One feature on each token; 0 where it does not fire, and on special tokens what it has."""

    index: int
    values: tuple[float, ...]


class ValuesAnswer(Answer):
    """Exact activations."""

    model: str
    sae: str
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    special: tuple[int, ...] = ()
    n_dropped: int = 0
    features: tuple[FeatureValues, ...]


class EffectOptions(Asked):
    """How effects of tokens are measured (A0.06).

    Attributes:
        sae: Features to look at, of which SAE; None for the output alone.
        features: Which; None for the largest ten of the passage.
        n_tokens: Input tokens taken out at most, spread evenly where there are more.
        counterfactuals: Besides, for so many of the most important tokens, the best single-token substitutes.
        substitutes: So many for each.
        override_guard: As in :class:`EncodeRequest`.
    """

    sae: Name | None = None
    features: (
        Annotated[tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...], Field(min_length=1, max_length=64)] | None
    ) = None
    n_tokens: Annotated[int, Field(ge=1, le=512)] = 128
    counterfactuals: Annotated[int, Field(ge=0, le=16)] = 3
    substitutes: Annotated[int, Field(ge=1, le=16)] = 4
    override_guard: bool = False


class AblateRequest(EffectOptions):
    """What each input token does for the output.

    Attributes:
        model: As in :class:`EncodeRequest`.
        input: As in :class:`Passage`.
        output: What came out; its log-probability is what is measured.
    """

    model: Name | None = None
    input: str | tuple[Turn, ...]
    output: str | tuple[Turn, ...]


class FeatureEffect(Answer):
    """A feature's maximum over the output and what follows the change, before and after."""

    index: int
    before: float
    after: float


class TokenEffect(Answer):
    """What becomes of the output without one token, or with another in its place.

    Attributes:
        position: Of the token.
        token: Its text.
        substitute: What stands in its place; None where it was taken out.
        log_prob: Of the output, nats, after the change.
        effect: That less what it was: below 0 where the token spoke for the output.
        features: Effects on features.
    """

    position: int
    token: str
    substitute: str | None = None
    log_prob: float
    effect: float
    features: tuple[FeatureEffect, ...] = ()


class AblateAnswer(Answer):
    """What each input token does for the output.

    Attributes:
        model: As in :class:`EncodeAnswer`.
        sae: Whose features were looked at; None for none.
        token_ids: What was read, the output included.
        tokens: The same as text.
        n_dropped: As in :class:`EncodeAnswer`; what was left out is the end of the output.
        n_input: Where the output begins.
        log_prob: Of the output as it is, nats.
        features: That were looked at, with their maxima over the passage.
        ablations: Tokens of the input, in order.
        counterfactuals: The most important token's first; of one token the largest effect first.
    """

    model: str
    sae: str | None
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    n_dropped: int = 0
    n_input: int
    log_prob: float
    features: tuple[Peak, ...] = ()
    ablations: tuple[TokenEffect, ...]
    counterfactuals: tuple[TokenEffect, ...] = ()
