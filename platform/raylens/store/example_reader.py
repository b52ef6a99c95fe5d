"""A feature's example sets out of a cache: its own rows and the windows they lie in, and no scan.

Features are served in batches, so that a group of windows that many of them need is read once. What is
kept between batches is bounded: the parsed windows of the last ones, and three numbers a window of the cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from raylens.config import ExampleConfig
from raylens.errors import InputError
from raylens.examples.cut import WindowTokens, cut_around, cut_piece
from raylens.examples.excerpt import ExampleSets, Excerpt
from raylens.examples.negatives import random_negatives
from raylens.examples.pieces import FeatureRows, Pieces, active_pieces
from raylens.examples.sampling import choose, feature_rng
from raylens.examples.universe import Universe
from raylens.ids import SaeId
from raylens.store.reader import CacheReader

Part = Literal["train", "train_negatives", "test", "test_negatives"]
PARTS: Final[tuple[Part, ...]] = ("train", "train_negatives", "test", "test_negatives")
TRAIN: Final[tuple[Part, ...]] = ("train", "train_negatives")
TEST: Final[tuple[Part, ...]] = ("test", "test_negatives")
"""Of :class:`ExampleSets`; who explains needs the first two, and who scores the others."""

_KEPT_WINDOWS: Final = 32_768
_COLUMNS: Final = ["doc_id", "start", "token_ids", "token_offsets", "text"]


@dataclass(frozen=True, slots=True)
class Unusable:
    """Why a feature has no examples: ``status`` for rows, ``reason`` for people, and in how many pieces it fires."""

    status: str
    reason: str
    n_pieces: int


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a source of negatives may look at.

    Attributes:
        feature: Whose negatives.
        candidates: ``[c]`` int64, rising numbers of the pieces it may take: full, of the right documents.
        active: ``[a]`` int64, rising numbers of the pieces in which the feature fires.
        shown: ``[m]`` int64, numbers of the activating pieces that were chosen, strongest first.
        n: How many are wanted.
        rng: Of this feature and this side alone.
    """

    feature: int
    candidates: NDArray[np.int64]
    active: NDArray[np.int64]
    shown: NDArray[np.int64]
    n: int
    rng: np.random.Generator


@dataclass(frozen=True, eq=False)
class Negatives:
    """Pieces in which a feature is silent.

    Attributes:
        numbers: ``[n]`` int64, of :class:`Universe`.
        n_random: How many of them are random where nearer ones were wanted.
    """

    numbers: NDArray[np.int64]
    n_random: int = 0


NegativeSource = Callable[[Drawn], Negatives]
"""Chooses pieces in which a feature is silent."""

SourceFor = Callable[["ExampleReader"], NegativeSource]
"""Makes the source of one reader's negatives: what fires where is known to the reader alone."""


def at_random(drawn: Drawn) -> Negatives:
    """Any silent pieces, without replacement, where nothing nearer is wanted."""
    return Negatives(random_negatives(drawn.candidates, drawn.active, drawn.n, drawn.rng))


def random_source(_: ExampleReader) -> NegativeSource:
    """Random negatives for any reader."""
    return at_random


def require_examples(reader: CacheReader) -> None:
    """Refuse a cache in which it is not known where a feature is silent, or what keeps examples apart.

    Raises:
        InputError: It holds an analysis that was taken in, or its windows run across documents.
    """
    if not reader.holds_all:
        raise InputError(
            f"cache {reader.cache_id} holds a colleague's analysis: the strongest windows of each feature, and not "
            "where it is silent.",
            hint="make a cache of this SAE with raylens cache; what the analysis says can be read as it is.",
        )
    if reader.info["identity"]["pack"]:
        raise InputError(
            f"cache {reader.cache_id} was packed: its windows run across documents, which keep examples apart.",
            hint="cache the text again without --pack.",
        )


class ExampleReader:
    """Builds :class:`ExampleSets`.

    Args:
        reader: The cache.
        sae: Whose features.
        config: Lengths, numbers, samplings, seed.
        negatives: Makes the source of silent pieces, when all else of the reader is there; at random by default.

    Raises:
        InputError: The cache was packed, holds a part of the activations, or is too small to be split by document.
        DamagedFileError: A file is missing, truncated, or fails a checksum.
    """

    def __init__(
        self, reader: CacheReader, sae: SaeId, config: ExampleConfig, negatives: SourceFor = random_source
    ) -> None:
        require_examples(reader)
        reader.d_sae(sae)
        self.reader, self.sae, self.config = reader, sae, config
        self.n_prefix = len(reader.info["prefix_ids"])
        self._kept: OrderedDict[int, WindowTokens] = OrderedDict()
        doc_id, n_tokens = reader.window_sizes()
        n_text = n_tokens - self.n_prefix
        self.universe = Universe.of(doc_id, n_text, config.example_ctx_len, config.seed, config.test_share)
        self._candidates = {test: self.universe.candidates(test=test) for test in (False, True)}
        if not self.universe.full.any():
            longest = int(n_text.max(initial=0))
            raise InputError(
                f"excerpts of {config.example_ctx_len} tokens do not fit: the longest window of cache "
                f"{reader.cache_id} has {longest} tokens of text.",
                hint=f"choose --example-ctx-len {longest} or less, or cache with a larger --ctx-len.",
            )
        if not all(map(len, self._candidates.values())):
            raise InputError(
                f"cache {reader.cache_id} has too few documents to keep explaining and scoring apart.",
                hint=f"cache more text: at least two documents of {config.example_ctx_len} tokens, better hundreds.",
            )
        self.negatives = negatives(self)

    def sets(
        self, features: Iterable[int], batch: int = 32, parts: Collection[Part] = PARTS
    ) -> Iterator[tuple[int, ExampleSets | Unusable]]:
        """Each feature with its examples, or why it has none, in the order given.

        Args:
            features: Which.
            batch: How many are read at a time.
            parts: What is wanted of the sets; the others are empty, and those wanted are the same whatever else is.

        Raises:
            InputError: The SAE has no such feature.
            DamagedFileError: A file is missing, truncated, or fails a checksum.
        """
        features = iter(features)
        while some := list(islice(features, batch)):
            chosen = [(feature, self._choose(feature, parts)) for feature in some]
            self._fetch([one for _, one in chosen if isinstance(one, _Choice)])
            for feature, one in chosen:
                yield feature, self._cut(one) if isinstance(one, _Choice) else one

    def excerpts(self, numbers: Sequence[int] | NDArray[np.int64]) -> list[Excerpt]:
        """Pieces by number, as text on which nothing fires."""
        window, piece = self.universe.places(np.asarray(numbers, np.int64))
        self._load(np.unique(window).tolist())
        return [
            cut_piece(_SILENT, self._look, w, p, self.config.example_ctx_len, None)
            for w, p in zip(window.tolist(), piece.tolist(), strict=True)
        ]

    def active_numbers(self, feature: int) -> NDArray[np.int64]:
        """Numbers of the pieces in which a feature fires, rising."""
        return self.universe.numbers(active_pieces(self._rows(feature), self.config.example_ctx_len, self.n_prefix))

    def _rows(self, feature: int) -> FeatureRows:
        return FeatureRows.of(*self.reader.rows(self.sae, feature), self.n_prefix)

    def _choose(self, feature: int, parts: Collection[Part]) -> _Choice | Unusable:
        config = self.config
        rows = self._rows(feature)
        pieces = active_pieces(rows, config.example_ctx_len, self.n_prefix)
        if len(pieces) < config.min_examples:
            status = "too_few" if len(pieces) else "dead"
            what = (
                f"fires in {len(pieces)} excerpts, fewer than {config.min_examples}" if len(pieces) else "never fires"
            )
            return Unusable(status, f"feature {feature} {what}", len(pieces))
        active = self.universe.numbers(pieces)
        is_test = self.universe.is_test[pieces.window_id]
        shown: list[tuple[Pieces, NDArray[np.int64]]] = []
        silent: list[Negatives] = []
        for test, n in ((False, config.n_examples_train), (True, config.n_examples_test)):
            side: Part = "test" if test else "train"
            own = np.flatnonzero(is_test == test)
            if not len(own):
                reason = f"feature {feature} fires in no document of the {side} half"
                return Unusable("one_sided", reason, len(pieces))
            beside: Part = "test_negatives" if test else "train_negatives"
            # Near negatives are near to what is shown, so that is chosen for them too.
            rng = feature_rng(config.seed, str(self.sae), feature, side)
            picked, band = choose(pieces.peak[own], n, config.sampling, rng, config.n_quantiles)
            shown.append((pieces.take(own[picked]), band) if side in parts else (pieces.take(_NONE), _NONE))
            if beside not in parts:
                silent.append(Negatives(_NONE))
                continue
            rng = feature_rng(config.seed, str(self.sae), feature, f"{side} negatives")
            drawn = Drawn(feature, self._candidates[test], active, active[own[picked]], config.n_non_activating, rng)
            silent.append(self.negatives(drawn))
        rate = len(pieces) / len(self.universe)
        numbers = (silent[0].numbers, silent[1].numbers)
        n_random = sum(one.n_random for one in silent)
        return _Choice(rows, (shown[0], shown[1]), numbers, float(pieces.peak.max()), rate, n_random)

    def _fetch(self, choices: Sequence[_Choice]) -> None:
        """Read the windows that these choices lie in, and those that a centred excerpt reaches into."""
        wanted: list[NDArray[np.integer]] = []
        reach = self.config.example_ctx_len
        for choice in choices:
            wanted += [self.universe.places(numbers)[0] for numbers in choice.silent]
            for pieces, _ in choice.shown:
                wanted.append(pieces.window_id)
                if self.config.center_examples:
                    size = self.universe.n_text_tokens[pieces.window_id] + self.n_prefix
                    wanted += [
                        pieces.window_id[pieces.position - self.n_prefix < reach] - 1,
                        pieces.window_id[size - pieces.position < reach] + 1,
                    ]
        if wanted:
            ids = np.unique(np.concatenate(wanted))
            self._load(ids[(ids >= 0) & (ids < len(self.universe.doc_id))].tolist())

    def _cut(self, choice: _Choice) -> ExampleSets:
        length, rows = self.config.example_ctx_len, choice.rows
        shown: list[tuple[Excerpt, ...]] = []
        for pieces, bands in choice.shown:
            places = zip(*(a.tolist() for a in (pieces.window_id, pieces.piece, pieces.position, bands)), strict=True)
            shown.append(
                tuple(
                    cut_around(rows, self._look, window, position, length, band)
                    if self.config.center_examples
                    else cut_piece(rows, self._look, window, piece, length, band)
                    for window, piece, position, band in places
                )
            )
        silent: list[tuple[Excerpt, ...]] = []
        for numbers in choice.silent:
            window, piece = self.universe.places(numbers)
            silent.append(
                tuple(
                    cut_piece(_SILENT, self._look, w, p, length, None)
                    for w, p in zip(window.tolist(), piece.tolist(), strict=True)
                )
            )
        train, test = shown
        return ExampleSets(train, test, silent[0], silent[1], choice.max_activation, choice.rate, choice.n_random)

    def _look(self, window_id: int) -> WindowTokens | None:
        if not 0 <= window_id < len(self.universe.doc_id):
            return None
        if window_id not in self._kept:
            self._load([window_id])
        return self._kept[window_id]

    def _load(self, window_ids: Sequence[int]) -> None:
        for known in window_ids:
            if known in self._kept:
                self._kept.move_to_end(known)
        missing = [window_id for window_id in window_ids if window_id not in self._kept]
        if missing:
            table = self.reader.windows(missing, _COLUMNS)
            ids, offsets = table["token_ids"].combine_chunks(), table["token_offsets"].combine_chunks()
            ends, all_ids = ids.offsets.to_numpy(), ids.values.to_numpy()
            offset_ends, all_offsets = offsets.offsets.to_numpy(), offsets.values.to_numpy()
            plain = zip(missing, *(table[name].to_pylist() for name in ("doc_id", "start", "text")), strict=True)
            for row, (window_id, doc_id, start, text) in enumerate(plain):
                own = slice(ends[row], ends[row + 1])
                own_offsets = slice(offset_ends[row], offset_ends[row + 1])
                self._kept[window_id] = WindowTokens(
                    window_id, doc_id, start, all_ids[own], all_offsets[own_offsets], text, self.n_prefix
                )
        while len(self._kept) > max(_KEPT_WINDOWS, len(window_ids)):
            self._kept.popitem(last=False)


@dataclass(frozen=True, eq=False)
class _Choice:
    """Which pieces are shown of one feature, before they are cut: explainers' first, then scorers'."""

    rows: FeatureRows
    shown: tuple[tuple[Pieces, NDArray[np.int64]], tuple[Pieces, NDArray[np.int64]]]
    silent: tuple[NDArray[np.int64], NDArray[np.int64]]
    max_activation: float
    rate: float
    n_random: int


_NONE: Final = np.zeros(0, np.int64)
_SILENT: Final = FeatureRows(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
